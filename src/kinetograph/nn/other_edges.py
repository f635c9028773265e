"""Sums over the edges that meet an edge at its centre, by the angles between them: no triplets are listed."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from kinetograph.graph import Graph
from kinetograph.kernels.operators.edges import first_edges
from kinetograph.kernels.operators.legendre_sum import legendre, legendre_gather, legendre_spread

UNEVEN = 2.0
"""How many times as large as its triplets one block of all atoms may be, before it is made of several."""


class OtherEdges:
    """The other edges of every edge's centre, and sums over them with K_l = (2l+1)/4π P_l(u·u′).

    Fused operators, which can be differentiated once; or, as many times as one likes, products of dense
    blocks, one for each atom and as wide as the largest neighbourhood. Where neighbourhoods are of very
    different size, atoms with as many neighbours within a factor of two share a width, so that memory goes
    with the number of triplets.

    Args:
        units: (n_edges, 3) from centre to neighbour.
        n_l: number of degrees l.
        fused: whether by operators.
    """

    def __init__(self, graph: Graph, units: Tensor, n_l: int, *, fused: bool) -> None:
        self.units, self.n_l, self.fused = units, n_l, fused
        self.center, self.first = graph.center, first_edges(graph.center, graph.n_atoms)

    @property
    def norms(self) -> Tensor:
        """(n_l, 1): what K_l is multiplied with to be Y_l0."""
        degree = torch.arange(self.n_l, dtype=self.units.dtype, device=self.units.device)
        return torch.sqrt(4.0 * math.pi / (2.0 * degree + 1.0)).unsqueeze(1)

    def spread(self, x: Tensor) -> Tensor:
        """(n_edges, width) → (n_edges, n_l, width): Σ_{e′ ≠ e} K_l x_e′."""
        if self.fused:
            spread: Tensor = legendre_spread(x, self.units, self.first, self.n_l)
            return spread
        return self._joined(
            [block.of_edges(block.kernel.flatten(1, 2) @ block.placed(x), self.n_l) for block in self._blocks]
        )

    def gather(self, x: Tensor) -> Tensor:
        """(n_edges, n_l, width) → (n_edges, width): Σ_{e′ ≠ e} Σ_l K_l x_e′l."""
        if self.fused:
            gathered: Tensor = legendre_gather(x, self.units, self.first)
            return gathered
        parts = []
        for block in self._blocks:
            of_degrees = block.placed(x).transpose(1, 2).flatten(1, 2)
            parts.append(block.of_edges(block.kernel.flatten(2, 3) @ of_degrees))
        return self._joined(parts)

    def combine(self, x: Tensor, filters: Tensor) -> Tensor:
        """Σ_{e′ ≠ e} (Σ_l K_l f_e′lb) x_e′ for a few filters b, (n_edges, n_filters, width).

        Args:
            x: (n_edges, width).
            filters: (n_edges, n_l, n_filters).
        """
        if self.fused:
            columns = (column.unsqueeze(2) for column in filters.unbind(dim=2))
            return torch.stack([self.gather(column * x.unsqueeze(1)) for column in columns], dim=1)
        parts = []
        for block in self._blocks:
            # The filters first: they are fewer than the features.
            pairs = torch.einsum("ailj,ajlb->aibj", block.kernel, block.placed(filters))
            parts.append(block.of_edges(pairs.flatten(1, 2) @ block.placed(x), filters.shape[2]))
        return self._joined(parts)

    @cached_property
    def _blocks(self) -> list[_Block]:
        counts = self.first.diff()
        largest = counts.max() if len(counts) else 0
        if len(counts) * largest**2 <= UNEVEN * counts.square().sum():
            return [_Block(self, None)]
        sizes = torch.ceil(torch.log2(counts.clamp(min=1))).long()
        size_of_edge = sizes[self.center]
        return [
            _Block(self, torch.nonzero(size_of_edge == size)[:, 0]) for size in torch.unique(size_of_edge)
        ]

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Of the edges of each block, in the order of all edges."""
        if len(self._blocks) == 1:
            return parts[0]
        return torch.cat(parts).index_select(0, self._order)

    @cached_property
    def _order(self) -> Tensor:
        edges = torch.cat([block.edges for block in self._blocks if block.edges is not None])
        return torch.empty_like(edges).index_copy(0, edges, torch.arange(len(edges), device=edges.device))


class _Block:
    """Atoms whose edges stand in rows of one width, with empty places behind them.

    Args:
        edges: (n,) of these atoms, those of an atom behind each other; ``None``: all.
    """

    def __init__(self, others: OtherEdges, edges: Tensor | None) -> None:
        self.edges, self.n_l = edges, others.n_l
        center = others.center if edges is None else others.center[edges]
        rank = torch.arange(len(others.center), device=center.device) - others.first[others.center]
        rank = rank if edges is None else rank[edges]
        # Atoms without edges have no row.
        atoms, row = torch.unique_consecutive(center, return_inverse=True)
        self.n_atoms, self.n_places = len(atoms), int(rank.max()) + 1 if len(rank) else 0
        self.place = row * self.n_places + rank
        self.kernel = self._kernel(others.units)

    def _kernel(self, units: Tensor) -> Tensor:
        """(n_atoms, n_places, n_l, n_places), zero between an edge and itself and at empty places."""
        filled = self.placed(units.new_ones(len(units)))
        itself = torch.eye(self.n_places, dtype=units.dtype, device=units.device)
        other = filled.unsqueeze(2) * filled.unsqueeze(1) * (1.0 - itself)
        placed = self.placed(units)
        kernel, _ = legendre(placed @ placed.transpose(1, 2), self.n_l)
        return torch.stack(kernel, dim=2) * other.unsqueeze(2)

    def placed(self, values: Tensor) -> Tensor:
        """(n_edges, …) of all edges → (n_atoms, n_places, …)."""
        values = values if self.edges is None else values.index_select(0, self.edges)
        empty = values.new_zeros(self.n_atoms * self.n_places, *values.shape[1:])
        placed = empty.index_copy(0, self.place, values)
        return placed.view(self.n_atoms, self.n_places, *values.shape[1:])

    def of_edges(self, values: Tensor, *inner: int) -> Tensor:
        """(n_atoms, n_places × inner, width) → (n, inner, width) of the block's edges."""
        rows = values.reshape(self.n_atoms * self.n_places, *inner, values.shape[2])
        return rows.index_select(0, self.place)
