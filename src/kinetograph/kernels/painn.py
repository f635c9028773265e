"""PaiNN for running on a CPU: weights packed and filters tabulated once, layers in compiled passes.

The equations are in ``models/painn.py``, whose forward pass is the oracle of this one; the passes are in
``csrc/painn.cpp``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, silu

from kinetograph.kernels.edges import ListedEdges
from kinetograph.kernels.native import Library, Workspace, floats, require
from kinetograph.kernels.spline import SHORTEST_A, SLOPE_TOLERANCE, TOLERANCE, SplineTable, spline_table

Linear = tuple[Tensor, Tensor]
"""Weight (n_out, n_in) and bias (n_out,)."""


@dataclass(frozen=True)
class LayerWeights:
    """Weights of a layer, in the order of ``models/painn.py``."""

    filter: Tensor
    """(3 width, n_edge_types × n_functions)."""
    phi: tuple[Linear, Linear]
    mix: Tensor
    """(2 width, width)."""
    gates: tuple[Linear, Linear]


@dataclass(frozen=True)
class Weights:
    """All that a PaiNN with a linear force head, an energy head or both is made of, in single precision."""

    embedding: Tensor
    """(n_elements, width)."""
    layers: Sequence[LayerWeights]
    filter_inputs: Callable[[Tensor], Tensor]
    """(n,) Å → (n, n_functions): what the filters of an edge type are linear in."""
    n_edge_types: int
    cutoff: float
    norm_epsilon: float
    force_head: tuple[Linear, Linear] | None
    energy_head: tuple[Linear, Linear] | None


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            *("filter", "phi_1", "phi_1_bias", "phi_2", "phi_2_bias", "mix"),
            *("gates_1", "gates_1_bias", "gates_2", "gates_2_bias"),
            *("phi_1_back", "phi_2_back", "mix_back", "gates_1_back", "gates_2_back"),
        )
    ]


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("width", "n_layers", "n_types", "n_rows")),
        *((name, ctypes.c_double) for name in ("start", "rows_per_length")),
        ("norm_epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("layers", "embedding", "first_messages")),
        *((name, ctypes.c_void_p) for name in ("force_1", "force_1_bias", "force_2", "force_2_bias")),
        ("energy_width", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("energy_1", "energy_1_bias", "energy_2", "energy_1_back")),
        ("energy_2_bias", ctypes.c_float),
    ]


class _Graph(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_atoms", "n_edges")),
        *((name, ctypes.c_void_p) for name in ("element", "center", "neighbor", "type", "vectors")),
    ]


class _List(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("shift", "positions", "cells", "system_index")),
        *((name, ctypes.c_void_p) for name in ("order", "place", "begin")),
        ("cutoff", ctypes.c_double),
    ]


class FusedPaiNN:
    """A trained PaiNN in the form it runs in."""

    def __init__(self, library: Library, weights: Weights) -> None:
        self._library = library
        self._kept: list[Tensor] = []  # what the pointers below point to
        self._workspace = Workspace()
        self._plain_width, self._cutoff = weights.embedding.shape[1], weights.cutoff
        self._width = _up(self._plain_width, library.width)
        # Direct forces read values alone: their tables are half as long, and more of them stays in cache.
        slope_tolerance = math.inf if weights.energy_head is None else SLOPE_TOLERANCE
        self.table: SplineTable = spline_table(
            weights.filter_inputs, SHORTEST_A, weights.cutoff, TOLERANCE, slope_tolerance
        )
        """Of what the filters are linear in."""
        self._layers = (_Layer * len(weights.layers))()
        for packed, layer in zip(self._layers, weights.layers, strict=True):
            self._fill(packed, layer, weights.n_edge_types)
        network = self._network = _Network(
            width=self._width,
            n_layers=len(self._layers),
            n_types=weights.n_edge_types,
            n_rows=len(self.table.rows),
            start=SHORTEST_A,
            rows_per_length=self.table.n_intervals / (weights.cutoff - SHORTEST_A),
            norm_epsilon=weights.norm_epsilon,
            layers=ctypes.addressof(self._layers),
            embedding=self._keep(pad(weights.embedding, (0, self._extra))),
            first_messages=self._keep(self._first_messages(weights)),
        )
        if weights.force_head is not None:
            (first, first_bias), (second, second_bias) = weights.force_head
            network.force_1, network.force_1_bias = self._packed(first), self._bias(first_bias)
            network.force_2, network.force_2_bias = self._packed(second), self._bias(second_bias)
        if weights.energy_head is not None:
            (first, first_bias), (second, second_bias) = weights.energy_head
            extra = -len(first) % library.width
            first = pad(first, (0, self._extra, 0, extra))
            network.energy_width = len(first)
            network.energy_1, network.energy_1_back = self._pack(first), self._pack(first.T)
            network.energy_1_bias = self._keep(pad(first_bias, (0, extra)))
            network.energy_2 = self._keep(pad(second[0], (0, extra)))
            network.energy_2_bias = float(second_bias)

    # ---- running ------------------------------------------------------------------------------------

    def direct(
        self, element: Tensor, center: Tensor, neighbor: Tensor, types: Tensor | None, vectors: Tensor
    ) -> Tensor | None:
        """(n_atoms, 3) forces of the direct head.

        ``None`` where some edge is shorter than ``SHORTEST_A``, or not as many go back as forth.

        Args:
            element: (n_atoms,) int64 row of the embedding.
            center, neighbor: (n_edges,) int64, sorted by centre; every edge has one that goes back, of the
                opposite vector.
            types: (n_edges,) int64, the same for both edges of a pair; ``None``: all of the first type.
            vectors: (n_edges, 3) float32 Å, shorter than the cutoff.
        """
        forces = floats(len(element), 3)
        network = ctypes.byref(self._network)
        threads = torch.get_num_threads()
        n_floats = self._library("kg_painn_direct_floats", network, len(element), threads)
        graph, *workspace = self._prepared(element, center, neighbor, types, vectors, threads, n_floats)
        done = self._library(
            "kg_painn_direct", network, ctypes.byref(graph), None, threads, *workspace, forces
        )
        return forces if done else None

    def direct_of_list(self, element: Tensor, edges: ListedEdges) -> Tensor | None:
        """(n_atoms, 3) forces of the direct head, from a list that has both edges of each pair.

        With an order, of its places. ``None`` where atoms are nearer than ``SHORTEST_A``, or not as many
        edges go back as forth.

        Args:
            element: (n_atoms,) int64 row of the embedding; with an order, of its places.
        """
        require(torch.float64, edges.shift, edges.positions, edges.cells)
        require(torch.int64, edges.system_index, *(edges.order or ()))
        n_atoms = len(edges.positions)
        order = (None, None, None) if edges.order is None else edges.order
        if edges.order is not None and [len(x) for x in edges.order] != [n_atoms, n_atoms, n_atoms + 1]:
            raise ValueError("the order is not of these atoms")
        kept = [
            None if x is None else x.contiguous()
            for x in (edges.shift, edges.positions, edges.cells, edges.system_index, *order)
        ]
        listed = _List(*(None if x is None else x.data_ptr() for x in kept), self._cutoff)
        forces = floats(n_atoms, 3)
        network = ctypes.byref(self._network)
        threads = torch.get_num_threads()
        n_floats = self._library("kg_painn_direct_floats", network, n_atoms, threads)
        graph, *workspace = self._prepared(
            element, edges.center, edges.neighbor, edges.types, None, threads, n_floats
        )
        done = self._library(
            "kg_painn_direct", network, ctypes.byref(graph), ctypes.byref(listed), threads, *workspace, forces
        )
        return forces if done else None

    def conservative(
        self,
        element: Tensor,
        center: Tensor,
        neighbor: Tensor,
        types: Tensor | None,
        vectors: Tensor,
        *,
        also_direct: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Energies (n_atoms,), slopes of their sum by edge vectors (n_edges, 3), and direct forces if asked.

        The slope by both edges of a pair stands at one of them: forces on atoms and the virial come out the
        same. Arguments, and ``None``, as of :meth:`direct`.
        """
        energies, slopes = floats(len(element)), floats(len(center), 3)
        forces = floats(len(element), 3) if also_direct else None
        network = ctypes.byref(self._network)
        threads = torch.get_num_threads()
        n_floats = self._library("kg_painn_conservative_floats", network, len(element), threads, len(center))
        graph, *workspace = self._prepared(element, center, neighbor, types, vectors, threads, n_floats)
        arguments = (network, ctypes.byref(graph), threads, *workspace, energies, slopes, forces)
        done = self._library("kg_painn_conservative", *arguments)
        return (energies, slopes, forces) if done else None

    def _prepared(
        self,
        element: Tensor,
        center: Tensor,
        neighbor: Tensor,
        types: Tensor | None,
        vectors: Tensor | None,
        threads: int,
        n_floats: int,
    ) -> tuple[_Graph, Tensor, Tensor, Tensor]:
        require(torch.int64, element, center, neighbor, types)
        require(torch.float32, vectors)
        tensors = tuple(
            None if t is None else t.contiguous() for t in (element, center, neighbor, types, vectors)
        )
        graph = _Graph(len(element), len(center), *(None if t is None else t.data_ptr() for t in tensors))
        n_pairs = len(center) if threads > 1 else len(center) // 2
        pairs = self._workspace.bytes("pairs", n_pairs * self._library("kg_painn_pair_bytes"))
        ranges = self._workspace.bytes("ranges", 16 * len(element))
        return graph, pairs, ranges, self._workspace.bytes("features", 4 * n_floats)

    # ---- making -------------------------------------------------------------------------------------

    @property
    def _extra(self) -> int:
        return self._width - self._plain_width

    def _fill(self, packed: _Layer, layer: LayerWeights, n_types: int) -> None:
        """Tabulate and pack the weights of one layer."""
        width, n_functions = self._library.width, layer.filter.shape[1] // n_types
        columns = self._padded(layer.filter, n_out=3).double().reshape(-1, n_types, n_functions)
        # (type, row, 3 F) → (F/W, type, row, 3, W)
        rows = torch.einsum("rk,otk->tro", self.table.rows, columns)
        rows = rows.reshape(*rows.shape[:2], 3, -1, width).permute(3, 0, 1, 2, 4)
        packed.filter = self._keep(rows)
        for name, n_in, ((first, first_bias), (second, second_bias)) in (
            ("phi", 1, layer.phi),
            ("gates", 2, layer.gates),
        ):
            for suffix, value in (
                ("1", self._packed(first, n_in=n_in)),
                ("1_bias", self._bias(first_bias)),
                ("2", self._packed(second, n_out=3)),
                ("2_bias", self._bias(second_bias, n_out=3)),
                ("1_back", self._packed(first.T, n_out=n_in)),
                ("2_back", self._packed(second.T, n_in=3)),
            ):
                setattr(packed, f"{name}_{suffix}", value)
        packed.mix, packed.mix_back = self._packed(layer.mix, n_out=2), self._packed(layer.mix.T, n_in=2)

    def _first_messages(self, weights: Weights) -> Tensor:
        """(n_elements, F/W, 2, W): φ_s and φ_vs of the elements."""
        (first, first_bias), (second, second_bias) = weights.layers[0].phi
        phi = silu(weights.embedding @ first.T + first_bias) @ second.T + second_bias
        both = self._padded(phi.T, n_out=3).T[:, : 2 * self._width]
        return both.reshape(len(both), 2, -1, self._library.width).transpose(1, 2)

    def _padded(self, matrix: Tensor, *, n_out: int) -> Tensor:
        """Rows of zeros behind each of ``n_out`` groups of rows."""
        return pad(matrix.reshape(n_out, -1, matrix.shape[1]), (0, 0, 0, self._extra)).flatten(0, 1)

    def _packed(self, weight: Tensor, *, n_out: int = 1, n_in: int = 1) -> int:
        columns = pad(weight.reshape(len(weight), n_in, -1), (0, self._extra)).flatten(1)
        return self._pack(self._padded(columns, n_out=n_out))

    def _bias(self, bias: Tensor, *, n_out: int = 1) -> int:
        return self._keep(pad(bias.reshape(n_out, -1), (0, self._extra)).flatten())

    def _pack(self, matrix: Tensor) -> int:
        matrix = matrix.float().contiguous()
        packed = floats(matrix.numel())
        self._library("kg_pack", matrix, *matrix.shape, packed)
        return self._keep(packed)

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.float().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
