"""The kernels of ``operators/legendre_sum.py``. One program works on one edge and a block of its features."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kinetograph.kernels.operators.edges import centers
from kinetograph.kernels.operators.register import DoesNotFit

BLOCK_E = 16
"""Other edges at a time."""
BLOCK_F = 64
"""Features of a program."""
MAX_DEGREES = 16
"""Polynomials, as columns of a product of matrices."""
FOUR_PI = tl.constexpr(12.566370614359172)


@triton.jit
def _kernels(c, l, SLOPES: tl.constexpr, N_L: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_L: tl.constexpr):
    """(BLOCK_E, BLOCK_L): K_l(c) or its derivative in column l, zero behind the last."""
    below = tl.zeros((BLOCK_E,), dtype=tl.float32)
    here = below + 1.0
    slope_below, slope = below, below
    found = tl.zeros((BLOCK_E, BLOCK_L), dtype=tl.float32)
    for degree in tl.static_range(N_L):
        value = slope if SLOPES else here
        found = tl.where((l == degree)[None, :], (value * ((2 * degree + 1) / FOUR_PI))[:, None], found)
        # P_(l+1) and P′_(l+1) = P′_(l−1) + (2l+1) P_l
        slope_above = slope_below + (2 * degree + 1) * here
        above = ((2 * degree + 1) * c * here - degree * below) / (degree + 1)
        below, here, slope_below, slope = here, above, slope, slope_above
    return found


@triton.jit
def _cosines(units, e, other, mask):
    """c = u_e · u_e′, and the parts of u_e′."""
    x = tl.load(units + 3 * other, mask=mask, other=0.0)
    y = tl.load(units + 3 * other + 1, mask=mask, other=0.0)
    z = tl.load(units + 3 * other + 2, mask=mask, other=0.0)
    own = tl.load(units + 3 * e) * x + tl.load(units + 3 * e + 1) * y + tl.load(units + 3 * e + 2) * z
    return own, x, y, z


@triton.jit
def _spread(
    x, units, center, first, y,
    N_L: tl.constexpr, F: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    l = tl.arange(0, BLOCK_L)
    atom = tl.load(center + e)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    total = tl.zeros((BLOCK_L, BLOCK_F), dtype=tl.float32)
    for block in range(begin, end, BLOCK_E):
        other = block + tl.arange(0, BLOCK_E)
        known = (other < end) & (other != e)
        c, _, _, _ = _cosines(units, e, other, known)
        k = _kernels(c, l, False, N_L, BLOCK_E, BLOCK_L)
        rows = tl.load(x + other[:, None] * F + f[None, :], mask=known[:, None] & (f < F)[None, :], other=0.0)
        total += tl.dot(tl.trans(k), rows, input_precision="ieee")
    at = y + e * (N_L * F) + l[:, None] * F + f[None, :]
    tl.store(at, total, mask=(l < N_L)[:, None] & (f < F)[None, :])


@triton.jit
def _gathered(
    x, units, center, first, y,
    N_L: tl.constexpr, F: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    l = tl.arange(0, BLOCK_L)
    atom = tl.load(center + e)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    total = tl.zeros((BLOCK_F,), dtype=tl.float32)
    for block in range(begin, end, BLOCK_E):
        other = block + tl.arange(0, BLOCK_E)
        known = (other < end) & (other != e)
        c, _, _, _ = _cosines(units, e, other, known)
        k = _kernels(c, l, False, N_L, BLOCK_E, BLOCK_L)
        for degree in tl.static_range(N_L):
            weight = tl.sum(tl.where((l == degree)[None, :], k, 0.0), axis=1)
            at = x + other[:, None] * (N_L * F) + degree * F + f[None, :]
            rows = tl.load(at, mask=known[:, None] & (f < F)[None, :], other=0.0)
            total += tl.sum(weight[:, None] * rows, axis=0)
    tl.store(y + e * F + f, total, mask=f < F)


@triton.jit
def _slopes(
    wide, narrow, units, center, first, by_units,
    N_L: tl.constexpr, F: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0).to(tl.int64)
    l = tl.arange(0, BLOCK_L)
    atom = tl.load(center + e)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    s_x = tl.zeros((BLOCK_E,), dtype=tl.float32)
    s_y, s_z = s_x, s_x
    for block in range(begin, end, BLOCK_E):
        other = block + tl.arange(0, BLOCK_E)
        known = (other < end) & (other != e)
        c, x, y, z = _cosines(units, e, other, known)
        k = _kernels(c, l, True, N_L, BLOCK_E, BLOCK_L)
        weight = tl.zeros((BLOCK_E,), dtype=tl.float32)
        for g in range(0, F, BLOCK_F):
            f = g + tl.arange(0, BLOCK_F)
            mask = known[:, None] & (f < F)[None, :]
            rows = tl.load(narrow + other[:, None] * F + f[None, :], mask=mask, other=0.0)
            own = tl.load(narrow + e * F + f, mask=f < F, other=0.0)
            for degree in tl.static_range(N_L):
                slope = tl.sum(tl.where((l == degree)[None, :], k, 0.0), axis=1)
                mine = tl.load(wide + (e * N_L + degree) * F + f, mask=f < F, other=0.0)
                at = wide + (other[:, None] * N_L + degree) * F + f[None, :]
                theirs = tl.load(at, mask=mask, other=0.0)
                weight += slope * tl.sum(rows * mine[None, :] + theirs * own[None, :], axis=1)
        s_x += weight * x
        s_y += weight * y
        s_z += weight * z
    tl.store(by_units + 3 * e, tl.sum(s_x, axis=0))
    tl.store(by_units + 3 * e + 1, tl.sum(s_y, axis=0))
    tl.store(by_units + 3 * e + 2, tl.sum(s_z, axis=0))


def _sizes(n_l: int, width: int) -> dict[str, int]:
    if n_l > MAX_DEGREES:
        raise DoesNotFit
    block_f = max(16, min(BLOCK_F, triton.next_power_of_2(width)))
    return {"N_L": n_l, "F": width, "BLOCK_E": BLOCK_E, "BLOCK_F": block_f, "BLOCK_L": MAX_DEGREES}


def spread(x: Tensor, units: Tensor, first: Tensor, n_l: int) -> Tensor:
    """As the operator, in single precision; raises ``DoesNotFit`` for more polynomials than columns."""
    n_edges, width = x.shape
    y, sizes = x.new_empty(n_edges, n_l, width), _sizes(n_l, width)
    grid = (n_edges, triton.cdiv(width, sizes["BLOCK_F"]))
    _spread[grid](x.contiguous(), units.contiguous(), centers(first, n_edges), first, y, **sizes)
    return y


def gathered(x: Tensor, units: Tensor, first: Tensor) -> Tensor:
    """As the operator, in single precision; raises ``DoesNotFit`` for more polynomials than columns."""
    n_edges, n_l, width = x.shape
    y, sizes = x.new_empty(n_edges, width), _sizes(n_l, width)
    grid = (n_edges, triton.cdiv(width, sizes["BLOCK_F"]))
    _gathered[grid](x.contiguous(), units.contiguous(), centers(first, n_edges), first, y, **sizes)
    return y


def slopes_of_units(wide: Tensor, narrow: Tensor, units: Tensor, first: Tensor) -> Tensor:
    """As the operator, in single precision; raises ``DoesNotFit`` for more polynomials than columns."""
    n_edges, n_l, width = wide.shape
    by_units = torch.empty_like(units, memory_format=torch.contiguous_format)
    _slopes[(n_edges,)](
        *(
            wide.contiguous(),
            narrow.contiguous(),
            units.contiguous(),
            centers(first, n_edges),
            first,
            by_units,
        ),
        **_sizes(n_l, width),
    )
    return by_units
