"""The kernels of ``operators/gated_sum.py``. One program works on one edge and a block of its features."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_E = 16
"""Edges e′ at a time."""
BLOCK_F = 64
"""Features of a program."""


@triton.jit
def _parts(lone, lone_edge, many, many_edges, f, D, known):
    """σ(a + b) and tanh(a′ + b′) of one edge with many: (edges, features).

    Each load has a mask of its pointers' own shape: not every Triton widens the one to the other.
    """
    own = lone + lone_edge * (2 * D) + f
    theirs = many + many_edges[:, None] * (2 * D) + f[None, :]
    mask = known[:, None] & (f < D)[None, :]
    openness = tl.load(own, mask=f < D, other=0.0)[None, :] + tl.load(theirs, mask=mask, other=0.0)
    core = tl.load(own + D, mask=f < D, other=0.0)[None, :] + tl.load(theirs + D, mask=mask, other=0.0)
    return tl.sigmoid(openness), 2.0 * tl.sigmoid(2.0 * core) - 1.0


@triton.jit
def _summed(
    of_first, of_second, factors, left_out, first, neighbor, y,
    D: tl.constexpr, WEIGHTED: tl.constexpr, SPARED: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    j = tl.load(neighbor + e)
    begin, end = tl.load(first + j), tl.load(first + j + 1)
    total = tl.zeros((BLOCK_F,), dtype=tl.float32)
    for block in range(begin, end, BLOCK_E):
        other = block + tl.arange(0, BLOCK_E)
        known = other < end
        if SPARED:
            known = known & (other != tl.load(left_out + e))
        mask = known[:, None] & (f < D)[None, :]
        s, t = _parts(of_first, e, of_second, other, f, D, known)
        gate = tl.where(mask, s * t, 0.0)
        if WEIGHTED:
            gate *= tl.load(factors + other, mask=known, other=0.0)[:, None]
        total += tl.sum(gate, axis=0)
    tl.store(y + e * D + f, total, mask=f < D)


@triton.jit
def _by_first(
    by_y, of_first, of_second, factors, left_out, first, neighbor, by_a,
    D: tl.constexpr, WEIGHTED: tl.constexpr, SPARED: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    e = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    j = tl.load(neighbor + e)
    begin, end = tl.load(first + j), tl.load(first + j + 1)
    of_gate = tl.zeros((BLOCK_F,), dtype=tl.float32)
    of_core = tl.zeros((BLOCK_F,), dtype=tl.float32)
    for block in range(begin, end, BLOCK_E):
        other = block + tl.arange(0, BLOCK_E)
        known = other < end
        if SPARED:
            known = known & (other != tl.load(left_out + e))
        mask = known[:, None] & (f < D)[None, :]
        s, t = _parts(of_first, e, of_second, other, f, D, known)
        w = tl.where(mask, 1.0, 0.0)
        if WEIGHTED:
            w *= tl.load(factors + other, mask=known, other=0.0)[:, None]
        of_gate += tl.sum(w * s * (1.0 - s) * t, axis=0)
        of_core += tl.sum(w * s * (1.0 - t * t), axis=0)
    g = tl.load(by_y + e * D + f, mask=f < D, other=0.0)
    tl.store(by_a + e * (2 * D) + f, g * of_gate, mask=f < D)
    tl.store(by_a + e * (2 * D) + D + f, g * of_core, mask=f < D)


@triton.jit
def _by_second(
    by_y, of_first, of_second, factors, left_out, center, first_incoming, incoming, by_b, by_factors,
    D: tl.constexpr, WEIGHTED: tl.constexpr, SPARED: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    other = tl.program_id(0).to(tl.int64)
    atom = tl.load(center + other)
    begin, end = tl.load(first_incoming + atom), tl.load(first_incoming + atom + 1)
    of_factor = tl.zeros((BLOCK_E,), dtype=tl.float32)
    for h in range(0, D, BLOCK_F):
        f = h + tl.arange(0, BLOCK_F)
        of_gate = tl.zeros((BLOCK_F,), dtype=tl.float32)
        of_core = tl.zeros((BLOCK_F,), dtype=tl.float32)
        for block in range(begin, end, BLOCK_E):
            place = block + tl.arange(0, BLOCK_E)
            known = place < end
            e = tl.load(incoming + place, mask=known, other=0)
            if SPARED:
                known = known & (tl.load(left_out + e, mask=known, other=-1) != other)
            mask = known[:, None] & (f < D)[None, :]
            s, t = _parts(of_second, other, of_first, e, f, D, known)
            g = tl.load(by_y + e[:, None] * D + f[None, :], mask=mask, other=0.0)
            of_factor += tl.sum(g * s * t, axis=1)
            of_gate += tl.sum(g * s * (1.0 - s) * t, axis=0)
            of_core += tl.sum(g * s * (1.0 - t * t), axis=0)
        if WEIGHTED:
            w = tl.load(factors + other)
            of_gate *= w
            of_core *= w
        tl.store(by_b + other * (2 * D) + f, of_gate, mask=f < D)
        tl.store(by_b + other * (2 * D) + D + f, of_core, mask=f < D)
    tl.store(by_factors + other, tl.sum(of_factor, axis=0))


def _sizes(of_first: Tensor, factors: Tensor | None, left_out: Tensor | None) -> dict[str, int]:
    width = of_first.shape[1] // 2
    return {
        "D": width,
        "WEIGHTED": factors is not None,
        "SPARED": left_out is not None,
        "BLOCK_E": BLOCK_E,
        "BLOCK_F": min(BLOCK_F, triton.next_power_of_2(width)),
    }


def _there(*tensors: Tensor | None) -> list[Tensor]:
    """Contiguous; in the place of what there is not stands the first, which is not read."""
    present = tensors[0]
    assert present is not None
    return [(present if x is None else x).contiguous() for x in tensors]


def summed(
    of_first: Tensor,
    of_second: Tensor,
    factors: Tensor | None,
    left_out: Tensor | None,
    first: Tensor,
    neighbor: Tensor,
    first_incoming: Tensor,
    incoming: Tensor,
) -> Tensor:
    """As the operator, in single precision."""
    sizes = _sizes(of_first, factors, left_out)
    y = of_first.new_empty(len(of_first), sizes["D"])
    grid = (len(of_first), triton.cdiv(sizes["D"], sizes["BLOCK_F"]))
    _summed[grid](*_there(of_first, of_second, factors, left_out, first, neighbor), y, **sizes)
    return y


def by_first(
    by_y: Tensor,
    of_first: Tensor,
    of_second: Tensor,
    factors: Tensor | None,
    left_out: Tensor | None,
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """As the operator, in single precision."""
    sizes = _sizes(of_first, factors, left_out)
    by_a = torch.empty_like(of_first, memory_format=torch.contiguous_format)
    grid = (len(of_first), triton.cdiv(sizes["D"], sizes["BLOCK_F"]))
    _by_first[grid](*_there(by_y, of_first, of_second, factors, left_out, first, neighbor), by_a, **sizes)
    return by_a


def by_second(
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
    """As the operator, in single precision."""
    from kinetograph.kernels.operators.edges import centers

    sizes = _sizes(of_first, factors, left_out)
    by_b = torch.empty_like(of_second, memory_format=torch.contiguous_format)
    by_factors = by_y.new_empty(len(by_y))
    _by_second[(len(of_first),)](
        *_there(by_y, of_first, of_second, factors, left_out, centers(first, len(neighbor))),
        *(first_incoming, incoming, by_b, by_factors),
        **sizes,
    )
    return by_b, by_factors
