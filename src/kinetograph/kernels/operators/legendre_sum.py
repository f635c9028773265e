"""Sums over pairs of edges of one centre, of Legendre polynomials of the angle between them.

With K_l(c) = (2l+1)/4π P_l(c) and c = u_e · u_e′, over e′ ≠ e:

    spread:  y_e,l = Σ_{e′} K_l(c) x_e′          gather:  y_e = Σ_{e′} Σ_l K_l(c) x_e′,l

Each is what the other's derivatives by x are. They are the sums over triplets of GemNet, DimeNet and
DimeNet++.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kinetograph.kernels.operators.edges import centers
from kinetograph.kernels.operators.register import edge_operator


@edge_operator("legendre_sum.spread")
def legendre_spread(x: Tensor, units: Tensor, first: Tensor, n_l: int) -> Tensor:
    """(n_edges, n_l, width). Differentiable once.

    Args:
        x: (n_edges, width).
        units: (n_edges, 3).
        first: (n_atoms + 1,) int64 first edge of each atom.
        n_l: number of polynomials.
    """
    e, other = _pairs(units, first)
    kernel, _ = legendre((units[e] * units[other]).sum(dim=1), n_l)
    parts = [torch.zeros_like(x).index_add(0, e, kernel[l].unsqueeze(1) * x[other]) for l in range(n_l)]
    return torch.stack(parts, dim=1)


@edge_operator("legendre_sum.gathered")
def legendre_gather(x: Tensor, units: Tensor, first: Tensor) -> Tensor:
    """(n_edges, width). Differentiable once.

    Args:
        x: (n_edges, n_l, width).
        units: (n_edges, 3).
        first: (n_atoms + 1,) int64 first edge of each atom.
    """
    e, other = _pairs(units, first)
    n_l = x.shape[1]
    kernel, _ = legendre((units[e] * units[other]).sum(dim=1), n_l)
    y = torch.zeros_like(x[:, 0])
    for l in range(n_l):
        y = y.index_add(0, e, kernel[l].unsqueeze(1) * x[other, l])
    return y


@edge_operator("legendre_sum.slopes_of_units")
def legendre_slopes(wide: Tensor, narrow: Tensor, units: Tensor, first: Tensor) -> Tensor:
    """(n_edges, 3): Σ_{e′} Σ_l K_l′(c) (wide_e,l · narrow_e′ + wide_e′,l · narrow_e) u_e′.

    The derivatives by u of Σ_{e, e′, l} K_l(c) wide_e,l · narrow_e′, where one is what is summed and the
    other the derivative by the sum. Not differentiable further.

    Args:
        wide: (n_edges, n_l, width).
        narrow: (n_edges, width).
    """
    e, other = _pairs(units, first)
    _, slopes = legendre((units[e] * units[other]).sum(dim=1), wide.shape[1])
    weight = torch.zeros_like(slopes[0])
    for l in range(wide.shape[1]):
        both = (wide[e, l] * narrow[other] + wide[other, l] * narrow[e]).sum(dim=1)
        weight = weight + slopes[l] * both
    return torch.zeros_like(units).index_add(0, e, weight.unsqueeze(1) * units[other])


def legendre(c: Tensor, n_l: int) -> tuple[list[Tensor], list[Tensor]]:
    """K_l(c) and their derivatives, l = 0 … n_l − 1, by Bonnet's recursion."""
    p, slopes = [torch.ones_like(c), c][:n_l], [torch.zeros_like(c), torch.ones_like(c)][:n_l]
    for l in range(1, n_l - 1):
        p.append(((2 * l + 1) * c * p[l] - l * p[l - 1]) / (l + 1))
        slopes.append(slopes[l - 1] + (2 * l + 1) * p[l])
    factors = [(2 * l + 1) / (4.0 * math.pi) for l in range(n_l)]
    return (
        [f * x for f, x in zip(factors, p, strict=True)],
        [f * x for f, x in zip(factors, slopes, strict=True)],
    )


def _pairs(units: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Every edge with every other edge of its centre."""
    center = centers(first, len(units))
    counts = first.diff()[center]
    e = torch.repeat_interleave(torch.arange(len(units), device=units.device), counts)
    rank = torch.arange(len(e), device=e.device) - (counts.cumsum(0) - counts)[e]
    other = first[center[e]] + rank
    return e[other != e], other[other != e]


@legendre_spread.register_fake
def _(x: Tensor, units: Tensor, first: Tensor, n_l: int) -> Tensor:
    return x.new_empty(x.shape[0], n_l, x.shape[1])


@legendre_gather.register_fake
def _(x: Tensor, units: Tensor, first: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2])


@legendre_slopes.register_fake
def _(wide: Tensor, narrow: Tensor, units: Tensor, first: Tensor) -> Tensor:
    return units.new_empty(units.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _spread_back(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
    x, units, first = ctx.saved_tensors
    by_x = legendre_gather(by_y.contiguous(), units, first) if ctx.needs_input_grad[0] else None
    by_units = legendre_slopes(by_y.contiguous(), x, units, first) if ctx.needs_input_grad[1] else None
    return by_x, by_units, None, None


def _gather_back(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
    x, units, first = ctx.saved_tensors
    by_x = None
    if ctx.needs_input_grad[0]:
        by_x = legendre_spread(by_y.contiguous(), units, first, x.shape[1])
    by_units = legendre_slopes(x, by_y.contiguous(), units, first) if ctx.needs_input_grad[1] else None
    return by_x, by_units, None


legendre_spread.register_autograd(_spread_back, setup_context=_keep)
legendre_gather.register_autograd(_gather_back, setup_context=_keep)
