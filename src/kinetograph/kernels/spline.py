"""Functions of a distance as uniform cubic B-splines, made once for running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import solve_banded
from torch import Tensor

Function = Callable[[Tensor], Tensor]
"""(n,) distances → (n, n_functions), differentiable."""

SHORTEST_A = 0.3
"""Å: where tables of distances begin. No two nuclei come so close; where they do the plain form runs."""
TOLERANCE, SLOPE_TOLERANCE = 2e-6, 4e-6
"""Largest error of what is tabulated and of its derivative, relative to the largest value."""
INTERVALS = tuple(round(64 * 2 ** (k / 2)) for k in range(11))
"""Numbers of intervals that are tried, 64 … 2048."""


@dataclass(frozen=True)
class SplineTable:
    """Values between the knots x_k = start + k h are Σ_m w_m(t) rows[k + m], m = 0 … 3, with the weights of
    cubic B-splines."""

    rows: Tensor
    """(n_intervals + 3, n_functions) float64."""
    start: float
    end: float
    """The spline is defined between these."""
    error: float
    """Largest error found between the knots, relative to the largest value."""
    slope_error: float
    """The same of the derivative."""

    @property
    def n_intervals(self) -> int:
        return len(self.rows) - 3

    def __call__(self, x: Tensor) -> Tensor:
        """(n,) → (n, n_functions): the plain form of what the kernels compute."""
        at = (x - self.start) * (self.n_intervals / (self.end - self.start))
        whole = at.long().clamp(max=self.n_intervals - 1)
        weights, rows = cubic_weights(at - whole), self.rows.to(x.dtype)
        return sum((w.unsqueeze(1) * rows[whole + m] for m, w in enumerate(weights)), torch.zeros(()))


def cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the four rows that make a value, at 0 ≤ t ≤ 1 between two knots."""
    u = 1.0 - t
    return (
        u**3 / 6.0,
        2.0 / 3.0 - t**2 + t**3 / 2.0,
        2.0 / 3.0 - u**2 + u**3 / 2.0,
        t**3 / 6.0,
    )


def spline_table(
    function: Function, start: float, end: float, tolerance: float, slope_tolerance: float
) -> SplineTable:
    """Tabulate functions from ``start`` to ``end``, with as few intervals as hold the tolerances.

    Args:
        function: in double precision, smooth in between.
        tolerance: largest error of values relative to the largest value.
        slope_tolerance: the same of derivatives.
    """
    for n in INTERVALS:
        table = _fit(function, start, end, n)
        if table.error <= tolerance and table.slope_error <= slope_tolerance:
            break
    return table


def _fit(function: Function, start: float, end: float, n: int) -> SplineTable:
    knots = torch.linspace(start, end, n + 1, dtype=torch.float64, device="cpu")
    values, slopes = _with_slopes(function, knots)
    h = (end - start) / n
    # (c₋₁ + 4 c₀ + c₁)/6 = y at every knot; (c₁ − c₋₁)/2h = y' at the two ends.
    banded = np.zeros((5, n + 3))
    banded[1, 2:], banded[2, 1:-1], banded[3, :-2] = 1 / 6, 4 / 6, 1 / 6
    banded[2, 0], banded[1, 1], banded[0, 2] = -0.5 / h, 0.0, 0.5 / h
    banded[4, -3], banded[3, -2], banded[2, -1] = -0.5 / h, 0.0, 0.5 / h
    right = torch.cat([slopes[:1], values, slopes[-1:]]).numpy()
    rows = torch.from_numpy(solve_banded((2, 2), banded, right))
    table = SplineTable(rows, start, end, 0.0, 0.0)
    between = (
        knots[:-1, None] + h * torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device="cpu")
    ).flatten()
    true, true_slopes = _with_slopes(function, between)
    ours, our_slopes = _with_slopes(table, between)
    error = (ours - true).abs().max() / true.abs().max()
    slope_error = (our_slopes - true_slopes).abs().max() / true_slopes.abs().max()
    return SplineTable(rows, start, end, float(error), float(slope_error))


def _with_slopes(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives, (n, n_functions) each."""
    with torch.enable_grad():
        # A forward derivative as the derivative of a backward one: one pass for all functions.
        x = x.clone().requires_grad_(True)
        values = function(x)
        probe = torch.zeros_like(values, requires_grad=True)
        (backward,) = torch.autograd.grad(values, x, probe, create_graph=True)
    (slopes,) = torch.autograd.grad(backward, probe, torch.ones_like(backward))
    return values.detach(), slopes.detach()
