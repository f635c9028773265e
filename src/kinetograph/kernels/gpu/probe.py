"""Whether Triton can compile and run a kernel here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _double(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, 2.0 * tl.load(x + i))


def works() -> bool:
    """By a kernel of one line, on the current device.

    Raises:
        Exception: whatever Triton says of a missing compiler, or of a device that it does not know.
    """
    x = torch.ones(16, device="cuda" if torch.cuda.is_available() else "cpu")
    y = torch.empty_like(x)
    _double[(1,)](x, y, N=16)
    return bool((y == 2.0).all())
