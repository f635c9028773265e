"""PaiNN: polarizable atom interaction neural network.

K. T. Schütt, O. T. Unke, M. Gastegger, ICML 2021, arXiv:2102.03150. Atoms carry scalars and vectors.
Networks see scalars and distances only, directions enter by multiplication, so every scalar is
invariant and every vector turns with the structure.

==================================  ==============================================================
paper                               here
==================================  ==============================================================
s_i, scalar features                ``scalars`` (n_atoms, width), first ``PaiNN.embedding``
v_i, vector features                ``vectors`` (n_atoms, 3, width), first zero
r_ij, from i to j                   ``graph.edge_vectors``, as a unit vector ``units``
sin(n π d/c) / d                    ``SineBasis``
f_cut(d), cosine                    ``nn.radial.cosine_cutoff``
Δs_i, Δv_i of messages, (7), (8)    ``Message``
𝒲, filters of three kinds           ``Message.filter``, 3 ``width`` rows: for s, from s to v, for v
φ, atom-wise network                ``Message.phi``, 3 ``width`` outputs in the same order
Δs_i, Δv_i of updates, (9), (10)    ``Update``
U, V                                ``Update.mix``, in this order
a_ss, a_sv, a_vv                    ``Update.gates``, in this order
gated equivariant block, fig. 3     ``GatedBlock``
==================================  ==============================================================

The paper's form is 128 features, three layers, 20 radial functions, a cosine cutoff. Where the paper is
silent, the form of the authors' program, SchNetPack: a readout whose hidden layer is half as wide, a
small number under the root of ‖V v‖ (``norm_epsilon``), without which it has no derivative where a
vector vanishes, Xavier's uniform distribution for weights and zero for biases.

Equal in function, less work: the cutoff function multiplies the radial functions instead of the
filters, which are linear in them (their bias is the weight of the constant function); φ ∘ v is formed
once per atom instead of on every edge; the first layer leaves out the vectors that are zero; while weights
are trained on a CPU the sums over neighbours are compiled (``kernels.painn_training``).

Ours: direct forces, read off the vectors; radial weights of their own for every bond type; Gaussians
and a polynomial cutoff as options; the last layer of the energy head and of the linear force head
starts at a tenth, so that training does not begin with forces far larger than those it is shown. Sums
over neighbours are not scaled: from water to copper the features of an untrained model stay of order
one, with 90 neighbours and six layers.

``force_head="linear"`` is F_i = Σ_f g(s_i)_f v_if with a network g; ``"gated"`` is two of the paper's
gated equivariant blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from kinetograph.bonds import BondRule
from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest
from kinetograph.kernels import library
from kinetograph.kernels.painn_training import library_to_train_with, painn_messages
from kinetograph.kernels.spline import SHORTEST_A
from kinetograph.nn.elements import ElementEmbedding
from kinetograph.nn.heads import EnergyHead
from kinetograph.nn.mlp import mlp
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
    check_choice,
    md17,
    option_key,
    require_offer,
)
from kinetograph.nn.radial import GaussianBasis, cosine_cutoff, polynomial_envelope
from kinetograph.nn.segments import sum_to
from kinetograph.running.painn import PaiNNInference, PaiNNOnGpu

Radial = Literal["bessel", "gaussian"]
CutoffFunction = Literal["cosine", "polynomial"]
ForceHead = Literal["linear", "gated"]

_PAPER_SIZE = {"width": 128, "n_layers": 3, "n_radial": 20}

PRESETS = {
    "painn-small": Preset(
        "painn",
        "48 features, 3 layers, direct forces: trains in minutes on one core",
        {"width": 48, "n_layers": 3, "n_radial": 20},
        forces="direct",
        learning_rate=2e-3,
    ),
    "painn": Preset(
        "painn",
        "the paper's size with direct forces",
        _PAPER_SIZE,
        forces="direct",
        learning_rate=1e-3,
    ),
    "painn-large": Preset(
        "painn",
        "256 features, 4 layers, direct forces",
        {"width": 256, "n_layers": 4, "n_radial": 20},
        forces="direct",
        learning_rate=5e-4,
    ),
    "painn-energy": Preset(
        "painn",
        "the paper's size and forces: the gradient of an energy",
        _PAPER_SIZE,
        forces="conservative",
        learning_rate=1e-3,
        published=md17(
            "PaiNN, ICML 2021, as quoted in the open review of NeurIPS 2023, submission 11322",
            {
                "aspirin": 16.1,
                "ethanol": 10.0,
                "malonaldehyde": 13.8,
                "naphthalene": 3.6,
                "salicylic acid": 9.1,
                "toluene": 4.4,
                "uracil": 6.1,
            },
        ),
    ),
    "painn-both": Preset(
        "painn",
        "the paper's size with an energy and direct forces on one trunk",
        _PAPER_SIZE,
        forces="both",
        learning_rate=1e-3,
    ),
}

POLYNOMIAL_POWER = 6


class SineBasis(nn.Module):
    """sin(n π d/c) / d, n = 1 … N, with fixed frequencies: the basis of DimeNet as PaiNN has it."""

    def __init__(self, n_functions: int, cutoff: float) -> None:
        super().__init__()
        self.n_functions = n_functions
        self.cutoff = cutoff

    def forward(self, distances: Tensor) -> Tensor:
        """(n,) Å → (n, n_functions) 1/Å."""
        d = distances.unsqueeze(1)
        n = torch.arange(1, self.n_functions + 1, dtype=d.dtype, device=d.device)
        return torch.sin(d * (n * (math.pi / self.cutoff))) / d


class Message(nn.Module):
    """What its neighbours add to the scalars and vectors of an atom.

    Δs_i = Σ_j φ_s(s_j) ∘ 𝒲_s(d_ij), eq. (7), and
    Δv_i = Σ_j v_j ∘ φ_vv(s_j) ∘ 𝒲_vv(d_ij) + Σ_j φ_vs(s_j) ∘ 𝒲_vs(d_ij) r̂_ij, eq. (8).
    """

    def __init__(self, width: int, n_radial: int, n_edge_types: int) -> None:
        super().__init__()
        self.phi = mlp([width, width, 3 * width], nn.SiLU)
        # For every edge type a column per radial function and one for the constant function.
        self.filter = nn.Linear(n_edge_types * (n_radial + 1), 3 * width, bias=False)
        self.apply(_start)
        with torch.no_grad():
            columns = self.filter.weight.view(3 * width, n_edge_types, n_radial + 1)
            for kind in range(n_edge_types):
                nn.init.xavier_uniform_(columns[:, kind, :n_radial])
            columns[:, :, n_radial] = 0.0

    def forward(
        self, scalars: Tensor, vectors: Tensor | None, inputs: Tensor, units: Tensor, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """Changes of the scalars (n_atoms, width) and of the vectors (n_atoms, 3, width).

        Args:
            vectors: ``None`` where all are zero.
            inputs: (n_edges, …) by ``PaiNN.filter_inputs``.
            units: (n_edges, 3) from centre to neighbour.
        """
        phi = self.phi(scalars)
        native = library_to_train_with(scalars.shape[1], phi, vectors, inputs)
        if native is not None:  # the same in one pass
            sent, phi_vv = phi.tensor_split([2 * scalars.shape[1]], dim=1)
            product = None if vectors is None else phi_vv.unsqueeze(1) * vectors
            return painn_messages(
                *(native, sent, product, inputs, units, self.filter.weight), graph.center, graph.neighbor
            )
        # Split before the edges are reached: pieces of an edge tensor cost a copy in every derivative.
        filter_s, filter_vs, filter_vv = self.filter.weight.chunk(3)
        phi_s, phi_vs, phi_vv = phi.chunk(3, dim=1)

        # Δs_i = Σ_j φ_s(s_j) ∘ W_s(d_ij)
        to_scalars = phi_s.index_select(0, graph.neighbor) * nn.functional.linear(inputs, filter_s)
        # Δv_i = Σ_j φ_vs(s_j) ∘ W_vs(d_ij) u_ij + v_j ∘ φ_vv(s_j) ∘ W_vv(d_ij)
        along = phi_vs.index_select(0, graph.neighbor) * nn.functional.linear(inputs, filter_vs)
        to_vectors = along.unsqueeze(1) * units.unsqueeze(2)
        if vectors is not None:
            sent = (phi_vv.unsqueeze(1) * vectors).index_select(0, graph.neighbor)
            to_vectors = to_vectors + sent * nn.functional.linear(inputs, filter_vv).unsqueeze(1)
        return (
            sum_to(graph.center, to_scalars, graph.n_atoms),
            sum_to(graph.center, to_vectors, graph.n_atoms),
        )


class Update(nn.Module):
    """What the scalars and vectors of an atom do to each other.

    Δs_i = a_ss + a_sv ⟨U v_i, V v_i⟩, eq. (9), and Δv_i = a_vv U v_i, eq. (10); the networks a see s_i and
    ‖V v_i‖.
    """

    def __init__(self, width: int, norm_epsilon: float) -> None:
        super().__init__()
        self.norm_epsilon = norm_epsilon
        self.mix = nn.Linear(width, 2 * width, bias=False)
        self.gates = mlp([2 * width, width, 3 * width], nn.SiLU)
        self.apply(_start)

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of both, of their shapes."""
        u, v = self.mix(vectors).chunk(2, dim=2)
        seen = torch.cat([scalars, _lengths(v, self.norm_epsilon)], dim=1)
        a_ss, a_sv, a_vv = self.gates(seen).chunk(3, dim=1)
        # Δs_i = a_ss + a_sv ⟨U v_i, V v_i⟩, Δv_i = a_vv U v_i
        return a_ss + a_sv * (u * v).sum(dim=1), a_vv.unsqueeze(1) * u


