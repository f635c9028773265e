"""Directional message passing: the layers that DimeNet and DimeNet++ have in common, and their course.

A message m_ji lives on the directed edge with centre i and neighbour j. It hears of the messages m_kj on
the edges with centre j and neighbour k ≠ i: in the triplets of kind ``path``, ``first`` is the edge ji and
``second`` the edge kj.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.nn.elements import ElementEmbedding
from kinetograph.nn.mlp import mlp
from kinetograph.nn.model import COVARIANT, GRADIENT, Head, Model, Offer, Outputs
from kinetograph.nn.other_edges import OtherEdges
from kinetograph.nn.radial import BesselBasis, polynomial_envelope
from kinetograph.nn.segments import sum_to
from kinetograph.nn.spherical import SphericalBesselBasis, zonal_harmonics

BasisForm = Literal["code", "paper"]
RadialFilter = Literal["kj", "ji"]
EmbeddingForm = Literal["code", "paper"]
ReadoutInit = Literal["zeros", "glorot"]

BASIS_FORMS = ("code", "paper")
RADIAL_FILTERS = ("kj", "ji")
READOUT_INITS = ("zeros", "glorot")
EMBEDDING_FORMS = ("code", "paper")


def glorot_orthogonal(weight: Tensor) -> None:
    """Fill a matrix with orthogonal rows or columns of Glorot's variance, 2 / (n_in + n_out)."""
    with torch.no_grad():
        nn.init.orthogonal_(weight)
        weight *= torch.sqrt(2.0 / (sum(weight.shape) * weight.var(correction=0)))


