"""Philox 4×32-10, a random number generator without a state, where a device draws its own numbers.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11
(2011): a bijection of counters under a key. Normal numbers are made of two words each by G. E. P. Box and
M. E. Muller, Ann. Math. Stat. 29, 610 (1958).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kinetograph.kernels.native import triton_kernels

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
N_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words of 32 bits, in int64, of four counters and two keys, which broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(N_ROUNDS):
        # Products wrap around at 64 bits, whose upper half is right even so.
        low, high = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            ((high >> 32) & _WORD) ^ c1 ^ k0,
            high & _WORD,
            ((low >> 32) & _WORD) ^ c3 ^ k1,
            low & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def normal_numbers(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """(n, 3) float64 independent standard normal numbers of n counters, int64 words of 32 bits.

    Args:
        counter: (n,) each, or what broadcasts to that.
        key: the same.
    """
    words: tuple[Tensor, ...] = torch.broadcast_tensors(*counter, *key)  # type: ignore[no-untyped-call]
    if words[0].device.type == "cuda" and triton_kernels():
        from kinetograph.kernels.gpu import philox as gpu

        with torch.cuda.device(words[0].device):
            return gpu.normal_numbers(*(word.contiguous() for word in words))
    a, b, c, d = (_between(word) for word in philox(counter, key))
    first, second = (-2.0 * a.log()).sqrt(), (-2.0 * c.log()).sqrt()
    turn, other = 2.0 * math.pi * b, 2.0 * math.pi * d
    return torch.stack([first * turn.cos(), first * turn.sin(), second * other.cos()], dim=1)


def _between(word: Tensor) -> Tensor:
    """A word as a number between 0 and 1, neither of them."""
    return (word.double() + 0.5) * 2.0**-32
