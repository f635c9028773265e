"""GemNet: messages on directed edges that meet under angles (T) and dihedral angles (Q).

J. Gasteiger, F. Becker, S. Günnemann, "GemNet: Universal directional graph neural networks for molecules",
NeurIPS 2021, arXiv:2106.08903. One file for its four variants: GemNet-T lets the edges of an atom hear each
other (``quadruplets=False``), GemNet-Q in addition the edges at the two ends of a longer link
(``quadruplets=True``); with forces as the gradient of an energy, or direct ones (dT, dQ).

==================================  ==================================================================
paper                               here
==================================  ==================================================================
edge c → a, m_ca                    ``edges[e]``, ``graph.center[e]`` = a, ``graph.neighbor[e]`` = c
m_ac                                ``edges[graph.reverse]``
h_a                                 ``nodes``
triplet c → a ← b                   ``graph.triplets``: ``first`` is ca, ``second`` is ba
quadruplet c → a — b ← d            ``graph.quadruplets``: ``target`` is ca, ``link`` ab, ``source`` db
internal cutoff c_int               ``link_cutoff``
e_RBF                               ``BesselBasis`` under the envelope
e_CBF (of ca, ∠cab)                 ``SphericalBesselBasis`` under the envelope, ``zonal_harmonics``
e_CBF (of ab, ∠abd)                 the same at the length of the link
e_SBF (of ca, ∠cab, ∠cabd)          the same with ``real_harmonics``, in ``nn.quadruplets``
one-hop message passing, T-MP       ``TripletMessages``
two-hop message passing, Q-MP       ``QuadrupletMessages``
efficient bilinear layer            ``nn.efficient.NeighborSum``, ``RadialDown``, ``EfficientBilinear``
symmetric message passing           ``SymmetricUp``
atom self-interaction               ``nn.edge_states.AtomUpdate``, then ``EdgeEmbedding``
scaling factors, section 6          ``nn.efficient.ScaleFactor``, fitted in ``GemNet.fit_statistics``
output block                        ``GemNet.readout_radial``, ``nn.edge_states.EnergyReadout`` and
                                    ``ForceReadout``
t_a = Σ_c F_ca û_ca                 û_ca points from c to a and is ``−graph.unit_vectors``
==================================  ==================================================================

There is not one bias: an isolated atom has the energy zero whatever its element, and everything that an edge
says to others vanishes with the envelope at the cutoff.

Sizes, initialisation, the activation SiLU/0.6 and the place of every factor are those of the authors'
program. ``forces_coupled`` is its option: F_ca and F_ac are replaced by their mean, so that direct forces
come in pairs along the line between two atoms, with neither a net force nor a torque.

The published direct variants predict an energy, too, which is not the potential of their forces. With
``separate_energy`` they do so here, and have 2,302,534 weights (dT) and 2,568,710 (dQ) at the paper's size.
Without it, 410,240 weights fewer, they give forces alone. ``forces="both"``, whose energy is the potential of
the conservative forces, has the weights of the published direct ones.

A dihedral angle is taken between 0 and π, as published. Three consequences of the published form:

* A molecule and its mirror image are one and the same to it: energies are even under reflection, and
  forces turn with it.
* Where four atoms lie in a plane the energy has a kink, as |sin φ| has: forces jump when a structure passes
  through planarity.
* Where a, b and d lie on a line a dihedral angle does not exist, and the energy depends on the direction from
  which the line is approached.

Ours: within a thousandth of them the kink is rounded off and the direction fades out (``nn.quadruplets``), so
that forces are continuous and their derivatives finite everywhere.

Ours, equal in function: no angle is formed, only cosines and their polynomials; concatenations are applied
in parts, those of atoms before they are copied to edges; sums over lists run in short rows in place of one
table as wide as the largest neighbourhood, and trainings list no triplets (``nn.other_edges``); the part
(ab, bd) of a quadruplet is worked out once for all its c. Ours in addition: all scale factors are fitted
in one pass over the first training frames. Left out: the program divides the gradients of the weights that
blocks share by the number of blocks, which an optimiser of Adam's kind hardly notices.

Cost: there are n_atoms × (atoms within ``link_cutoff``) × (neighbours)² quadruplets, which is for molecules.
For liquids and solids take triplets, which also run faster on a CPU once trained (``running.gemnet``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest
from kinetograph.kernels import library
from kinetograph.kernels.spline import SHORTEST_A
from kinetograph.nn.edge_states import AtomUpdate, EdgeEmbedding, EnergyReadout, ForceReadout
from kinetograph.nn.efficient import (
    INV_SQRT_2,
    AngularSum,
    Dense,
    EfficientBilinear,
    NeighborSum,
    RadialDown,
    ScaleFactor,
    degree_of,
    fitting_scales,
    joined,
    residuals,
)
from kinetograph.nn.elements import ElementEmbedding
from kinetograph.nn.model import (
    COVARIANT,
    GRADIENT,
    Forces,
    GpuForm,
    Head,
    InferenceForm,
    Model,
    Offer,
    Outputs,
    Preset,
    Published,
    md17,
    option_key,
    require_offer,
)
from kinetograph.nn.other_edges import OtherEdges
from kinetograph.nn.quadruplets import arms_of
from kinetograph.nn.radial import BesselBasis, polynomial_envelope
from kinetograph.nn.segments import sum_to
from kinetograph.nn.spherical import SphericalBesselBasis, zonal_harmonics
from kinetograph.running.gemnet import GemNetInference

_SIZES = {"width": 128, "edge_width": 128, "n_layers": 4, "element_table": 93}


def _preset(forces: Forces, *, quadruplets: bool, published: tuple[Published, ...] = ()) -> Preset:
    meet = "triplets and quadruplets (of which solids hold very many)" if quadruplets else "triplets"
    given = "forces from the energy"
    options = {"quadruplets": quadruplets, **_SIZES}
    if forces == "direct":
        given = "direct forces and an energy apart from them"
        options["separate_energy"] = True
    about = f"sizes of the paper, {meet}, {given}"
    return Preset("gemnet", about, options, forces=forces, learning_rate=1e-3, published=published)


_QM7_X = Published(
    "QM7-x test, trained on 3.2 million frames, force MAE",
    0.0043,
    "eV/Å",
    "Stocker et al., Mach. Learn.: Sci. Technol. 3, 045010 (2022)",
)


_PAPER = "GemNet, NeurIPS 2021, arXiv:2106.08903"
_OC20 = tuple(
    Published(
        f"OC20 S2F val ID, force MAE, of a network of 512 features trained on {frames}",
        error,
        "eV/Å",
        "Open Catalyst Project, list of pretrained models",
    )
    for frames, error in (("2 million frames", 0.0257), ("all", 0.0211))
)

PRESETS = {
    "gemnet-t": _preset(
        "conservative",
        quadruplets=False,
        published=md17(_PAPER, {"aspirin": 9.5, "benzene": 6.3, "naphthalene": 2.4}),
    ),
    "gemnet-q": _preset(
        "conservative", quadruplets=True, published=(*md17(_PAPER, {"aspirin": 9.4, "benzene": 6.3}), _QM7_X)
    ),
    "gemnet-dt": _preset("direct", quadruplets=False, published=_OC20),
    "gemnet-dq": _preset("direct", quadruplets=True),
}

N_SCALE_SYSTEMS = 32
N_SCALE_ATOMS = 512
"""Scale factors are fitted to the first frames up to so many structures or atoms, whichever comes first."""


@dataclass(frozen=True)
class Bases:
    """Everything that depends on geometry alone, worked out once for all blocks."""

    radial: Tensor
    """(n_edges, n_radial) e_RBF."""
    to_atoms: Tensor
    """(n_edges, rbf_width) for the atom updates."""
    to_readouts: Tensor
    """(n_edges, rbf_width) for the output blocks."""
    triplet_radial: Tensor
    """(n_edges, rbf_width) at ba."""
    triplet_circular: Tensor
    """(n_edges, n_angular, cbf_width) at ca."""
    triplet_sum: NeighborSum | AngularSum
    """Over b."""
    quadruplets: QuadrupletBases | None


@dataclass(frozen=True)
class QuadrupletBases:
    """The same for quadruplets. A chain a — b ← d, for all its c, is called an arm."""

    radial: Tensor
    """(n_edges, rbf_width) at db."""
    arm_source: Tensor
    """(n_arms,) the edge db."""
    arm_circular: Tensor
    """(n_arms, cbf_width) of the length ab and the angle abd."""
    spherical: Tensor
    """(n_edges, n_angular, sbf_width) at ca."""
    sum: NeighborSum
    """Over b and d, of values at arms."""


class SymmetricUp(nn.Module):
    """(σ(W x_ca) + σ(W′ x_ac)) / √2: what an edge has heard, and what the one that goes back has."""

    def __init__(self, n_in: int, edge_width: int) -> None:
        super().__init__()
        self.own = Dense(n_in, edge_width, activated=True)
        self.other = Dense(n_in, edge_width, activated=True)

    def forward(self, x: Tensor, reverse: Tensor) -> Tensor:
        """(n_edges, n_in) → (n_edges, edge_width)."""
        summed: Tensor = self.own(x) + self.other(x).index_select(0, reverse)
        return summed * INV_SQRT_2


class TripletMessages(nn.Module):
    """What the edge ca hears of the edges ba, b ≠ c, under the angle cab."""

    def __init__(
        self, edge_width: int, triplet_width: int, rbf_width: int, cbf_width: int, bilinear_width: int
    ) -> None:
        super().__init__()
        self.source = Dense(edge_width, edge_width, activated=True)
        self.radial = Dense(rbf_width, edge_width)
        self.scale_radial = ScaleFactor()
        self.down = Dense(edge_width, triplet_width, activated=True)
        self.bilinear = EfficientBilinear(triplet_width, cbf_width, bilinear_width)
        self.scale_sum = ScaleFactor()
        self.up = SymmetricUp(bilinear_width, edge_width)

    def forward(self, edges: Tensor, bases: Bases, reverse: Tensor) -> Tensor:
        """(n_edges, edge_width) → (n_edges, edge_width)."""
        source = self.source(edges)
        source = self.scale_radial(source * self.radial(bases.triplet_radial), source)
        source = self.down(source)
        heard = self.bilinear(bases.triplet_circular, bases.triplet_sum(source))
        heard = self.scale_sum(heard, source, bases.triplet_sum.entry_source)
        out: Tensor = self.up(heard, reverse)
        return out


class QuadrupletMessages(nn.Module):
    """What the edge ca hears of the edges db, b within the link cutoff of a, all four atoms different."""

    def __init__(
        self,
        edge_width: int,
        quadruplet_width: int,
        rbf_width: int,
        cbf_width: int,
        sbf_width: int,
        bilinear_width: int,
    ) -> None:
        super().__init__()
        self.source = Dense(edge_width, edge_width, activated=True)
        self.radial = Dense(rbf_width, edge_width)
        self.scale_radial = ScaleFactor()
        self.down = Dense(edge_width, quadruplet_width, activated=True)
        self.circular = Dense(cbf_width, quadruplet_width)
        self.scale_circular = ScaleFactor()
        self.bilinear = EfficientBilinear(quadruplet_width, sbf_width, bilinear_width)
        self.scale_sum = ScaleFactor()
        self.up = SymmetricUp(bilinear_width, edge_width)

    def forward(self, edges: Tensor, bases: QuadrupletBases, reverse: Tensor) -> Tensor:
        """(n_edges, edge_width) → (n_edges, edge_width)."""
        source = self.source(edges)
        source = self.scale_radial(source * self.radial(bases.radial), source)
        arms = self.down(source).index_select(0, bases.arm_source)
        arms = self.scale_circular(arms * self.circular(bases.arm_circular), arms)
        heard = self.bilinear(bases.spherical, bases.sum(arms))
        heard = self.scale_sum(heard, arms, bases.sum.entry_source)
        out: Tensor = self.up(heard, reverse)
        return out


class Interaction(nn.Module):
    """One block: the edges hear each other, then the atoms hear their edges, then the edges their atoms."""

    def __init__(
        self,
        width: int,
        edge_width: int,
        rbf_width: int,
        triplets: TripletMessages,
        quadruplets: QuadrupletMessages | None,
        n_before_skip: int,
        n_after_skip: int,
        n_concat: int,
        n_atom: int,
    ) -> None:
        super().__init__()
        self.skip = Dense(edge_width, edge_width, activated=True)
        self.triplets = triplets
        self.quadruplets = quadruplets
        self.before_skip = residuals(edge_width, n_before_skip)
        self.after_skip = residuals(edge_width, n_after_skip)
        self.atom_update = AtomUpdate(width, edge_width, rbf_width, n_atom)
        self.concat = EdgeEmbedding(width, edge_width, edge_width)
        self.after_concat = residuals(edge_width, n_concat)

    def forward(self, nodes: Tensor, edges: Tensor, bases: Bases, graph: Graph) -> tuple[Tensor, Tensor]:
        """(n_atoms, width), (n_edges, edge_width) → the same."""
        assert graph.reverse is not None
        parts = [self.skip(edges), self.triplets(edges, bases, graph.reverse)]
        if self.quadruplets is not None:
            parts.append(self.quadruplets(edges, bases.quadruplets, graph.reverse))
        x = sum(parts) / math.sqrt(len(parts))
        edges = self.after_skip((edges + self.before_skip(x)) * INV_SQRT_2)
        nodes = (nodes + self.atom_update(edges, bases.to_atoms, graph)) * INV_SQRT_2
        x = self.after_concat(self.concat(nodes, edges, graph))
        return nodes, (edges + x) * INV_SQRT_2


class GemNet(Model):
    """GemNet-T or, with quadruplets, GemNet-Q; direct forces make them dT and dQ.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å (5 in the paper, for molecules).
        quadruplets: whether edges at the two ends of a link hear each other.
        link_cutoff: Å: largest length of such a link, used with quadruplets only.
        forces_coupled: direct forces only: let every pair obey Newton's third law.
        separate_energy: direct forces only: predict an energy, too, which they are not the gradient of.
        width, edge_width: sizes of atom states and of edge states.
        n_layers: interaction blocks.
        triplet_width, quadruplet_width: sizes that edge states are brought to where edges meet.
        rbf_width, cbf_width, sbf_width: sizes that the bases are brought to, in weights shared by all blocks.
        triplet_bilinear, quadruplet_bilinear: sizes of what the bilinear layers give.
        n_spherical, n_radial: degrees l and radial functions n of the bases.
        envelope_power: p of the envelope.
        n_before_skip, n_after_skip, n_concat, n_atom: residual layers of a block before and after its skip
            connection, after its concatenation, and in atom updates and output blocks.
        element_table: rows of the table of element embeddings, from hydrogen on (93 in the authors'
            program); by default one row per element of ``elements``.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "direct": Offer("native", "GemNet-dT and -dQ: a strength for every directed edge"),
        "conservative": Offer("native", "GemNet-T and -Q"),
    }

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "conservative",
        quadruplets: bool = False,
        link_cutoff: float = 10.0,
        forces_coupled: bool = False,
        separate_energy: bool = False,
        width: int = 128,
        edge_width: int = 128,
        n_layers: int = 4,
        triplet_width: int = 64,
        quadruplet_width: int = 32,
        rbf_width: int = 16,
        cbf_width: int = 16,
        sbf_width: int = 32,
        triplet_bilinear: int = 64,
        quadruplet_bilinear: int = 32,
        n_spherical: int = 7,
        n_radial: int = 6,
        envelope_power: int = 5,
        n_before_skip: int = 1,
        n_after_skip: int = 1,
        n_concat: int = 1,
        n_atom: int = 2,
        element_table: int | None = None,
    ) -> None:
        super().__init__()
        require_offer(GemNet, forces)
        if link_cutoff <= 0:
            raise UserError(
                f"links of at most {link_cutoff:g} Å hold no atoms",
                where=option_key("link_cutoff"),
                mend="Give it in Å, positive; the paper has 10.",
            )
        self.forces = forces
        self.forces_coupled = forces_coupled
        self.separate_energy = separate_energy and forces == "direct"
        self.cutoff, self.link_cutoff = cutoff, link_cutoff
        self.quadruplets = quadruplets
        self.n_spherical = n_spherical
        self.envelope_power = envelope_power
        # In a block an edge hears of the edges at its ends, or a link away, and then of those that its
        # atoms heard of: two cutoffs, or two and a link. The first edge of an atom is one more.
        step = cutoff + link_cutoff if quadruplets else cutoff
        reach = n_layers * (step + cutoff) + cutoff
        self.request = GraphRequest(
            cutoff=cutoff,
            n_layers=math.ceil(reach / step - 1e-9),
            reverse=True,
            triplets="fork",
            link_cutoff=link_cutoff if quadruplets else None,
        )

        self.embedding = ElementEmbedding(elements, width, table=element_table, first=1)
        nn.init.uniform_(self.embedding.weight, -math.sqrt(3.0), math.sqrt(3.0))
        self.edge_embedding = EdgeEmbedding(width, n_radial, edge_width)

        # Bases and the first matrix after each, shared by all blocks.
        self.bessel = BesselBasis(n_radial, cutoff)
        self.spherical_bessel = SphericalBesselBasis(n_spherical, n_radial)
        self.atom_radial = Dense(n_radial, rbf_width)
        self.shared_readout_radial = Dense(n_radial, rbf_width)
        self.triplet_radial = Dense(n_radial, rbf_width)
        self.triplet_circular = RadialDown(list(range(n_spherical)), n_radial, cbf_width)
        if quadruplets:
            self.quadruplet_radial = Dense(n_radial, rbf_width)
            self.quadruplet_circular = Dense(n_spherical * n_radial, cbf_width)
            self.quadruplet_spherical = RadialDown(degree_of(n_spherical), n_radial, sbf_width)

        triplet = (edge_width, triplet_width, rbf_width, cbf_width, triplet_bilinear)
        quadruplet = (edge_width, quadruplet_width, rbf_width, cbf_width, sbf_width, quadruplet_bilinear)
        self.layers = nn.ModuleList(
            Interaction(
                width,
                edge_width,
                rbf_width,
                TripletMessages(*triplet),
                QuadrupletMessages(*quadruplet) if quadruplets else None,
                n_before_skip,
                n_after_skip,
                n_concat,
                n_atom,
            )
            for _ in range(n_layers)
        )

        # Output blocks: one after the embedding and one after every layer; both heads read the same products.
        n_readouts = n_layers + 1
        self.readout_radial = nn.ModuleList(Dense(rbf_width, edge_width) for _ in range(n_readouts))
        if "conservative" in self.heads or self.separate_energy:
            self.energy_head = nn.ModuleList(
                EnergyReadout(width, edge_width, n_atom) for _ in range(n_readouts)
            )
        if "direct" in self.heads:
            self.force_head = nn.ModuleList(ForceReadout(edge_width, n_atom) for _ in range(n_readouts))

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        pairs = {"net force", "torque"} if self.forces_coupled else set()
        known: dict[Head, frozenset[str]] = {
            "direct": COVARIANT | {"smoothness"} | pairs,
            "conservative": GRADIENT | {"smoothness"},
        }
        return {head: known[head] for head in self.heads}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        bases = self._bases(graph)
        nodes = self.embedding(graph.atomic_numbers)
        edges = self.edge_embedding(nodes, bases.radial, graph)
        energies: list[Tensor] = []
        strengths: list[Tensor] = []
        for number, readout_radial in enumerate(self.readout_radial):
            if number > 0:
                nodes, edges = self.layers[number - 1](nodes, edges, bases, graph)
            filtered = edges * readout_radial(bases.to_readouts)
            if "conservative" in heads or self.separate_energy:
                energies.append(self.energy_head[number](filtered, edges, graph))
            if "direct" in heads:
                strengths.append(self.force_head[number](filtered, edges))
        return Outputs(
            energies=torch.stack(energies).sum(dim=0) if energies else None,
            forces=self.along_edges(torch.stack(strengths).sum(dim=0), graph) if strengths else None,
        )

    def along_edges(self, strengths: Tensor, graph: Graph) -> Tensor:
        if self.forces_coupled:
            assert graph.reverse is not None
            strengths = 0.5 * (strengths + strengths.index_select(0, graph.reverse))
        # A positive F_ca pushes a away from c.
        return sum_to(graph.center, -strengths.unsqueeze(1) * graph.unit_vectors, graph.n_atoms)

    def _bases(self, graph: Graph) -> Bases:
        envelope = polynomial_envelope(graph.distances / self.cutoff, self.envelope_power)
        radial = self.bessel(graph.distances) * envelope.unsqueeze(1)
        spherical = self.of_lengths(graph.distances, self.cutoff)
        units = graph.unit_vectors
        return Bases(
            radial=radial,
            to_atoms=self.atom_radial(radial),
            to_readouts=self.shared_readout_radial(radial),
            triplet_radial=self.triplet_radial(radial),
            triplet_circular=self.triplet_circular(spherical),
            triplet_sum=self._triplet_sum(graph, units),
            quadruplets=None
            if self.request.link_cutoff is None
            else self._quadruplet_bases(graph, units, radial, spherical),
        )

    def _triplet_sum(self, graph: Graph, units: Tensor) -> NeighborSum | AngularSum:
        if graph.triplets is None:  # a graph for running or training
            fused = self.takes_operators(units)
            return AngularSum(OtherEdges(graph, units, self.n_spherical, fused=fused))
        first, second = graph.triplets.first, graph.triplets.second
        cosine = (units.index_select(0, first) * units.index_select(0, second)).sum(dim=1)  # cos ∠cab
        return NeighborSum(zonal_harmonics(cosine, self.n_spherical), first, second, graph.n_edges)

    def of_lengths(self, distances: Tensor, cutoff: float) -> Tensor:
        """(n, n_spherical, n_radial): u(x) c^(−3/2) N_ln j_l(z_ln x), x = d/c."""
        x = distances / cutoff
        envelope = polynomial_envelope(x, self.envelope_power) * math.pow(cutoff, -1.5)
        basis: Tensor = self.spherical_bessel(x)
        return basis * envelope[:, None, None]

    def _quadruplet_bases(
        self, graph: Graph, units: Tensor, radial: Tensor, spherical: Tensor
    ) -> QuadrupletBases:
        assert graph.links is not None
        arms = arms_of(graph, units, self.n_spherical)
        length = self.of_lengths(graph.links.distances, self.link_cutoff).index_select(0, arms.link)
        circular = length * zonal_harmonics(arms.cosine, self.n_spherical).unsqueeze(2)
        return QuadrupletBases(
            radial=self.quadruplet_radial(radial),
            arm_source=arms.source,
            arm_circular=self.quadruplet_circular(circular.flatten(1)),
            spherical=self.quadruplet_spherical(spherical),
            sum=arms.sum,
        )

    @property
    def inference_request(self) -> GraphRequest:
        return self.request if self.quadruplets else replace(self.request, triplets=None)

    @property
    def training_request(self) -> GraphRequest:
        return replace(self.request, triplets=None)

    def gpu_form(self) -> GpuForm | None:
        return None if self.quadruplets else copy.deepcopy(self).requires_grad_(False)

    def inference_form(self) -> InferenceForm | None:
        native = library()
        if native is None or self.quadruplets or self.cutoff <= SHORTEST_A:
            return None
        with torch.no_grad():
            return GemNetInference(native, self)

    def fit_statistics(self, graphs: Iterable[Graph], forces: Iterable[Tensor]) -> None:
        """Fit the scale factors, in the order in which data pass them, to the first frames.

        Graphs are those of ``request``: factors are fitted to what stands on listed triplets.
        """
        few: list[Graph] = []
        for graph in graphs:
            few.append(graph)
            n_systems, n_atoms = sum(g.n_systems for g in few), sum(g.n_atoms for g in few)
            if n_systems >= N_SCALE_SYSTEMS or n_atoms >= N_SCALE_ATOMS:
                break
        if few:
            with fitting_scales(self):
                self(joined(few), self.heads)
