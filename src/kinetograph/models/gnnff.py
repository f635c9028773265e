"""GNNFF: graph neural network force field.

C. W. Park, M. Kornbluth, J. Vandermause, C. Wolverton, B. Kozinsky, J. P. Mailoa, npj Comput. Mater. 7, 73
(2021), doi:10.1038/s41524-021-00543-3. States on atoms and on directed edges, both blind to orientation; the
force on an atom is a sum of scalars read off its edges, each along its edge.

====================================  ============================================================
paper                                 here
====================================  ============================================================
N_i, the nearest neighbours of i      the edges with centre i
h_i, node state                       ``nodes`` (n_atoms, width), first ``GNNFF.node_embedding``
h_(i,j), edge state                   ``edges`` (n_edges, edge_width) in the slot with centre i and
                                      neighbour j, first ``GNNFF.basis`` of the distance
update of h_i, eq. (3)                ``NodeBlock``
c¹, W₁, W₂                            ``NodeBlock.pair``: gate and core stacked in one matrix
update of h_(i,j), eq. (5)            ``EdgeBlock``; eq. (4) names the states of nodes that it reads
c², W₃, W₄                            ``EdgeBlock.two_body``
c³, W₅, W₆                            ``EdgeBlock.three_body``: i → j → k, a pair of edges (ij, jk)
n_ij = f_f(h_(i,j))                   ``GNNFF.force_head``
F = Σ n u, eq. (8)                    ``GNNFF.forward``
====================================  ============================================================

A neighbour of an atom need not have that atom among its own neighbours, and the paper writes its sums now
over the edges that leave an atom and now over those that enter it. Here one slot per (centre, neighbour)
serves all of them: the update of the centre, the sum over triplets and the force on the centre.

A matrix that acts on a concatenation is split, W (a ⊕ b) = W_a a + W_b b, exactly the same: products with
states are taken once per atom and once per edge, and a triplet costs additions and its gate.

Three forms, as presets:

``gnnff``
    as the paper writes it: the nearest neighbours, no normalisation. What it leaves open is ours: its sizes,
    the 12 neighbours (12 and those tied with the last; fewer where the cutoff holds fewer), a table of one
    vector per element for f_a (a network of a one-hot vector is a table), one hidden layer in f_f. The text
    writes c² and c³ with the old states of the nodes, eq. (4) with the new ones, which is the default here.
``gnnff-code`` and ``gnnff-pyg``
    as two public programs compute it: github.com/ken2403/gnnff, and PyTorch Geometric, whose
    ``GNNFF(128, 50, 3)`` has these 376,111 parameters. Both read every neighbour within the cutoff and
    normalise over the batch; they differ in the options from ``n_embedding_layers`` to ``sign``. Not taken
    over: the first lets empty places of its padded neighbour lists into the statistics of the batch, the
    second keeps 32 neighbours, not the nearest ones, where an atom has more.
``gnnff-smooth`` and ``gnnff-energy``
    ours: every message, force and reading of an edge is multiplied by an envelope that vanishes at the
    cutoff, so nothing jumps, and an energy can be differentiated. An atom's energy is read off its state and
    the sum of its edges' states (ken2403's reads nodes alone, and leaves the last edge update unread).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest
from kinetograph.kernels import library
from kinetograph.nn.activations import ShiftedSoftplus
from kinetograph.nn.batch_norm import BatchNorm
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
    Published,
    check_choice,
    option_key,
    require_offer,
)
from kinetograph.nn.radial import GaussianBasis, polynomial_envelope
from kinetograph.nn.segments import sum_to
from kinetograph.running.gnnff import GNNFFInference, GNNFFOnGpu

Neighborhood = Literal["nearest", "radius"]
Normalization = Literal["none", "sums", "all"]
ForceNetwork = Literal["halving", "even"]
Sign = Literal["repulsive", "attractive"]

_PAPER = "GNNFF, npj Comput. Mater. 7, 73 (2021)"
_RELATIVE = "mean norm of the force error over mean norm of the force"

PRESETS = {
    "gnnff": Preset(
        "gnnff",
        "as the paper writes it, in sizes of our choice",
        {"width": 128, "edge_width": 50, "n_layers": 3, "n_neighbors": 12},
        learning_rate=1e-3,
        published=(
            Published("ISO17 known molecules, force MAE", 0.036, "eV/Å", _PAPER),
            Published("ISO17 unknown molecules, force MAE", 0.088, "eV/Å", _PAPER),
            *(
                Published(f"{material}, {element}, {_RELATIVE}", value, "%", _PAPER)
                for material, values in (
                    ("Li4P2O7", {"Li": 13, "O": 10, "P": 10}),
                    ("Al2O3-HF", {"Al": 14, "F": 14, "H": 14, "O": 15}),
                )
                for element, value in values.items()
            ),
        ),
    ),
    "gnnff-code": Preset(
        "gnnff",
        "as ken2403/gnnff computes it, in the sizes of its example",
        {
            "neighborhood": "radius",
            "width": 50,
            "edge_width": 50,
            "n_layers": 3,
            "element_table": 100,
            "gaussian_inset": 0.5,
            "trainable_gaussians": True,
            "normalization": "sums",
            "sign": "attractive",
        },
        learning_rate=1e-4,
    ),
    "gnnff-pyg": Preset(
        "gnnff",
        "as PyTorch Geometric computes it",
        {
            "neighborhood": "radius",
            "width": 128,
            "edge_width": 50,
            "n_layers": 3,
            "element_table": 95,
            "n_embedding_layers": 2,
            "gaussian_stop": 5.0,
            "normalization": "all",
            "way_back": False,
            "force_network": "even",
        },
        learning_rate=1e-3,
    ),
    "gnnff-smooth": Preset(
        "gnnff",
        "all neighbours within the cutoff under an envelope: forces without jumps",
        {"neighborhood": "radius", "envelope": True, "width": 64, "edge_width": 32, "n_layers": 2},
        learning_rate=1e-3,
    ),
    "gnnff-energy": Preset(
        "gnnff",
        "the same with an energy, whose gradient the forces are",
        {"neighborhood": "radius", "envelope": True, "width": 64, "edge_width": 32, "n_layers": 2},
        forces="conservative",
        learning_rate=1e-3,
    ),
}

ENVELOPE_EXPONENT = 6
TRIPLETS_AT_ONCE = 1 << 20
"""Triplets are worked through in portions of this size, to bound memory."""


class TrainableGaussians(nn.Module):
    """exp(−(d − μ_k)² / 2w_k²) with trainable centres μ and widths w, which start evenly spaced."""

    def __init__(self, stop: float, n_functions: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.linspace(0.0, stop, n_functions))
        self.widths = nn.Parameter(torch.full((n_functions,), stop / (n_functions - 1)))

    def forward(self, distances: Tensor) -> Tensor:
        """(n,) Å → (n, n_functions)."""
        return torch.exp(-0.5 * ((distances.unsqueeze(1) - self.centers) / self.widths).square())


class JointLinear(nn.Linear):
    """W (x₀ ⊕ x₁ ⊕ …) + b, to be had in parts W_k x_k that are worked out where x_k lives."""

    def __init__(self, widths: Sequence[int], n_out: int) -> None:
        super().__init__(sum(widths), n_out)
        self.widths = list(widths)

    def part(self, k: int, x: Tensor) -> Tensor:
        """W_k x, without the bias."""
        begin = sum(self.widths[:k])
        return functional.linear(x, self.weight[:, begin : begin + self.widths[k]])


def norm(width: int, on: bool) -> nn.Module:
    return BatchNorm(width) if on else nn.Identity()


def gate(x: Tensor) -> Tensor:
    """σ(first half of the columns) ∘ tanh(second half)."""
    openness, core = x.chunk(2, dim=1)
    return torch.sigmoid(openness) * torch.tanh(core)


class NodeBlock(nn.Module):
    """h_i ← tanh[h_i + Σ_j σ(c¹ W₁ + b₁) ∘ tanh(c¹ W₂ + b₂)] with c¹ = h_i ⊕ h_(i,j)."""

    def __init__(self, width: int, edge_width: int, normalization: Normalization) -> None:
        super().__init__()
        self.pair = JointLinear([width, edge_width], 2 * width)
        self.pair_norm = norm(2 * width, normalization == "all")
        self.sum_norm = norm(width, normalization != "none")

    def forward(self, nodes: Tensor, edges: Tensor, graph: Graph, envelope: Tensor | None) -> Tensor:
        pair = self.pair
        before = pair.part(0, nodes).index_select(0, graph.center) + (pair.part(1, edges) + pair.bias)
        message = gate(self.pair_norm(before))
        if envelope is not None:
            message = message * envelope
        # Eq. (3)
        return torch.tanh(nodes + self.sum_norm(sum_to(graph.center, message, graph.n_atoms)))


class EdgeBlock(nn.Module):
    """h_(i,j) ← tanh[h_(i,j) + σ(c² W₃ + b₃) ∘ tanh(c² W₄ + b₄) + Σ_k σ(c³ W₅ + b₅) ∘ tanh(c³ W₆ + b₆)].

    Here c² = h_i ∘ h_j and c³ = h_i ⊕ h_j ⊕ h_k ⊕ h_(i,j) ⊕ h_(j,k), the last one in the slot with centre j
    and neighbour k, which is what the paper calls h_(k,j): the influence of k on j.
    """

    def __init__(self, width: int, edge_width: int, normalization: Normalization) -> None:
        super().__init__()
        self.two_body = nn.Linear(width, 2 * edge_width)
        self.three_body = JointLinear([width, width, width, edge_width, edge_width], 2 * edge_width)
        self.pair_norm = norm(2 * edge_width, normalization == "all")
        self.pair_gate_norm = norm(edge_width, normalization == "all")
        self.triplet_norm = norm(2 * edge_width, normalization == "all")
        self.sum_norm = norm(edge_width, normalization != "none")

    def forward(
        self,
        nodes: Tensor,
        edges: Tensor,
        graph: Graph,
        first: Tensor,
        second: Tensor,
        envelope: Tensor | None,
    ) -> Tensor:
        pair, (of_first, of_second) = self.pair(nodes, graph), self.arguments(nodes, edges, graph)
        total = torch.zeros_like(edges)
        # Statistics of a batch are of all its triplets: no portions while they are made.
        whole = isinstance(self.triplet_norm, BatchNorm) and self.triplet_norm.training
        for a, b in _portions(first, second, whole):
            triplet = gate(self.triplet_norm(of_first[a] + of_second[b]))
            if envelope is not None:
                triplet = triplet * envelope[b]
            total = total.index_add(0, a, triplet)
        # Eq. (5)
        return torch.tanh(edges + pair + self.sum_norm(total))

    def pair(self, nodes: Tensor, graph: Graph) -> Tensor:
        """σ(c² W₃ + b₃) ∘ tanh(c² W₄ + b₄), (n_edges, edge_width)."""
        product = nodes.index_select(0, graph.center) * nodes.index_select(0, graph.neighbor)
        pair: Tensor = self.pair_gate_norm(gate(self.pair_norm(self.two_body(product))))
        return pair

    def arguments(self, nodes: Tensor, edges: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """What the first edge i → j of a triplet gives, and what the second, j → k, whose far end is k."""
        joint = self.three_body
        of_first = (
            joint.part(0, nodes).index_select(0, graph.center)
            + joint.part(1, nodes).index_select(0, graph.neighbor)
            + (joint.part(3, edges) + joint.bias)
        )
        return of_first, joint.part(2, nodes).index_select(0, graph.neighbor) + joint.part(4, edges)


def _portions(first: Tensor, second: Tensor, whole: bool) -> Iterator[tuple[Tensor, Tensor]]:
    if whole or len(first) <= TRIPLETS_AT_ONCE:
        yield first, second
    else:
        for begin in range(0, len(first), TRIPLETS_AT_ONCE):
            yield first[begin : begin + TRIPLETS_AT_ONCE], second[begin : begin + TRIPLETS_AT_ONCE]


class GNNFF(Model):
    """GNNFF with the paper's directed graph of nearest neighbours, or with all neighbours within the cutoff.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å; with ``neighborhood="nearest"`` the radius within which neighbours are looked for.
        neighborhood: which neighbours an atom has. ``None``: the nearest, or all within the cutoff where an
            energy is asked for.
        n_neighbors: how many nearest neighbours; ignored with ``neighborhood="radius"``.
        nearest_required: refuse a structure in which an atom has fewer of them within the cutoff; otherwise
            it does with those there are.
        envelope: whether messages, forces and energies of an edge vanish smoothly at the cutoff. ``None``:
            where an energy is asked for.
        width: size of node states.
        edge_width: size of edge states, which is the number of Gaussians.
        n_layers: message-passing steps.
        n_embedding_layers: linear layers behind the element table, an activation before each.
        element_table: rows of the element table, counted from atomic number 0; ``None``: one per element.
        gaussian_stop: Å, centre of the last Gaussian; ``None``: the cutoff less ``gaussian_inset``.
        gaussian_inset: Å, how far before the cutoff the last Gaussian stands.
        trainable_gaussians: whether centres and widths of the Gaussians are trained.
        normalization: batch normalisation nowhere, after the two sums of a layer, or also around every gate
            (six per layer).
        updated_nodes: whether edges are updated with the new states of their nodes or with the old ones.
        way_back: whether the triplet i → j → i counts.
        force_network: hidden layers of f_f: one of half the edge width, or two of the edge width.
        sign: what a positive scalar of an edge does to the pair. The last layer of f_f is linear, so the two
            are one family of functions; weights carry over with their sign.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "direct": Offer("native"),
        "conservative": Offer(
            "extended",
            "reads all neighbours within the cutoff under a smooth envelope; not with batch normalisation",
        ),
    }

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "direct",
        neighborhood: Neighborhood | None = None,
        n_neighbors: int = 12,
        nearest_required: bool = True,
        envelope: bool | None = None,
        width: int = 128,
        edge_width: int = 50,
        n_layers: int = 3,
        n_embedding_layers: int = 0,
        element_table: int | None = None,
        gaussian_stop: float | None = None,
        gaussian_inset: float = 0.0,
        trainable_gaussians: bool = False,
        normalization: Normalization = "none",
        updated_nodes: bool = True,
        way_back: bool = True,
        force_network: ForceNetwork = "halving",
        sign: Sign = "repulsive",
    ) -> None:
        super().__init__()
        require_offer(GNNFF, forces)
        conservative = forces != "direct"
        self.forces = forces
        self.neighborhood = neighborhood or ("radius" if conservative else "nearest")
        self.envelope = conservative if envelope is None else envelope
        check_choice("neighborhood", self.neighborhood, ("nearest", "radius"))
        check_choice("normalization", normalization, ("none", "sums", "all"))
        check_choice("force_network", force_network, ("halving", "even"))
        check_choice("sign", sign, ("repulsive", "attractive"))
        if min(n_neighbors, n_layers, width) < 1 or edge_width < 2:
            raise ValueError("n_neighbors, n_layers and width must be at least 1, and edge_width at least 2")
        if conservative:
            _require_differentiable(self.neighborhood, self.envelope, normalization)
        self.updated_nodes = updated_nodes
        # h_(i,j) sees j at the start. In a layer it takes in h_k, three edges away where that already holds
        # the layer's own sum over the edges of k; h_i takes in h_(i,j) as it was.
        nearest = self.neighborhood == "nearest"
        self.request = GraphRequest(
            cutoff=cutoff,
            n_layers=2 * n_layers + 1 if updated_nodes else n_layers + 1,
            n_nearest=n_neighbors if nearest else None,
            nearest_required=nearest_required,
            triplets="walk" if way_back else "path",
        )

        layers: list[nn.Module] = [ElementEmbedding(elements, width, table=element_table)]
        for _ in range(n_embedding_layers):
            layers += [ShiftedSoftplus(), nn.Linear(width, width)]
        self.node_embedding = nn.Sequential(*layers)
        stop = cutoff - gaussian_inset if gaussian_stop is None else gaussian_stop
        if stop <= 0.0:
            raise UserError(
                f"the last Gaussian would sit at {stop:g} Å",
                where=option_key("gaussian_inset"),
                mend=f"Give less than the cutoff of {cutoff:g} Å.",
            )
        self.basis = (
            TrainableGaussians(stop, edge_width)
            if trainable_gaussians
            else GaussianBasis(0.0, stop, edge_width)
        )
        self.node_blocks = nn.ModuleList(NodeBlock(width, edge_width, normalization) for _ in range(n_layers))
        self.edge_blocks = nn.ModuleList(EdgeBlock(width, edge_width, normalization) for _ in range(n_layers))

        if "direct" in self.heads:
            hidden = [edge_width // 2] if force_network == "halving" else [edge_width, edge_width]
            self.force_head = mlp([edge_width, *hidden, 1], ShiftedSoftplus)
            self.outward = 1.0 if sign == "attractive" else -1.0
        if "conservative" in self.heads:
            self.energy_head = EnergyHead(width + edge_width, width)

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        smooth = {"smoothness"} if self.neighborhood == "radius" and self.envelope else set()
        exact: dict[Head, frozenset[str]] = {"direct": COVARIANT | smooth, "conservative": GRADIENT | smooth}
        return {head: exact[head] for head in self.heads}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        nodes = self.node_embedding(graph.atomic_numbers)
        edges = self.basis(graph.distances)
        envelope = self.envelope_of(graph.distances)
        if envelope is not None:
            envelope = envelope.unsqueeze(1)
        assert graph.triplets is not None
        first, second = graph.triplets.first, graph.triplets.second
        for node_block, edge_block in zip(self.node_blocks, self.edge_blocks, strict=True):
            old, nodes = nodes, node_block(nodes, edges, graph, envelope)
            seen = nodes if self.updated_nodes else old
            edges = edge_block(seen, edges, graph, first, second, envelope)
        return self.outputs(nodes, edges, envelope, graph, heads)

    def outputs(
        self, nodes: Tensor, edges: Tensor, envelope: Tensor | None, graph: Graph, heads: tuple[Head, ...]
    ) -> Outputs:
        """From the last states to what the heads say; the envelope is (n_edges, 1)."""
        energies = forces = None
        if "conservative" in heads:
            assert envelope is not None
            around = sum_to(graph.center, edges * envelope, graph.n_atoms)
            energies = self.energy_head(torch.cat([nodes, around], dim=1))
        if "direct" in heads:
            scalar = self.force_head(edges)
            if envelope is not None:
                scalar = scalar * envelope
            # Eq. (8); the paper's unit vector points from the neighbour to the atom that the force acts on.
            along = (self.outward * scalar) * graph.unit_vectors
            forces = sum_to(graph.center, along, graph.n_atoms)
        return Outputs(energies=energies, forces=forces)

    def envelope_of(self, distances: Tensor) -> Tensor | None:
        """(n,) factors of what edges give; ``None``: all count fully."""
        return (
            polynomial_envelope(distances / self.request.cutoff, ENVELOPE_EXPONENT) if self.envelope else None
        )

    @property
    def inference_request(self) -> GraphRequest:
        return self.request.edges_only()  # triplets are found on the way

    def gpu_form(self) -> GpuForm | None:
        return GNNFFOnGpu(self) if self.request.triplets == "walk" else None

    def inference_form(self) -> InferenceForm | None:
        native = library()
        if native is None:
            return None
        with torch.no_grad():
            return GNNFFInference(native, self)


def _require_differentiable(neighborhood: str, envelope: bool, normalization: str) -> None:
    """Raise ``UserError`` where an energy would jump, or be one of a batch and not of a structure."""
    if neighborhood != "radius" or not envelope:
        raise UserError(
            "GNNFF's energy would jump where neighbours come and go: conservative forces need all neighbours "
            "within the cutoff and the envelope",
            where="model.forces",
            mend="Leave neighborhood and envelope out, or set them to 'radius' and true.",
        )
    if normalization != "none":
        raise UserError(
            "GNNFF has no conservative forces with batch normalisation, which makes the energy of a "
            "structure depend, in training, on the others of its batch",
            where=option_key("normalization"),
            mend="Set it to 'none'.",
        )