def dense(n_in: int, n_out: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer that starts orthogonal, without bias or with one that starts at zero."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    glorot_orthogonal(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class RadialBasis(nn.Module):
    """e_n(d) with trainable frequencies f_n that start at n π; x = d/c, u the envelope.

    ``"paper"``: u(x) √(2/c) sin(f_n x) / d, DimeNet, eqs. (7) and (8).
    ``"code"``: u(x) sin(f_n x) / x, the same up to a constant.
    """

    def __init__(self, n_radial: int, cutoff: float, envelope_power: int, form: BasisForm) -> None:
        super().__init__()
        self.bessel = BesselBasis(n_radial, cutoff)
        self.cutoff = cutoff
        self.envelope_power = envelope_power
        self.scale = cutoff * math.sqrt(0.5 * cutoff) if form == "code" else 1.0

    def forward(self, distances: Tensor) -> Tensor:
        """(n_edges,) → (n_edges, n_radial)."""
        envelope = polynomial_envelope(distances / self.cutoff, self.envelope_power)
        basis: Tensor = self.bessel(distances)
        return basis * (self.scale * envelope).unsqueeze(1)


class SphericalBasis(nn.Module):
    """R_ln(d), the radial part of a_ln(d, α) = R_ln(d) Y_l0(α); N_ln normalises j_l(z_ln x) on the unit ball.

    ``"paper"``: u(x) c^(−3/2) N_ln j_l(z_ln x), DimeNet, eqs. (6) and (8).
    ``"code"``: u(x) / x · N_ln j_l(z_ln x): the envelope of the program is u(x)/x, which suits the radial
    basis, and it is applied here too.
    """

    def __init__(
        self, n_spherical: int, n_radial: int, cutoff: float, envelope_power: int, form: BasisForm
    ) -> None:
        super().__init__()
        self.bessel = SphericalBesselBasis(n_spherical, n_radial)
        self.cutoff = cutoff
        self.envelope_power = envelope_power
        self.form = form

    def forward(self, distances: Tensor) -> Tensor:
        """(n_edges,) → (n_edges, n_spherical, n_radial)."""
        x = distances / self.cutoff
        envelope = polynomial_envelope(x, self.envelope_power)
        factor = envelope / x if self.form == "code" else envelope * self.cutoff**-1.5
        basis: Tensor = self.bessel(x)
        return basis * factor[:, None, None]


class TripletBasis(nn.Module):
    """Σ_ln W_(b, ln) R_ln(d_kj) Y_l0(α) for every triplet.

    The sum over n depends on the edge kj alone and is done once per edge, not once per triplet.
    """

    def __init__(self, n_spherical: int, n_radial: int, n_out: int) -> None:
        super().__init__()
        self.shape = (n_spherical, n_radial)
        self.linear = dense(n_spherical * n_radial, n_out, bias=False)

    def forward(self, radial: Tensor, paths: Paths) -> Tensor:
        """(n_triplets, n_out).

        Args:
            radial: (n_edges, n_spherical, n_radial), see :class:`SphericalBasis`.
        """
        total = radial.new_zeros(len(paths.second), self.linear.out_features)
        weight = self.linear.weight.reshape(-1, *self.shape)
        coefficients = torch.einsum("eln,bln->leb", radial, weight)
        for harmonic, coefficient in zip(paths.harmonics.unbind(dim=1), coefficients, strict=True):
            total = total + harmonic.unsqueeze(1) * coefficient.index_select(0, paths.second)
        return total

    def of_edges(self, radial: Tensor, turns: Turns, then: Tensor | None = None) -> Tensor:
        """(n_edges, n_spherical, n_out): Σ_n W_(b, ln) R_ln(d_kj) with the factors of the turns.

        Args:
            then: (n_out, basis_width) of a matrix that follows.
        """
        weight = self.linear.weight if then is None else then @ self.linear.weight
        return torch.einsum("eln,bln->elb", radial, weight.reshape(-1, *self.shape) * turns.factors)


@dataclass(frozen=True)
class Paths:
    """Every triplet k → j → i one by one."""

    first: Tensor
    """(n_triplets,) the edge ji."""
    second: Tensor
    """(n_triplets,) the edge kj."""
    harmonics: Tensor
    """(n_triplets, n_spherical) Y_l0(α)."""


class Turns:
    """Sums over the same triplets without a list of them.

    The edges kj are the others of the centre of ij, the edge that goes back from ji, and make the angle π − α
    with it: Y_l0(α) is (−1)^l Y_l0(π − α).
    """

    def __init__(self, others: OtherEdges, reverse: Tensor) -> None:
        self.others, self.reverse = others, reverse
        signs = (-1.0) ** torch.arange(others.n_l, device=reverse.device)
        self.factors = others.norms * signs.to(others.norms).unsqueeze(1)
        """(n_spherical, 1) what filters are multiplied with, to be those of Y_l0(α)."""

    def gather(self, x: Tensor) -> Tensor:
        """(n_edges, n_spherical, width), with the factors in it → (n_edges, width): Σ_k Σ_l Y_l0(α) x_l."""
        return self.others.gather(x).index_select(0, self.reverse)

    def combine(self, x: Tensor, filters: Tensor) -> Tensor:
        """Σ_k (Σ_l Y_l0(α) f_lb) x, (n_edges, n_filters, width).

        Args:
            x: (n_edges, width).
            filters: (n_edges, n_spherical, n_filters), with the factors in them.
        """
        return self.others.combine(x, filters).index_select(0, self.reverse)


class MessageEmbedding(nn.Module):
    """m_ji = σ(W [h_i; h_j; σ(W′ e(d_ji) + b′)] + b), DimeNet, eq. (9).

    W acts on the parts of the concatenation one by one, on those of the atoms before they are
    copied to the edges.

    Args:
        form: ``"code"``: with bias and activation inside the brackets, as in the program; ``"paper"``: a
            linear map of the basis there.
    """

    def __init__(
        self,
        elements: Sequence[int],
        width: int,
        n_radial: int,
        element_table: int | None = None,
        form: EmbeddingForm = "code",
    ) -> None:
        super().__init__()
        self.activates = form == "code"
        self.elements = ElementEmbedding(elements, width, table=element_table)
        nn.init.uniform_(self.elements.weight, -math.sqrt(3.0), math.sqrt(3.0))
        self.from_basis = dense(n_radial, width, bias=self.activates)
        whole = dense(3 * width, width)
        self.from_center = nn.Linear(width, width, bias=False)
        self.from_neighbor = nn.Linear(width, width, bias=False)
        self.from_edge = nn.Linear(width, width)
        parts = (self.from_center, self.from_neighbor, self.from_edge)
        for part, weight in zip(parts, whole.weight.detach().chunk(3, dim=1), strict=True):
            part.weight = nn.Parameter(weight.clone())
        nn.init.zeros_(self.from_edge.bias)

    def forward(self, radial: Tensor, graph: Graph) -> Tensor:
        """(n_edges, n_radial) → (n_edges, width)."""
        nodes = self.elements(graph.atomic_numbers)
        center = self.from_center(nodes).index_select(0, graph.center)
        neighbor = self.from_neighbor(nodes).index_select(0, graph.neighbor)
        basis = self.from_basis(radial)
        edge = self.from_edge(nn.functional.silu(basis) if self.activates else basis)
        return nn.functional.silu(center + neighbor + edge)


class Residual(nn.Module):
    """x + σ(W₂ σ(W₁ x + b₁) + b₂)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = dense(width, width)
        self.second = dense(width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.silu(self.first(x))
        return x + nn.functional.silu(self.second(inner))


class MessageUpdate(nn.Module):
    """From a message and what it heard to the next message: residual layers around a skip connection."""

    def __init__(self, width: int, n_before_skip: int, n_after_skip: int) -> None:
        super().__init__()
        self.own = dense(width, width)
        self.before_skip = nn.Sequential(*(Residual(width) for _ in range(n_before_skip)))
        self.to_skip = dense(width, width)
        self.after_skip = nn.Sequential(*(Residual(width) for _ in range(n_after_skip)))

    def forward(self, messages: Tensor, heard: Tensor) -> Tensor:
        """(n_edges, width), (n_edges, width) → (n_edges, width)."""
        h = self.before_skip(nn.functional.silu(self.own(messages)) + heard)
        h = nn.functional.silu(self.to_skip(h)) + messages
        out: Tensor = self.after_skip(h)
        return out


class AtomReadout(nn.Module):
    """E_i = MLP(W′ Σ_j (W e(d_ji)) ∘ m_ji): the output block.

    Args:
        readout_width: of the MLP; ``None``: that of the messages, without the matrix W′ to get there.
    """

    def __init__(
        self, width: int, n_radial: int, readout_width: int | None, n_dense: int, init: ReadoutInit
    ) -> None:
        super().__init__()
        self.filter = dense(n_radial, width, bias=False)
        self.up: nn.Module = nn.Identity()
        if readout_width is not None:
            self.up = dense(width, readout_width, bias=False)
            width = readout_width
        self.dense = nn.ModuleList(dense(width, width) for _ in range(n_dense))
        self.last = dense(width, 1, bias=False)
        if init == "zeros":
            nn.init.zeros_(self.last.weight)

    def forward(self, messages: Tensor, radial: Tensor, graph: Graph) -> Tensor:
        """(n_edges, width), (n_edges, n_radial) → (n_atoms,)."""
        nodes = self.up(sum_to(graph.center, self.filter(radial) * messages, graph.n_atoms))
        for layer in self.dense:
            nodes = nn.functional.silu(layer(nodes))
        energies: Tensor = self.last(nodes)[:, 0]
        return energies


class MessageForces(nn.Module):
    """F_i = Σ_j ½ (f_ij + f_ji) u(d/c) û_ij with f_ji = MLP(m_ji): forces without an energy.

    Both directions of a pair have one strength, so that the net force is zero.
    """

    exact = COVARIANT | {"net force", "torque", "smoothness"}

    def __init__(self, width: int, cutoff: float, envelope_power: int) -> None:
        super().__init__()
        self.mlp = mlp([width, width, 1], nn.SiLU)
        self.cutoff = cutoff
        self.envelope_power = envelope_power

    def forward(self, messages: Tensor, graph: Graph) -> Tensor:
        """(n_edges, width) → (n_atoms, 3)."""
        assert graph.reverse is not None
        strength: Tensor = self.mlp(messages)[:, 0]
        strength = 0.5 * (strength + strength.index_select(0, graph.reverse))
        strength = strength * polynomial_envelope(graph.distances / self.cutoff, self.envelope_power)
        return sum_to(graph.center, strength.unsqueeze(1) * graph.unit_vectors, graph.n_atoms)


class DirectionalModel(Model):
    """The embedding gives the first messages, every interaction the next ones, each a part of the energy.

    A model of this kind sets what is listed here. An interaction is called as ``(messages, radial,
    spherical, meeting)``, the last being the triplets, listed or not; direct forces are read off the last
    messages.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "conservative": Offer("native"),
        "direct": Offer("extended", "pair forces read off the last messages, alike in both directions"),
    }

    n_spherical: int
    radial_basis: RadialBasis
    spherical_basis: SphericalBasis
    embedding: MessageEmbedding
    interactions: nn.ModuleList
    energy_head: nn.ModuleList
    """An ``AtomReadout`` behind the embedding and one behind every interaction; with conservative forces."""
    force_head: MessageForces
    """With direct forces."""

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        # At fixed angles the forces still act along the lines between pairs, so there is no torque either.
        gradient = GRADIENT if self.true_gradient else GRADIENT - {"curl"}
        every: dict[Head, frozenset[str]] = {
            "conservative": gradient | {"smoothness"},
            "direct": MessageForces.exact,
        }
        return {head: every[head] for head in self.heads}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        radial = self.radial_basis(graph.distances)
        spherical = self.spherical_basis(graph.distances)
        meeting = self.meeting(graph)
        messages = [self.embedding(radial, graph)]
        for interaction in self.interactions:
            messages.append(interaction(messages[-1], radial, spherical, meeting))
        energies = forces = None
        if "conservative" in heads:
            blocks = zip(self.energy_head, messages, strict=True)
            energies = torch.stack([block(m, radial, graph) for block, m in blocks]).sum(dim=0)
        if "direct" in heads:
            forces = self.force_head(messages[-1], graph)
        return Outputs(energies=energies, forces=forces)

    def meeting(self, graph: Graph) -> Paths | Turns:
        """The triplets of a graph, one by one where it has a list of them."""
        if graph.triplets is None:  # a graph for running or training
            assert graph.reverse is not None
            units = graph.unit_vectors if self.true_gradient else graph.unit_vectors.detach()
            others = OtherEdges(graph, units, self.n_spherical, fused=self.takes_operators(units))
            return Turns(others, graph.reverse)
        cosines = self.cosines(graph)
        harmonics = zonal_harmonics(cosines if self.true_gradient else cosines.detach(), self.n_spherical)
        return Paths(graph.triplets.first, graph.triplets.second, harmonics)

    def cosines(self, graph: Graph) -> Tensor:
        """(n_triplets,) cos α = û_ij · û_jk, α the angle by which the path k → j → i turns at j."""
        assert graph.triplets is not None
        units, (first, second) = graph.unit_vectors, (graph.triplets.first, graph.triplets.second)
        return (units.index_select(0, first) * units.index_select(0, second)).sum(dim=1)
