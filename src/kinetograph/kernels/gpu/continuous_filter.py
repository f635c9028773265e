"""The kernels of ``operators/continuous_filter.py``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kinetograph.kernels.gpu.spline import place, slopes, values

BLOCK_E = 16
"""Edges at a time."""
BLOCK_F = 64
"""Features of a program."""


@triton.jit
def _convolved(
    x, distances, rows, start, per_length, n_rows, first, neighbor, y,
    F: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    atom = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    total = tl.zeros((BLOCK_F,), dtype=tl.float32)
    for block in range(begin, end, BLOCK_E):
        e = block + tl.arange(0, BLOCK_E)
        known = e < end
        j = tl.load(neighbor + e, mask=known, other=0)
        row, t, within = place(tl.load(distances + e, mask=known, other=0.0), start, per_length, n_rows)
        mask = known[:, None] & (f < F)[None, :]
        w = values(rows, row, t, within, f, F, mask)
        total += tl.sum(tl.load(x + j[:, None] * F + f[None, :], mask=mask, other=0.0) * w, axis=0)
    tl.store(y + atom * F + f, total, mask=f < F)


@triton.jit
def _slopes(
    x, by_y, distances, rows, start, per_length, n_rows, first, neighbor, by_distances,
    F: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    atom = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    for block in range(begin, end, BLOCK_E):
        e = block + tl.arange(0, BLOCK_E)
        known = e < end
        j = tl.load(neighbor + e, mask=known, other=0)
        d = tl.load(distances + e, mask=known, other=0.0)
        row, t, within = place(d, start, per_length, n_rows)
        between = within & (d > start)
        total = tl.zeros((BLOCK_E,), dtype=tl.float32)
        for g in range(0, F, BLOCK_F):
            f = g + tl.arange(0, BLOCK_F)
            mask = known[:, None] & (f < F)[None, :]
            slope = slopes(rows, row, t, between, per_length, f, F, mask)
            by = tl.load(by_y + atom * F + f, mask=f < F, other=0.0)
            total += tl.sum(
                tl.load(x + j[:, None] * F + f[None, :], mask=mask, other=0.0) * slope * by[None, :], axis=1
            )
        tl.store(by_distances + e, total, mask=known)


def convolved(
    x: Tensor,
    distances: Tensor,
    rows: Tensor,
    start: float,
    per_length: float,
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """As the operator, in single precision."""
    x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    n_atoms, width = x.shape
    block_f = min(BLOCK_F, triton.next_power_of_2(width))
    _convolved[(n_atoms, triton.cdiv(width, block_f))](
        *(x, distances, rows, start, per_length, len(rows), first, neighbor, y, width),
        BLOCK_E=BLOCK_E,
        BLOCK_F=block_f,
    )
    return y


def slopes_of_distances(
    x: Tensor,
    by_y: Tensor,
    distances: Tensor,
    rows: Tensor,
    start: float,
    per_length: float,
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """As the operator, in single precision."""
    x, by_y, by_distances = x.contiguous(), by_y.contiguous(), torch.empty_like(distances)
    n_atoms, width = x.shape
    _slopes[(n_atoms,)](
        *(x, by_y, distances, rows, start, per_length, len(rows), first, neighbor, by_distances, width),
        BLOCK_E=BLOCK_E,
        BLOCK_F=min(BLOCK_F, triton.next_power_of_2(width)),
    )
    return by_distances
