"""GAMD: graph neural networks accelerated molecular dynamics.

Z. Li, K. Meidani, P. Yadav, A. Barati Farimani, J. Chem. Phys. 156, 144103 (2022),
doi:10.1063/5.0083060. A network that reads a neighbourhood and writes the force on each atom,
without an energy in between.

==================================  ==============================================================
paper                               here
==================================  ==============================================================
v_i, node state                     ``nodes`` (n_atoms, width), first ``GAMD.node_embedding``
e_ij^(0), edge embedding            ``edges`` (n_edges, width), by ``GAMD.edge_encoder``
u_ij = (q_i − q_j)/|q_i − q_j|      ``−graph.unit_vectors``; the sign is absorbed by the first layer
b_ij, bond flag                     one-hot of ``graph.edge_types`` without its first column
e_ij^(l) = A^(l) e_ij^(0)           ``PaperLayer.edge_transform``
m_j→i = Φ(v_j, e_ij, v_i) ∘ v_j     ``PaperLayer``: the first matrix of Φ is split in three,
                                    W[v_j; e; v_i] = W_s v_j + W_e e + W_d v_i, exactly the same
M_i = Σ_j m_j→i                     ``sum_to`` the centres
v̂_i = Θ(v_i, M_i)                   ``PaperLayer.update``
v_i ← LN(v̂_i) + v_i, eq. (5)        ``PaperLayer.norm``
decoder                             ``nn.heads.NodeForceHead``
==================================  ==============================================================

Three forms, chosen by ``form``:

``"paper"``
    as written: normalisation after the update, a linear edge transform, unit vector and length
    as edge input.
``"code"``
    as the authors' program computes it: normalisation before the layer, a two-layer edge
    transform, the length standardised and expanded in 40 Gaussians *of the standardised length*,
    LayerNorm and dropout after the edge encoder, two self edges per atom (one with a zero vector,
    one with a zero embedding). With ``width=128`` and four layers it has 651,523 parameters for
    one element; a bond flag adds 128, every further element 128. With ``width=256`` and
    ``hidden_width=128``, the program's defaults, it has 1,145,603.
``"covariant"``
    ours: the code's layer on invariant edges (Gaussians of the distance, apart for each bond
    type) with an envelope, and an edge force head, so that forces turn with the structure exactly.

Ours in both published forms, equal in function or a choice that the paper leaves open: the node
encoder is a table of one vector per element, which an MLP of a one-hot vector is; the length enters
standardised; the statistics of the length are fitted once on the training data instead of running
along; LayerNorm throughout, as in the program's published recipes; forces have a scale but no mean.
Weights of the edge encoder and the edge transform start with variance 1/fan-in, three times PyTorch's
default: with the default a model of a liquid stays at zero force for longer.

The program's Gaussians cover one standard deviation above the mean length, so in a molecular liquid
they say nothing of a bond's length. ``length_basis="distance"`` puts them on the distance instead, in
the code's form and at its size.

The first two see the components of the unit vector, so their forces turn with the structure only
as far as training by random rotations teaches them to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from kinetograph.bonds import BondRule
from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest
from kinetograph.kernels import library
from kinetograph.nn.elements import ElementEmbedding
from kinetograph.nn.heads import EdgeForceHead, NodeForceHead
from kinetograph.nn.mlp import mlp
from kinetograph.nn.model import (
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
from kinetograph.nn.radial import GaussianBasis, cosine_cutoff
from kinetograph.nn.segments import sum_to
from kinetograph.running.gamd import GAMDInference, GAMDOnGpu

Form = Literal["paper", "code", "covariant"]
LengthBasis = Literal["standardised", "distance"]

_TABLE_1 = "GAMD, J. Chem. Phys. 156, 144103 (2022), table 1, of the authors' program (gamd-code)"
_ARGON = (
    Published("Lennard-Jones argon, relative error of the forces", 6.01, "%", _TABLE_1),
    Published("Lennard-Jones argon, mean cosine with the true forces", 0.977, "", _TABLE_1),
)

PRESETS = {
    "gamd": Preset(
        "gamd",
        "as the paper writes it",
        {"form": "paper", "width": 128, "n_layers": 4},
        learning_rate=1e-3,
        published=_ARGON,
    ),
    "gamd-code": Preset(
        "gamd",
        "as the authors' program computes it",
        {"form": "code", "width": 128, "n_layers": 4},
        learning_rate=1e-3,
        published=_ARGON,
    ),
    "gamd-dft": Preset(
        "gamd",
        "the size of the paper's model of water by DFT (cutoff 9.5 Å), as the authors' program computes it",
        {"form": "code", "width": 256, "hidden_width": 128, "n_layers": 5},
        learning_rate=1e-3,
    ),
    "gamd-covariant": Preset(
        "gamd",
        "invariant messages, edge force head",
        {"form": "covariant", "width": 64, "n_layers": 3},
        learning_rate=5e-3,
    ),
}

N_CODE_GAUSSIANS = 40
CODE_GAMMA = 40.0


def _start_with_unit_gain(module: nn.Module) -> None:
    """Triple the variance of the starting weights of linear layers, from 1/(3 fan-in) to 1/fan-in."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(3.0**0.5)


