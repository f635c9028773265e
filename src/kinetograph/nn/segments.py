"""Sums over the edges of an atom, and over what belongs to each structure of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

EACH_ALONE_ON = ("cpu",)
"""Devices where blocks are summed one by one, after asking how long they are."""


def sum_to(index: Tensor, values: Tensor, n: int) -> Tensor:
    """(n, …) with ``values[e]`` added to row ``index[e]``; rows that nothing is added to are zero."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, index, values)


def sum_of_blocks(values: Tensor, counts: Tensor) -> Tensor:
    """(n_blocks, …): sums of consecutive rows, ``counts[b]`` of them in block b.

    On a CPU each block is summed as if it were alone: to the bit, its sum does not depend on what else
    there is, so that a replica goes on the same when another leaves the batch.
    """
    if len(counts) == 1:
        return values.sum(dim=0, keepdim=True)
    if values.device.type in EACH_ALONE_ON:
        return torch.stack([block.sum(dim=0) for block in torch.split(values, counts.tolist())])
    block_of_row = torch.repeat_interleave(counts, output_size=len(values))
    return sum_to(block_of_row, values, len(counts))


def sum_of_products(first: Tensor, second: Tensor, counts: Tensor) -> Tensor:
    """(n_blocks, a, b): Σ first_i second_j over consecutive rows, as :func:`sum_of_blocks` sums.

    Args:
        first: (n, a).
        second: (n, b).
        counts: (n_blocks,) rows in each block.
    """
    if len(counts) == 1:
        return (first.T @ second).unsqueeze(0)
    if first.device.type in EACH_ALONE_ON:
        sizes = counts.tolist()
        pairs = zip(torch.split(first, sizes), torch.split(second, sizes), strict=True)
        return torch.stack([a.T @ b for a, b in pairs])
    return sum_of_blocks(first.unsqueeze(2) * second.unsqueeze(1), counts)
