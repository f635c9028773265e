"""The kernel of ``operators/conditional_filter.py``: some edges at a time go through the whole network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from kinetograph.kernels.operators.register import DoesNotFit

BLOCK_E = 16
"""Edges at a time."""
BLOCK_K = 32
"""Inputs of a product at a time."""
WIDEST = 128
"""Of a layer: a whole matrix of weights is read into the memory of a multiprocessor."""


@triton.jit
def _summed(
    edges, sources, targets, values, factors, first_weight, weights, biases, first, neighbor, sums,
    K: tl.constexpr, H: tl.constexpr, N_LAYERS: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    atom = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, H)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    total = tl.zeros((H,), dtype=tl.float32)
    of_target = tl.load(targets + atom * H + h) + tl.load(biases + h)
    for block in range(begin, end, BLOCK_E):
        e = block + tl.arange(0, BLOCK_E)
        known = e < end
        j = tl.load(neighbor + e, mask=known, other=0)
        x = (
            tl.load(sources + j[:, None] * H + h[None, :], mask=known[:, None], other=0.0)
            + of_target[None, :]
        )
        for k_0 in range(0, K, BLOCK_K):
            k = k_0 + tl.arange(0, BLOCK_K)
            rows = tl.load(
                edges + e[:, None] * K + k[None, :], mask=known[:, None] & (k < K)[None, :], other=0.0
            )
            columns = tl.load(first_weight + h[None, :] * K + k[:, None], mask=(k < K)[:, None], other=0.0)
            x += tl.dot(rows, columns, input_precision=PRECISION)
        for layer in tl.static_range(1, N_LAYERS):
            x = x * tl.sigmoid(x)
            matrix = tl.load(weights + (layer - 1) * H * H + h[None, :] * H + h[:, None])
            x = tl.dot(x, matrix, input_precision=PRECISION) + tl.load(biases + layer * H + h)[None, :]
        x *= tl.load(values + j[:, None] * H + h[None, :], mask=known[:, None], other=0.0)
        if WEIGHTED:
            x *= tl.load(factors + e, mask=known, other=0.0)[:, None]
        total += tl.sum(tl.where(known[:, None], x, 0.0), axis=0)
    tl.store(sums + atom * H + h, total)


def summed(
    edges: Tensor,
    sources: Tensor,
    targets: Tensor,
    values: Tensor,
    factors: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """As the operator, in single precision, or in TF32 where torch's own products are.

    A network that is too wide (ForceNet's 512) is as well off with torch's own products.

    Raises:
        DoesNotFit: a layer is wider than ``WIDEST``.
    """
    if max(len(weight) for weight in weights) > WIDEST:
        raise DoesNotFit
    n_atoms, width = values.shape
    h = max(16, triton.next_power_of_2(max(len(weight) for weight in weights)))

    def wide(x: Tensor) -> Tensor:
        return pad(x, (0, h - x.shape[-1])).contiguous()

    square = [pad(w, (0, h - w.shape[1], 0, h - w.shape[0])) for w in weights[1:]]
    first_weight = pad(weights[0], (0, 0, 0, h - len(weights[0]))).contiguous()
    sums = values.new_empty(n_atoms, h)
    _summed[(n_atoms,)](
        *(edges.contiguous(), wide(sources), wide(targets), wide(values)),
        edges if factors is None else factors.contiguous(),
        *(first_weight, torch.stack(square) if square else first_weight),
        torch.stack([wide(bias) for bias in biases]),
        *(first, neighbor, sums),
        K=edges.shape[1],
        H=h,
        N_LAYERS=len(weights),
        WEIGHTED=factors is not None,
        BLOCK_E=BLOCK_E,
        BLOCK_K=BLOCK_K,
        PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        num_stages=1,  # more matrices at a time than one are more than most devices hold
        num_warps=8,
    )
    return sums[:, :width].contiguous()
