"""SchNet's continuous-filter convolution for running: ``csrc/continuous_filter.cpp``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinetograph.kernels.native import Library, floats, require
from kinetograph.kernels.spline import SHORTEST_A, SLOPE_TOLERANCE, TOLERANCE, Function, spline_table


class ContinuousFilters:
    """Tabulated filters of several layers, on one set of knots.

    Args:
        functions: of each layer, (n,) Å → (n, n_filters), in the precision of what they are given.
        cutoff: Å: where the tables end.
    """

    def __init__(self, library: Library, functions: Sequence[Function], cutoff: float) -> None:
        self.library = library

        def everything(distances: Tensor) -> Tensor:
            return torch.cat([function(distances) for function in functions], dim=1)

        self.table = spline_table(everything, SHORTEST_A, cutoff, TOLERANCE, SLOPE_TOLERANCE)
        per_layer = self.table.rows.tensor_split(len(functions), dim=1)
        self.n_filters = per_layer[0].shape[1]
        self.extra = -self.n_filters % library.width
        self.tables = [
            # (row, F) → (F/W, row, W)
            pad(rows, (0, self.extra))
            .reshape(len(rows), -1, library.width)
            .transpose(0, 1)
            .float()
            .contiguous()
            for rows in per_layer
        ]
        self.rows_per_length = self.table.n_intervals / (cutoff - SHORTEST_A)

    def edges(self, center: Tensor, neighbor: Tensor, vectors: Tensor, n_atoms: int) -> PreparedEdges:
        """The edges of a graph, prepared for all layers.

        Args:
            center, neighbor: (n_edges,) int64, sorted by centre; every edge has one that goes back.
            vectors: (n_edges, 3) float32 Å, between ``SHORTEST_A`` and the cutoff long.
        """
        return PreparedEdges(self, center, neighbor, vectors, n_atoms)


class PreparedEdges:
    """Edges of a graph, of use to every layer."""

    def __init__(
        self, filters: ContinuousFilters, center: Tensor, neighbor: Tensor, vectors: Tensor, n_atoms: int
    ) -> None:
        self.filters, self.n_edges, self.n_atoms = filters, len(center), n_atoms
        library = filters.library
        n_bytes = library("kg_continuous_filter_edge_bytes") * self.n_edges
        self.memory = torch.empty(n_bytes, dtype=torch.uint8, device="cpu")
        self.first = torch.empty(n_atoms + 1, dtype=torch.int64, device="cpu")
        require(torch.int64, center, neighbor)
        require(torch.float32, vectors)
        library(
            "kg_continuous_filter_edges",
            *(n_atoms, self.n_edges, center, neighbor, vectors.contiguous(), len(filters.table.rows)),
            ctypes.byref(ctypes.c_double(SHORTEST_A)),
            ctypes.byref(ctypes.c_double(filters.rows_per_length)),
            *(self.memory, self.first),
        )

    def convolve(self, layer: int, x: Tensor, distances: Tensor) -> Tensor:
        """y_i = Σ_j x_j ∘ w(d_ij), (n_atoms, n_filters) → (n_atoms, n_filters).

        Differentiable once. The derivative by a distance is that of the edge that goes back: forces and
        virial are the same.

        Args:
            distances: (n_edges,) what derivatives are taken by; the values are those of the vectors.
        """
        extra = self.filters.extra
        x = pad(x, (0, extra)) if extra else x
        y: Tensor = _Convolution.apply(x, distances, self, layer)  # type: ignore[no-untyped-call]
        return y[:, : self.filters.n_filters]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, distances: Tensor, edges: PreparedEdges, layer: int) -> Tensor:
        require(torch.float32, x)
        x = x.contiguous()
        y = torch.empty_like(x)
        ctx.save_for_backward(x)
        ctx.edges, ctx.layer = edges, layer
        edges.filters.library("kg_continuous_filter", *_arguments(edges, layer, x), y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (x,) = ctx.saved_tensors
        edges: PreparedEdges = ctx.edges
        by_x, by_distances = torch.empty_like(x), floats(edges.n_edges)
        edges.filters.library(
            "kg_continuous_filter_back",
            *_arguments(edges, ctx.layer, x),
            *(by_y.contiguous(), by_x, by_distances),
        )
        return by_x, by_distances, None, None


def _arguments(edges: PreparedEdges, layer: int, x: Tensor) -> tuple[Any, ...]:
    table = edges.filters.tables[layer]
    return (edges.n_atoms, edges.memory, edges.first, table, table.shape[1], x.shape[1], x)
