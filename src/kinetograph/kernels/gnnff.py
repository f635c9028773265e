"""GNNFF for running on a CPU: weights packed once, atoms, edges and triplets in compiled passes.

The equations are in ``models/gnnff.py``, whose forward pass is the oracle of this one; the passes, and the
identity that spares triplets their exponentials, are in ``csrc/gnnff.cpp``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinetograph.kernels.native import Library, Workspace, floats, require

Affine = tuple[Tensor, Tensor]
"""Factor and summand, (n,) each."""


@dataclass(frozen=True)
class LayerWeights:
    """Weights of a layer, normalisations before gates folded in. Rows are those of gates, then of cores."""

    pair: tuple[Tensor, Tensor]
    """W₁ and W₂ of c¹: the parts that act on atoms (2 width, width) and on edges (2 width, edge_width)."""
    pair_bias: Tensor
    node_norm: Affine
    """Of the sum of messages."""
    two_body: Tensor
    """W₃ and W₄, (2 edge_width, width)."""
    two_body_bias: Tensor
    two_body_norm: Affine
    """Of what the gate gives."""
    three_body: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    """W₅ and W₆: the parts that act on h_i, h_j, h_k, h_(i,j) and h_(j,k)."""
    three_body_bias: Tensor
    edge_norm: Affine
    """Of the sum over triplets."""


@dataclass(frozen=True)
class Weights:
    """All that a GNNFF is made of, but for its first states of atoms and its energy head."""

    layers: Sequence[LayerWeights]
    centers: Tensor
    """(edge_width,) Å, of the Gaussians exp(−sharpness (d − centre)²)."""
    sharpness: Tensor
    """(edge_width,) Å⁻²."""
    force_head: Sequence[tuple[Tensor, Tensor]]
    """Weights and biases; a shifted softplus between them. Empty where there is none."""
    outward: float
    """1 where a positive scalar pulls an atom to its neighbour, −1 where it pushes."""
    updated_nodes: bool
    way_back: bool


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            *("pair_node", "pair_bias", "pair_edge", "node_scale", "node_shift"),
            *("two_body", "two_body_bias", "ends", "ends_bias", "first", "second"),
            *("pair_scale", "sum_scale", "shift"),
            *("pair_node_back", "pair_edge_back", "two_body_back", "ends_back", "first_back", "second_back"),
        )
    ]


class _HeadLayer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weights", "bias")),
        *((name, ctypes.c_int64) for name in ("n_in", "n_out")),
    ]


class _Network(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("width", "edge_width", "n_layers", "updated_nodes", "way_back")
        ),
        *((name, ctypes.c_void_p) for name in ("centers", "sharpness", "layers")),
        ("n_hidden", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("head", "last")),
        *((name, ctypes.c_float) for name in ("last_bias", "outward")),
    ]


class _Graph(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_atoms", "n_edges")),
        *((name, ctypes.c_void_p) for name in ("center", "neighbor", "vectors", "distances", "envelope")),
        *((name, ctypes.c_void_p) for name in ("first", "first_incoming", "incoming")),
    ]


@dataclass(frozen=True)
class Edges:
    """The edges of a graph, with those that end at each atom."""

    n_atoms: int
    most: int
    """Largest number of edges of an atom."""
    native: _Graph
    kept: tuple[Tensor | None, ...]
    """What it points to."""


EnergyHead = Callable[[Tensor, Tensor], Tensor]
"""(n_atoms, width) and (n_atoms, edge_width) → (n_atoms,) energies; differentiable."""


@dataclass(frozen=True)
class Energies:
    """Energies and the derivatives of their sum, each as if the other variable did not change."""

    energies: Tensor
    """(n_atoms,)."""
    by_distances: Tensor
    """(n_edges,) 1/Å."""
    by_envelope: Tensor
    """(n_edges,)."""
    forces: Tensor | None
    """(n_atoms, 3) of the direct head."""


class FusedGNNFF:
    """A trained GNNFF in the form it runs in."""

    def __init__(self, library: Library, weights: Weights) -> None:
        self._library = library
        self._kept: list[Tensor] = []  # what the pointers below point to
        self._workspace = Workspace()
        layer = weights.layers[0]
        self._widths = layer.pair[0].shape[1], layer.pair[1].shape[1]
        self._padded_widths = tuple(_up(width, library.width) for width in self._widths)
        self._layers = (_Layer * len(weights.layers))()
        for native, layer in zip(self._layers, weights.layers, strict=True):
            self._fill(native, layer)
        nothing = torch.zeros(1, self._widths[1]), torch.zeros(1)
        *hidden, (last, last_bias) = weights.force_head or [nothing]
        self._head = (_HeadLayer * len(hidden))()
        for native_head, (weight, bias) in zip(self._head, hidden, strict=True):
            padded = self._rows(weight, groups=1)
            native_head.weights, native_head.bias = self._pack(padded), self._keep(self._rows(bias, groups=1))
            native_head.n_out, native_head.n_in = padded.shape
        far = torch.full((self._extra(1),), 1e3)  # the columns of padding are zero
        self._network = _Network(
            width=self._padded_widths[0],
            edge_width=self._padded_widths[1],
            n_layers=len(self._layers),
            updated_nodes=weights.updated_nodes,
            way_back=weights.way_back,
            centers=self._keep(torch.cat([weights.centers.float(), far])),
            sharpness=self._keep(torch.cat([weights.sharpness.float(), torch.ones_like(far)])),
            layers=ctypes.addressof(self._layers),
            n_hidden=len(hidden),
            head=ctypes.addressof(self._head),
            last=self._keep(pad(last[0], (0, -last.shape[1] % library.width))),
            last_bias=float(last_bias),
            outward=weights.outward,
        )

    # ---- running ------------------------------------------------------------------------------------

    def edges(
        self,
        center: Tensor,
        neighbor: Tensor,
        vectors: Tensor,
        distances: Tensor,
        envelope: Tensor | None,
        n_atoms: int,
    ) -> Edges:
        """The edges of a graph, prepared.

        Args:
            center, neighbor: (n_edges,) int64, sorted by centre.
            vectors: (n_edges, 3) float32 Å; there and back they are each other's negatives to the bit.
            distances: (n_edges,) float32 Å.
            envelope: (n_edges,) float32 factor of what an edge gives.
        """
        require(torch.int64, center, neighbor)
        require(torch.float32, vectors, distances, envelope)
        tensors = [
            t if t is None else t.contiguous() for t in (center, neighbor, vectors, distances, envelope)
        ]
        n_edges = len(center)
        first, first_incoming = torch.empty(2, n_atoms + 1, dtype=torch.int64, device="cpu")
        incoming = torch.empty(n_edges, dtype=torch.int64, device="cpu")
        most = self._library(
            "kg_gnnff_edges", n_atoms, n_edges, *tensors[:2], first, first_incoming, incoming
        )
        kept = (*tensors, first, first_incoming, incoming)
        native = _Graph(n_atoms, n_edges, *(None if t is None else t.data_ptr() for t in kept))
        return Edges(n_atoms, most, native, kept)

    def direct(self, edges: Edges, nodes: Tensor) -> Tensor:
        """(n_atoms, 3) forces.

        Args:
            nodes: (n_atoms, width) float32 first states of the atoms.
        """
        forces = floats(edges.n_atoms, 3)
        self._library(
            "kg_gnnff_direct", *self._call(edges), self._states(nodes, 0), self._memory(edges), forces
        )
        return forces

    def conservative(
        self, edges: Edges, nodes: Tensor, energy_head: EnergyHead, *, also_direct: bool
    ) -> Energies:
        """Energies with their derivatives, and forces of the direct head where asked for.

        Args:
            edges: with an envelope; no normalisation in any layer.
            nodes: (n_atoms, width) float32 first states of the atoms.
            energy_head: of each atom's last state and of Σ envelope × the last states of its edges.
        """
        (width, edge_width), n_atoms, n_edges = self._padded_widths, edges.n_atoms, edges.native.n_edges
        network = ctypes.byref(self._network)
        n_floats = self._library("kg_gnnff_conservative_floats", network, n_atoms, n_edges, edges.most)
        memory = self._workspace.bytes("kept", 4 * n_floats)
        last_nodes, around = floats(n_atoms, width), floats(n_atoms, edge_width)
        forces = floats(n_atoms, 3) if also_direct else None
        self._library(
            "kg_gnnff_states",
            *(*self._call(edges), self._states(nodes, 0), memory, last_nodes, around, forces),
        )
        with torch.enable_grad():
            leaves = [last_nodes.requires_grad_(True), around.requires_grad_(True)]
            energies = energy_head(last_nodes[:, : self._widths[0]], around[:, : self._widths[1]])
            by_nodes, by_around = torch.autograd.grad(energies.sum(), leaves)
        by_distances, by_envelope = floats(n_edges), floats(n_edges)
        self._library(
            "kg_gnnff_slopes",
            *(*self._call(edges), memory, by_nodes.contiguous(), by_around.contiguous()),
            *(by_distances, by_envelope),
        )
        return Energies(energies.detach(), by_distances, by_envelope, forces)

    def three_body(self, edges: Edges, layer: int, nodes: Tensor, states: Tensor) -> Tensor:
        """(n_edges, edge_width): the sum over triplets of one layer.

        Args:
            nodes: (n_atoms, width) float32 states of the atoms.
            states: (n_edges, edge_width) float32 states of the edges.
        """
        states = self._states(states, 1)
        sums = torch.empty_like(states)
        self._library(
            "kg_gnnff_three_body",
            *self._call(edges),
            layer,
            self._states(nodes, 0),
            states,
            self._memory(edges),
            sums,
        )
        return sums[:, : self._widths[1]]

    def _call(self, edges: Edges) -> tuple[object, ...]:
        return ctypes.byref(self._network), ctypes.byref(edges.native), edges.most

    def _memory(self, edges: Edges) -> Tensor:
        network, graph = ctypes.byref(self._network), edges.native
        n = self._library("kg_gnnff_floats", network, graph.n_atoms, graph.n_edges, edges.most)
        return self._workspace.bytes("states", 4 * n)

    def _states(self, states: Tensor, kind: int) -> Tensor:
        require(torch.float32, states)
        return (pad(states, (0, self._extra(kind))) if self._extra(kind) else states).contiguous()

    # ---- making -------------------------------------------------------------------------------------

    def _extra(self, kind: int) -> int:
        """Columns of zeros behind the states of atoms (0) or of edges (1)."""
        return self._padded_widths[kind] - self._widths[kind]

    def _fill(self, native: _Layer, layer: LayerWeights) -> None:
        """Pack the weights of one layer."""
        native.pair_node, native.pair_edge = (self._gates(part) for part in layer.pair)
        native.pair_bias = self._gate_bias(layer.pair_bias)
        native.node_scale, native.node_shift = (self._keep(self._rows(x, groups=1)) for x in layer.node_norm)
        native.two_body, native.two_body_bias = (
            self._gates(layer.two_body),
            self._gate_bias(layer.two_body_bias),
        )
        *of_ends, first, second = layer.three_body
        native.first, native.second = self._gates(first), self._gates(second)
        ends = torch.cat([self._gate_rows(part) for part in of_ends])
        native.ends, native.ends_back = self._pack(ends), self._pack(ends.T)
        (
            native.pair_node_back,
            native.pair_edge_back,
            native.two_body_back,
            native.first_back,
            native.second_back,
        ) = (self._pack(self._gate_rows(part).T) for part in (*layer.pair, layer.two_body, first, second))
        bias = self._gate_rows(layer.three_body_bias)
        native.ends_bias = self._keep(pad(bias, (0, 2 * len(bias))))
        (pair_scale, pair_shift), (sum_scale, sum_shift) = layer.two_body_norm, layer.edge_norm
        native.pair_scale, native.sum_scale, native.shift = (
            self._keep(self._rows(x, groups=1)) for x in (pair_scale, sum_scale, pair_shift + sum_shift)
        )

    def _rows(self, rows: Tensor, *, groups: int) -> Tensor:
        """Rows of zeros behind each of so many groups of rows, of a matrix columns of zeros too."""
        width = self._library.width

        def whole(part: Tensor) -> Tensor:
            columns = [0, -part.shape[1] % width] if part.dim() == 2 else []
            return pad(part, [*columns, 0, -len(part) % width])

        return torch.cat([whole(part) for part in rows.detach().float().chunk(groups)])

    def _gate_rows(self, rows: Tensor) -> Tensor:
        """What gives s = −a, then what gives t = 2 a', of a gate σ(a) tanh(a')."""
        openness, core = rows.chunk(2)
        return self._rows(torch.cat([-openness, 2.0 * core]), groups=2)

    def _gates(self, weight: Tensor) -> int:
        return self._pack(self._gate_rows(weight))

    def _gate_bias(self, bias: Tensor) -> int:
        return self._keep(self._gate_rows(bias))

    def _pack(self, matrix: Tensor) -> int:
        matrix = matrix.contiguous()
        packed = floats(matrix.numel())
        self._library("kg_pack", matrix, *matrix.shape, packed)
        return self._keep(packed)

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.detach().float().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