@dataclass(frozen=True)
class Ends:
    """What is computed once per atom for all its edges, (n_atoms, width) each."""

    source: Tensor
    """Added to the first product of Φ on edges from this neighbour."""
    target: Tensor
    """The same on edges of this centre."""
    sent: Tensor
    """What this neighbour sends, before it is weighted."""


def _at_edges(ends: Ends, graph: Graph) -> Tensor:
    """(n_edges, width): what both ends add."""
    return ends.source.index_select(0, graph.neighbor) + ends.target.index_select(0, graph.center)


def _messages(weights: Tensor, ends: Ends, graph: Graph) -> Tensor:
    """(n_atoms, width): weighted sums of what the neighbours send."""
    return sum_to(graph.center, weights * ends.sent.index_select(0, graph.neighbor), graph.n_atoms)


class PaperLayer(nn.Module):
    """The layer as the paper writes it: message, sum, update, normalisation, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge_transform = nn.Linear(width, width)  # A^(l)
        self.from_source = nn.Linear(width, width, bias=False)  # Φ, first matrix, in three parts
        self.from_edge = nn.Linear(width, width)
        self.from_target = nn.Linear(width, width, bias=False)
        self.filter = nn.Sequential(nn.SiLU(), nn.Linear(width, width))  # the rest of Φ
        self.update = mlp([2 * width, width, width], nn.SiLU)  # Θ
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Graph) -> Tensor:
        ends = self.ends(nodes)
        pre = _at_edges(ends, graph) + self.from_edge(self.edge_transform(edges))
        return self.updated(nodes, ends, _messages(self.filter(pre), ends, graph))

    def ends(self, nodes: Tensor) -> Ends:
        """What atoms add to the edges they are an end of, and what they send."""
        return Ends(self.from_source(nodes), self.from_target(nodes), nodes)

    def updated(self, nodes: Tensor, ends: Ends, messages: Tensor) -> Tensor:
        """New nodes from the sums of messages."""
        updated: Tensor = self.norm(self.update(torch.cat([nodes, messages], dim=1)))
        return nodes + updated


class CodeLayer(nn.Module):
    """The layer of the authors' program: v ← v + Layer(Norm(v))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.edge_transform = mlp([width, hidden, hidden], nn.SiLU)
        self.from_source = nn.Linear(width, hidden)
        self.from_target = nn.Linear(width, hidden)
        self.filter = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width))
        self.update_node = nn.Linear(width, hidden)
        self.update_message = nn.Linear(width, hidden)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, nodes: Tensor, edges: Tensor, graph: Graph, self_edge: Tensor) -> Tensor:
        ends = self.ends(nodes)
        pre = _at_edges(ends, graph) + self.edge_transform(edges)
        return self.updated(nodes, ends, _messages(self.filter(pre), ends, graph), self_edge)

    def ends(self, nodes: Tensor) -> Ends:
        """What atoms add to the edges they are an end of, and what they send."""
        x = self.norm(nodes)
        return Ends(self.from_source(x), self.from_target(x), x)

    def updated(self, nodes: Tensor, ends: Ends, messages: Tensor, self_edge: Tensor) -> Tensor:
        """New nodes from the sums of messages and the two edges of each atom to itself."""
        for embedding in (self_edge, torch.zeros_like(self_edge)):
            pre = ends.source + ends.target + self.edge_transform(embedding)
            messages = messages + ends.sent * self.filter(pre)
        out: Tensor = self.out(self.update_node(ends.sent) + self.update_message(messages))
        return nodes + out