class LinearForceHead(nn.Module):
    """F_i = Σ_f g(s_i)_f v_if: the vectors weighted by a network of the scalars."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights = mlp([width, width, width], nn.SiLU)
        self.apply(_start)
        _start_small(self.weights[-1])

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        """(n_atoms, width), (n_atoms, 3, width) → (n_atoms, 3)."""
        weights: Tensor = self.weights(scalars)
        return (weights.unsqueeze(1) * vectors).sum(dim=2)


class GatedBlock(nn.Module):
    """The paper's gated equivariant block: new scalars, and new vectors weighted by a network."""

    def __init__(self, width: int, n_out: int, norm_epsilon: float) -> None:
        super().__init__()
        self.norm_epsilon = norm_epsilon
        self.mix = nn.Linear(width, 2 * n_out, bias=False)
        self.gates = mlp([width + n_out, width, 2 * n_out], nn.SiLU)
        self.apply(_start)

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(n_atoms, width), (n_atoms, 3, width) → (n_atoms, n_out), (n_atoms, 3, n_out)."""
        v, w = self.mix(vectors).chunk(2, dim=2)
        seen = torch.cat([scalars, _lengths(v, self.norm_epsilon)], dim=1)
        new, gate = self.gates(seen).chunk(2, dim=1)
        return new, gate.unsqueeze(1) * w


class GatedForceHead(nn.Module):
    """Two gated equivariant blocks, to half the width and to one vector."""

    def __init__(self, width: int, norm_epsilon: float) -> None:
        super().__init__()
        self.first = GatedBlock(width, width // 2, norm_epsilon)
        self.second = GatedBlock(width // 2, 1, norm_epsilon)

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        """(n_atoms, width), (n_atoms, 3, width) → (n_atoms, 3)."""
        scalars, vectors = self.first(scalars, vectors)
        force: Tensor = self.second(nn.functional.silu(scalars), vectors)[1]
        return force.squeeze(2)


class PaiNN(Model):
    """PaiNN with direct forces, the gradient of an energy, or both.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å.
        width: number of scalar and of vector features of an atom (128 in the paper).
        n_layers: message and update blocks (3).
        n_radial: radial functions (20).
        radial: ``"bessel"``, the paper's, or ``"gaussian"``, as many from zero to the cutoff.
        cutoff_function: ``"cosine"``, the paper's: forces are continuous where an atom crosses the
            cutoff; ``"polynomial"``: their first derivatives are too.
        force_head: how direct forces are read off; see the module's docstring.
        norm_epsilon: added to ‖V v‖² under the root, positive.
        element_table: rows of the table of elements (100 in the authors' program), of which row 0
            belongs to none; by default one row for each of ``elements``.
        max_bond_separation: largest number of bonds that makes an edge type with radial weights of
            its own; 0: bonds are not used.

    Raises:
        UserError: an impossible size or an unknown option.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "direct": Offer("native", "read off the vector features"),
        "conservative": Offer("native"),
    }

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "direct",
        width: int = 128,
        n_layers: int = 3,
        n_radial: int = 20,
        radial: Radial = "bessel",
        cutoff_function: CutoffFunction = "cosine",
        force_head: ForceHead = "linear",
        norm_epsilon: float = 1e-8,
        element_table: int | None = None,
        max_bond_separation: int = 0,
    ) -> None:
        super().__init__()
        require_offer(PaiNN, forces)
        check_choice("radial", radial, ("bessel", "gaussian"))
        check_choice("cutoff_function", cutoff_function, ("cosine", "polynomial"))
        check_choice("force_head", force_head, ("linear", "gated"))
        for name, value, least in (("width", width, 2), ("n_layers", n_layers, 1), ("n_radial", n_radial, 2)):
            if value < least:
                raise UserError(
                    f"PaiNN needs {name} of at least {least}, not {value}", where=option_key(name)
                )
        if not norm_epsilon > 0.0:
            raise UserError(
                f"norm_epsilon is {norm_epsilon:g}, but must be positive",
                where=option_key("norm_epsilon"),
                mend="Without it training meets 0/0 where a vector vanishes.",
            )
        self.forces = forces
        self.cutoff_function = cutoff_function
        rule = BondRule(max_separation=max_bond_separation) if max_bond_separation else None
        self.request = GraphRequest(cutoff=cutoff, bond_rule=rule, n_layers=n_layers)
        self.n_edge_types = rule.n_types if rule else 1

        self.basis: SineBasis | GaussianBasis
        if radial == "bessel":
            self.basis = SineBasis(n_radial, cutoff)
        else:
            self.basis = GaussianBasis(0.0, cutoff, n_radial)
        self.embedding = ElementEmbedding(elements, width, table=element_table)
        self.messages = nn.ModuleList(Message(width, n_radial, self.n_edge_types) for _ in range(n_layers))
        self.updates = nn.ModuleList(Update(width, norm_epsilon) for _ in range(n_layers))
        if "conservative" in self.heads:
            self.energy_head = EnergyHead(width, width // 2)
            self.energy_head.apply(_start)
            _start_small(self.energy_head.mlp[-1])
        if "direct" in self.heads:
            self.force_head: LinearForceHead | GatedForceHead
            if force_head == "linear":
                self.force_head = LinearForceHead(width)
            else:
                self.force_head = GatedForceHead(width, norm_epsilon)

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        exact: dict[Head, frozenset[str]] = {
            "direct": COVARIANT | {"smoothness"},
            "conservative": GRADIENT | {"smoothness"},
        }
        return {head: exact[head] for head in self.heads}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        scalars = self.embedding(graph.atomic_numbers)
        vectors: Tensor | None = None
        inputs = self.filter_inputs(graph.distances, graph.edge_types)
        units = graph.unit_vectors
        for message, update in zip(self.messages, self.updates, strict=True):
            to_scalars, to_vectors = message(scalars, vectors, inputs, units, graph)
            scalars = scalars + to_scalars
            vectors = to_vectors if vectors is None else vectors + to_vectors
            to_scalars, to_vectors = update(scalars, vectors)
            scalars, vectors = scalars + to_scalars, vectors + to_vectors
        return Outputs(
            energies=self.energy_head(scalars) if "conservative" in heads else None,
            forces=self.force_head(scalars, vectors) if "direct" in heads else None,
        )

    def filter_inputs(self, distances: Tensor, edge_types: Tensor | None) -> Tensor:
        """What the filters are linear in: (n_edges,) Å → (n_edges, n_edge_types × (n_radial + 1)).

        Radial functions and the constant function, times the cutoff function; zero in the columns of
        all edge types but the edge's own.
        """
        functions = self.radial_functions(distances)
        if self.n_edge_types == 1 or edge_types is None:
            return functions
        kind = nn.functional.one_hot(edge_types, self.n_edge_types).to(functions.dtype)
        return (kind.unsqueeze(2) * functions.unsqueeze(1)).flatten(1)

    def radial_functions(self, distances: Tensor) -> Tensor:
        functions = self.basis(distances)
        functions = torch.cat([functions, torch.ones_like(functions[:, :1])], dim=1)
        cutoff = self.request.cutoff
        if self.cutoff_function == "cosine":
            envelope = cosine_cutoff(distances, cutoff)
        else:
            envelope = polynomial_envelope(distances / cutoff, POLYNOMIAL_POWER)
        return functions * envelope.unsqueeze(1)

    def inference_form(self) -> InferenceForm | None:
        native = library()
        gated = "direct" in self.heads and isinstance(self.force_head, GatedForceHead)
        if native is None or gated or self.request.cutoff <= SHORTEST_A:
            return None
        with torch.no_grad():
            return PaiNNInference(native, self)

    def gpu_form(self) -> GpuForm | None:
        return None if self.request.cutoff <= SHORTEST_A else PaiNNOnGpu(self)


def _lengths(vectors: Tensor, epsilon: float) -> Tensor:
    """√(‖v‖² + ε): (n, 3, width) → (n, width), with derivatives of every order."""
    return (vectors.square().sum(dim=1) + epsilon).sqrt()


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _start_small(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.mul_(0.1)
