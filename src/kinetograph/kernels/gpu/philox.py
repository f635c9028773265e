"""Normal numbers of Philox in one pass; the plain form is ``kernels/philox.py``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128


@triton.jit
def _between(word):
    return (word.to(tl.int64) & 0xFFFFFFFF).to(tl.float64) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def _normal(c0_at, c1_at, c2_at, c3_at, k0_at, k1_at, out, n, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = rows < n
    c0 = tl.load(c0_at + rows, mask=there, other=0).to(tl.uint32)
    c1 = tl.load(c1_at + rows, mask=there, other=0).to(tl.uint32)
    c2 = tl.load(c2_at + rows, mask=there, other=0).to(tl.uint32)
    c3 = tl.load(c3_at + rows, mask=there, other=0).to(tl.uint32)
    k0 = tl.load(k0_at + rows, mask=there, other=0)
    k1 = tl.load(k1_at + rows, mask=there, other=0)
    a, b, c, d = tl.philox((k1 << 32) | k0, c0, c1, c2, c3)
    first = tl.sqrt(-2.0 * tl.log(_between(a)))
    second = tl.sqrt(-2.0 * tl.log(_between(c)))
    turn = _between(b) * 6.283185307179586
    other = _between(d) * 6.283185307179586
    tl.store(out + 3 * rows, first * tl.cos(turn), mask=there)
    tl.store(out + 3 * rows + 1, first * tl.sin(turn), mask=there)
    tl.store(out + 3 * rows + 2, second * tl.cos(other), mask=there)


def normal_numbers(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor) -> Tensor:
    """(n, 3) float64 of counters and keys, (n,) int64 each."""
    out = torch.empty(len(c0), 3, dtype=torch.float64, device=c0.device)
    _normal[(triton.cdiv(len(c0), BLOCK),)](c0, c1, c2, c3, k0, k1, out, len(c0), BLOCK=BLOCK)
    return out
