"""GNNFF's sum over triplets: y_e = Σ_{e′} f_{e′} σ(a_e + b_{e′}) ∘ tanh(a′_e + b′_{e′}).

Here e′ begins where e ends. The two arguments are split where atoms and edges are (``models/gnnff.py``), so
that a triplet costs no product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinetograph.kernels.operators.register import edge_operator


@edge_operator("gated_sum.summed")
def gated_sum(
    of_first: Tensor,
    of_second: Tensor,
    factors: Tensor | None,
    left_out: Tensor | None,
    first: Tensor,
    neighbor: Tensor,
    first_incoming: Tensor,
    incoming: Tensor,
) -> Tensor:
    """(n_edges, d): the sum of each edge. Differentiable once by the first three arguments.

    Args:
        of_first: (n_edges, 2 d): what an edge e adds, to gates and then to cores.
        of_second: (n_edges, 2 d): the same of an edge e′.
        factors: (n_edges,) f, ``None``: all one.
        left_out: (n_edges,) int64: for each e an e′ that is left out, or −1; ``None``: there are none.
        first: (n_atoms + 1,) int64 first edge of each atom.
        neighbor: (n_edges,) int64: where an edge ends.
        first_incoming: (n_atoms + 1,) int64: see :func:`incoming_edges`.
        incoming: (n_edges,) int64.
    """
    e, other = _pairs(left_out, first, neighbor)
    return torch.zeros_like(_halves(of_first)[0]).index_add(
        0, e, _gate(of_first, of_second, e, other) * _factor(factors, other, of_first)
    )


@edge_operator("gated_sum.by_first")
def gated_sum_by_first(
    by_y: Tensor,
    of_first: Tensor,
    of_second: Tensor,
    factors: Tensor | None,
    left_out: Tensor | None,
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """(n_edges, 2 d): derivatives by what the edges e add."""
    e, other = _pairs(left_out, first, neighbor)
    slopes = _gate_slopes(by_y, of_first, of_second, e, other)
    return torch.zeros_like(of_first).index_add(0, e, slopes * _factor(factors, other, of_first))


@edge_operator("gated_sum.by_second")
def gated_sum_by_second(
    by_y: Tensor,
    of_first: Tensor,
    of_second: Tensor,
    factors: Tensor | None,
    left_out: Tensor | None,
    first: Tensor,
    neighbor: Tensor,
    first_incoming: Tensor,
    incoming: Tensor,
) -> tuple[Tensor, Tensor]:
    """(n_edges, 2 d) and (n_edges,): derivatives by what the edges e′ add, and by their factors."""
    e, other = _pairs(left_out, first, neighbor)
    slopes = _gate_slopes(by_y, of_first, of_second, e, other)
    by_second = torch.zeros_like(of_second).index_add(0, other, slopes * _factor(factors, other, of_first))
    each = (by_y[e] * _gate(of_first, of_second, e, other)).sum(dim=1)
    return by_second, by_y.new_zeros(len(neighbor)).index_add(0, other, each)


def incoming_edges(neighbor: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """(n_atoms + 1,) and (n_edges,): the edges that end at each atom, in their order."""
    order = torch.argsort(neighbor, stable=True)
    atoms = torch.arange(n_atoms + 1, device=neighbor.device)
    return torch.searchsorted(neighbor[order].contiguous(), atoms), order


def _pairs(left_out: Tensor | None, first: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
    """Every e with every e′ that begins where it ends."""
    counts = first.diff()[neighbor]
    e = torch.repeat_interleave(torch.arange(len(neighbor), device=neighbor.device), counts)
    rank = torch.arange(len(e), device=e.device) - (counts.cumsum(0) - counts)[e]
    other = first[neighbor[e]] + rank
    if left_out is not None:
        kept = other != left_out[e]
        e, other = e[kept], other[kept]
    return e, other


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    gate, core = x.chunk(2, dim=1)
    return gate, core


def _factor(factors: Tensor | None, other: Tensor, like: Tensor) -> Tensor:
    return like.new_ones(1, 1) if factors is None else factors[other].unsqueeze(1)


def _gate(of_first: Tensor, of_second: Tensor, e: Tensor, other: Tensor) -> Tensor:
    openness, core = _halves(of_first[e] + of_second[other])
    return torch.sigmoid(openness) * torch.tanh(core)


def _gate_slopes(by_y: Tensor, of_first: Tensor, of_second: Tensor, e: Tensor, other: Tensor) -> Tensor:
    openness, core = _halves(of_first[e] + of_second[other])
    s, t = torch.sigmoid(openness), torch.tanh(core)
    g = by_y[e]
    return torch.cat([g * s * (1.0 - s) * t, g * s * (1.0 - t * t)], dim=1)


@gated_sum.register_fake
def _(of_first: Tensor, *_others: Any) -> Tensor:
    return of_first.new_empty(of_first.shape[0], of_first.shape[1] // 2)


@gated_sum_by_first.register_fake
def _(by_y: Tensor, of_first: Tensor, *_others: Any) -> Tensor:
    return of_first.new_empty(of_first.shape)


@gated_sum_by_second.register_fake
def _(by_y: Tensor, of_first: Tensor, of_second: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    return of_second.new_empty(of_second.shape), by_y.new_empty(by_y.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _back(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
    of_first, of_second, factors, left_out, first, neighbor, first_incoming, incoming = ctx.saved_tensors
    known = (of_first, of_second, factors, left_out, first, neighbor)
    by_first = by_second = by_factors = None
    if ctx.needs_input_grad[0]:
        by_first = gated_sum_by_first(by_y, *known)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        by_second, of_factors = gated_sum_by_second(by_y, *known, first_incoming, incoming)
        by_factors = None if factors is None else of_factors
    return by_first, by_second, by_factors, None, None, None, None, None


gated_sum.register_autograd(_back, setup_context=_keep)
