"""SchNet's continuous-filter convolution: y_i = Σ_j x_j ∘ w(d_ij), with filters from a table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinetograph.kernels.operators.edges import centers, looked_up
from kinetograph.kernels.operators.register import edge_operator, refuse_trained


@edge_operator("continuous_filter.convolved")
def continuous_filter(
    x: Tensor,
    distances: Tensor,
    rows: Tensor,
    start: float,
    per_length: float,
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """(n_atoms, F): the sum of each atom. Differentiable twice by x, and once by distances.

    Args:
        x: (n_atoms, F).
        distances: (n_edges,) Å.
        rows: (n_rows, F), a table; see ``operators/edges.py``.
        start: Å, where the table begins.
        per_length: intervals of the table in an Å.
        first: (n_atoms + 1,) int64 first edge of each atom.
        neighbor: (n_edges,) int64.
    """
    filters, _ = looked_up(rows, distances, start, per_length)
    return torch.zeros_like(x).index_add(0, centers(first, len(neighbor)), x[neighbor] * filters)


@edge_operator("continuous_filter.slopes_of_distances")
def continuous_filter_slopes(
    x: Tensor,
    by_y: Tensor,
    distances: Tensor,
    rows: Tensor,
    start: float,
    per_length: float,
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """(n_edges,): Σ_f by_y_i x_j w′(d_ij), the derivative by each distance. Not differentiable further."""
    _, slopes = looked_up(rows, distances, start, per_length)
    return (by_y[centers(first, len(neighbor))] * x[neighbor] * slopes).sum(dim=1)


@continuous_filter.register_fake
def _(x: Tensor, *_others: Any) -> Tensor:
    return x.new_empty(x.shape)


@continuous_filter_slopes.register_fake
def _(x: Tensor, by_y: Tensor, distances: Tensor, *_others: Any) -> Tensor:
    return distances.new_empty(distances.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, distances, rows, ctx.start, ctx.per_length, first, neighbor = inputs
    refuse_trained(rows)
    ctx.save_for_backward(x, distances, rows, first, neighbor)


def _back(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
    x, distances, rows, first, neighbor = ctx.saved_tensors
    table = (rows, ctx.start, ctx.per_length)
    by_x = by_distances = None
    if ctx.needs_input_grad[0]:  # every edge has one that goes back
        by_x = continuous_filter(by_y, distances, *table, first, neighbor)
    if ctx.needs_input_grad[1]:
        by_distances = continuous_filter_slopes(x, by_y, distances, *table, first, neighbor)
    return by_x, by_distances, None, None, None, None, None


continuous_filter.register_autograd(_back, setup_context=_keep)