class CovariantLayer(nn.Module):
    """The paper's message on invariant edges, with the program's normalisation before the layer.

    One hidden layer in Φ, as in the paper, is half the work on edges of the program's layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.from_source = nn.Linear(width, width, bias=False)
        self.from_edge = nn.Linear(width, width)
        self.from_target = nn.Linear(width, width, bias=False)
        self.filter = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.update_node = nn.Linear(width, width)
        self.update_message = nn.Linear(width, width)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(width, width))

    def forward(self, nodes: Tensor, edges: Tensor, graph: Graph, envelope: Tensor) -> Tensor:
        ends = self.ends(nodes)
        weight = self.filter(_at_edges(ends, graph) + self.from_edge(edges)) * envelope.unsqueeze(1)
        return self.updated(nodes, ends, _messages(weight, ends, graph))

    def ends(self, nodes: Tensor) -> Ends:
        """What atoms add to the edges they are an end of, and what they send."""
        x = self.norm(nodes)
        return Ends(self.from_source(x), self.from_target(x), x)

    def updated(self, nodes: Tensor, ends: Ends, messages: Tensor) -> Tensor:
        """New nodes from the sums of messages."""
        out: Tensor = self.out(self.update_node(ends.sent) + self.update_message(messages))
        return nodes + out


class GAMD(Model):
    """GAMD in one of its three forms.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å.
        form: see the module's docstring.
        width: size of node and edge states (128 in the paper's Lennard-Jones and TIP3P models).
        n_layers: message-passing steps (4).
        hidden_width: size of the layers between states, ``form="code"`` only; ``None``: as the states. (128
            beside states of 256 is the program's default, and what its model of DFT water has.)
        n_radial: Gaussians of the distance per bond type, ``form="covariant"`` only.
        encoder_dropout: dropout after the edge encoder, ``form="code"`` only (0.1 in the program,
            whose option for dropping whole edges is another one, and off).
        length_basis: what the Gaussians of ``form="code"`` expand: the "standardised" length, as in the
            program, or the "distance" itself with centres from zero to the cutoff, which is ours.
        max_bond_separation: largest number of bonds that makes an edge type of its own; 0: bonds
            are not used, 1: the paper's bond flag, 2: the ends of an angle too.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "direct": Offer("native"),
        "conservative": Offer(
            "not offered",
            "the published forms see the components of unit vectors, so an energy would change when the "
            "structure turns; the covariant form has a force head only",
        ),
    }

    length_mean: Tensor
    length_std: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "direct",
        form: Form = "paper",
        width: int = 128,
        n_layers: int = 4,
        hidden_width: int | None = None,
        n_radial: int = 40,
        encoder_dropout: float = 0.1,
        length_basis: LengthBasis = "standardised",
        max_bond_separation: int = 0,
    ) -> None:
        super().__init__()
        require_offer(GAMD, forces)
        check_choice("form", form, ("paper", "code", "covariant"))
        self.forces = forces
        self.form = form
        if length_basis == "distance" and form != "code":
            raise UserError(
                f"length_basis: distance is of form: code, not of form: {form}",
                where=option_key("length_basis"),
                mend="Leave it out, or set form: code.",
            )
        if hidden_width is not None and form != "code":
            raise UserError(
                f"hidden_width is of form: code, not of form: {form}",
                where=option_key("hidden_width"),
                mend="Leave it out, or set form: code.",
            )
        hidden = width if hidden_width is None else hidden_width
        self.length_basis = length_basis
        rule = BondRule(max_separation=max_bond_separation) if max_bond_separation else None
        # An edge force head reads both ends of an edge, which is one step more.
        n_steps = n_layers + (form == "covariant")
        self.request = GraphRequest(cutoff=cutoff, bond_rule=rule, n_layers=n_steps)
        self.n_edge_types = rule.n_types if rule else 1

        self.node_embedding = ElementEmbedding(elements, width)

        # Mean and standard deviation of the edge length over the training data, Å.
        self.register_buffer("length_mean", torch.tensor(0.5 * cutoff))
        self.register_buffer("length_std", torch.tensor(0.25 * cutoff))

        n_flags = self.n_edge_types - 1
        if form == "paper":
            self.edge_encoder = mlp([3 + 1 + n_flags, width, width, width], nn.GELU)
            self.layers = nn.ModuleList(PaperLayer(width) for _ in range(n_layers))
            self.head: NodeForceHead | EdgeForceHead = NodeForceHead(width, width)
        elif form == "code":
            if length_basis == "distance":
                self.basis = GaussianBasis(0.0, cutoff, N_CODE_GAUSSIANS)
            else:
                self.basis = GaussianBasis(0.0, 1.0, N_CODE_GAUSSIANS, CODE_GAMMA)
            n_in = 3 + 1 + N_CODE_GAUSSIANS + n_flags
            self.edge_encoder = mlp([n_in, hidden, hidden, width], nn.GELU)
            self.edge_encoder.extend([nn.LayerNorm(width), nn.Dropout(encoder_dropout)])
            self.layers = nn.ModuleList(CodeLayer(width, hidden) for _ in range(n_layers))
            self.head = NodeForceHead(width, hidden)
        else:
            self.basis = GaussianBasis(0.0, cutoff, n_radial)
            self.edge_encoder = mlp([n_radial * self.n_edge_types, width, width], nn.SiLU)
            self.layers = nn.ModuleList(CovariantLayer(width) for _ in range(n_layers))
            self.head = EdgeForceHead(width, n_radial * self.n_edge_types, width)
        if form != "covariant":
            _start_with_unit_gain(self.edge_encoder)
            for name, module in self.layers.named_modules():
                if name.endswith(".edge_transform"):
                    _start_with_unit_gain(module)

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        smooth = {"smoothness"} if self.form == "covariant" else set()
        return {"direct": self.head.exact | smooth}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        nodes = self.node_embedding(graph.atomic_numbers)
        inputs = self.edge_inputs(graph.distances, graph.unit_vectors, graph.edge_types)
        edges = self.edge_encoder(inputs)
        if isinstance(self.head, EdgeForceHead):
            envelope = cosine_cutoff(graph.distances, self.request.cutoff)
            for layer in self.layers:
                nodes = layer(nodes, edges, graph, envelope)
            return Outputs(forces=self.head(nodes, inputs, graph, envelope))
        if self.form == "code":
            self_edge = self.self_edge(nodes)
            for layer in self.layers:
                nodes = layer(nodes, edges, graph, self_edge)
        else:
            for layer in self.layers:
                nodes = layer(nodes, edges, graph)
        return Outputs(forces=self.head(nodes))

    def edge_inputs(self, distances: Tensor, units: Tensor, edge_types: Tensor | None) -> Tensor:
        if self.form == "covariant":
            radial: Tensor = self.basis(distances)
            if edge_types is None or self.n_edge_types == 1:
                return radial
            kind = nn.functional.one_hot(edge_types, self.n_edge_types).to(radial.dtype)
            return (kind.unsqueeze(2) * radial.unsqueeze(1)).flatten(1)
        length = ((distances - self.length_mean) / self.length_std).unsqueeze(1)
        parts = [units, length]
        if self.form == "code":
            parts.append(self.basis(distances if self.length_basis == "distance" else length[:, 0]))
        if self.n_edge_types > 1 and edge_types is not None:
            parts.append(nn.functional.one_hot(edge_types, self.n_edge_types)[:, 1:].to(units.dtype))
        return torch.cat(parts, dim=1)

    def self_edge(self, nodes: Tensor) -> Tensor:
        """Embedding of an atom's edge to itself: zero vector, zero length, not bonded; one row per atom."""
        zero = nodes.new_zeros(1)
        kind = torch.zeros(1, dtype=torch.int64, device=nodes.device)
        inputs = self.edge_inputs(zero, nodes.new_zeros(1, 3), kind)
        embedding: Tensor = self.edge_encoder(inputs.expand(len(nodes), -1))
        return embedding

    def inference_form(self) -> InferenceForm | None:
        native = library()
        if native is None:
            return None
        with torch.no_grad():
            return GAMDInference(native, self)

    def bfloat16_form(self) -> InferenceForm | None:
        native = library()
        # The program's layer has four products after each other: their errors pass what is promised.
        if native is None or not native.has_bfloat16 or self.form == "code":
            return None
        with torch.no_grad():
            return GAMDInference(native, self, products=torch.bfloat16)

    def fit_statistics(self, graphs: Iterable[Graph], forces: Iterable[Tensor]) -> None:
        """Set mean and standard deviation of the edge length from training graphs.

        The program's neighbour list holds every atom once at zero length, and those zeros enter its
        statistics, so they do for ``form="code"``.
        """
        count = total = total_sq = 0.0
        for graph in graphs:
            lengths = graph.distances.double()
            count += len(lengths) + (graph.n_atoms if self.form == "code" else 0)
            total += float(lengths.sum())
            total_sq += float(lengths.square().sum())
        if count:
            mean = total / count
            self.length_mean.fill_(mean)
            self.length_std.fill_(max(total_sq / count - mean**2, 1e-12) ** 0.5)

    def gpu_form(self) -> GpuForm | None:
        return GAMDOnGpu(self)
