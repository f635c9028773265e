"""Sums over the edges that meet an edge at its centre, by the angles between them: no triplets are listed."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from kinetograph.graph import Graph
from kinetograph.kernels.operators.edges import first_edges
from kinetograph.kernels.operators.legendre_sum import legendre_gather, legendre_spread


class OtherEdges:
    """The other edges of every edge's centre, and sums over them with Y_l0 of the angle between the two.

    For running the sums are fused operators, differentiable once. A loss on conservative forces asks for
    derivatives of second order: for learning they are products of dense blocks, one for each atom, as wide
    as the largest neighbourhood, in which the angle to an edge itself and to empty places counts nothing.

    Args:
        units: (n_edges, 3) from centre to neighbour.
        n_l: degrees l of the harmonics.
        learning: whether derivatives of second order are needed.
    """

    def __init__(self, graph: Graph, units: Tensor, n_l: int, *, learning: bool) -> None:
        self.units, self.n_l, self.learning = units, n_l, learning
        self.first = first_edges(graph.center, graph.n_atoms)
        degree = torch.arange(n_l, dtype=units.dtype, device=units.device)
        # The operators' polynomials are Y_l0 with the factor that the addition theorem takes.
        self.norms = torch.sqrt(4.0 * math.pi / (2.0 * degree + 1.0)).unsqueeze(1)
        if learning:
            counts = self.first.diff()
            self.n_places = int(counts.max()) if len(counts) else 0
            rank = torch.arange(len(units), device=units.device) - self.first[graph.center]
            self.place = graph.center * self.n_places + rank

    def spread(self, x: Tensor) -> Tensor:
        """(n_edges, width) → (n_edges, n_l, width): Σ_{e′ ≠ e} Y_l0 x_e′."""
        if not self.learning:
            spread: Tensor = legendre_spread(x, self.units, self.first, self.n_l)
            return spread * self.norms
        return self._of_edges(self._harmonics.flatten(1, 2) @ self._placed(x), self.n_l)

    def gather(self, x: Tensor) -> Tensor:
        """(n_edges, n_l, width) → (n_edges, width): Σ_{e′ ≠ e} Σ_l Y_l0 x_e′l."""
        if not self.learning:
            gathered: Tensor = legendre_gather(x * self.norms, self.units, self.first)
            return gathered
        return self._of_edges(self._harmonics.flatten(2, 3) @ self._placed(x).transpose(1, 2).flatten(1, 2))

    def combine(self, x: Tensor, filters: Tensor) -> Tensor:
        """Σ_{e′ ≠ e} (Σ_l Y_l0 f_e′lb) x_e′ for a few filters b, (n_edges, n_filters, width).

        Args:
            x: (n_edges, width).
            filters: (n_edges, n_l, n_filters).
        """
        if not self.learning:
            columns = (column.unsqueeze(2) for column in filters.unbind(dim=2))
            return torch.stack([self.gather(column * x.unsqueeze(1)) for column in columns], dim=1)
        # The filters first: they are fewer than the features.
        pairs = torch.einsum("ailj,ajlb->aibj", self._harmonics, self._placed(filters))
        return self._of_edges(pairs.flatten(1, 2) @ self._placed(x), filters.shape[2])

    @cached_property
    def _harmonics(self) -> Tensor:
        """(n_atoms, n_places, n_l, n_places)."""
        units = self._placed(self.units)
        filled = self._placed(units.new_ones(len(self.units)))
        itself = torch.eye(self.n_places, dtype=units.dtype, device=units.device)
        other = filled.unsqueeze(2) * filled.unsqueeze(1) * (1.0 - itself)
        cosine = units @ units.transpose(1, 2)
        legendre = [other, cosine * other][: self.n_l]
        for l in range(1, self.n_l - 1):
            legendre.append(((2 * l + 1) * cosine * legendre[l] - l * legendre[l - 1]) / (l + 1))
        return torch.stack(legendre, dim=2) / self.norms

    def _placed(self, values: Tensor) -> Tensor:
        """(n_edges, …) → (n_atoms, n_places, …)."""
        n_atoms = len(self.first) - 1
        empty = values.new_zeros(n_atoms * self.n_places, *values.shape[1:])
        placed = empty.index_copy(0, self.place, values)
        return placed.view(n_atoms, self.n_places, *values.shape[1:])

    def _of_edges(self, values: Tensor, *inner: int) -> Tensor:
        """(n_atoms, n_places × inner, width) → (n_edges, inner, width)."""
        rows = values.reshape(len(values) * self.n_places, *inner, values.shape[2])
        return rows.index_select(0, self.place)
