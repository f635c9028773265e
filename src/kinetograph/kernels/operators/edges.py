"""Where the edges of an atom begin, and tables of functions of distance, in torch's operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.kernels.spline import SplineTable, cubic_weights

N_WEIGHTS = 4
"""Rows of a table that make a value."""


@dataclass(frozen=True)
class Table:
    """Functions of distance between two distances, zero beyond."""

    rows: Tensor
    """(n_rows, n_functions)."""
    start: float
    """Å: shorter distances are taken for this one."""
    per_length: float
    """Intervals in an Å."""

    @staticmethod
    def of(spline: SplineTable, like: Tensor) -> Table:
        """In the type and on the device of another tensor."""
        per_length = spline.n_intervals / (spline.end - spline.start)
        return Table(spline.rows.to(like).contiguous(), spline.start, per_length)


def first_edges(center: Tensor, n_atoms: int) -> Tensor:
    """(n_atoms + 1,) int64: number of the first edge of each atom, and how many there are.

    Args:
        center: (n_edges,) int64, ascending.
    """
    return torch.searchsorted(center, torch.arange(n_atoms + 1, device=center.device))


def centers(first: Tensor, n_edges: int) -> Tensor:
    """(n_edges,) int64: the atom that each edge belongs to."""
    atoms = torch.arange(len(first) - 1, device=first.device)
    return torch.repeat_interleave(atoms, first.diff(), output_size=n_edges)


def looked_up(rows: Tensor, distances: Tensor, start: float, per_length: float) -> tuple[Tensor, Tensor]:
    """(n_edges, n_functions) values and slopes of a table's functions."""
    at = (distances - start).clamp(min=0.0) * per_length
    n_intervals = len(rows) - (N_WEIGHTS - 1)
    whole = at.long().clamp(max=n_intervals - 1)
    t = at - whole
    u = 1.0 - t
    slopes = (-0.5 * u**2, t * (1.5 * t - 2.0), u * (2.0 - 1.5 * u), 0.5 * t**2)
    within = (at <= n_intervals).to(rows)
    between = within * (distances > start)

    def mixed(factors: tuple[Tensor, ...], all_: Tensor) -> Tensor:
        parts = [(all_ * w).unsqueeze(1) * rows[whole + m] for m, w in enumerate(factors)]
        return torch.stack(parts).sum(dim=0)

    return mixed(cubic_weights(t), within), mixed(slopes, between * per_length)
