"""Sums over the edges of an atom, and over what belongs to each structure of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


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
    if values.device.type == "cpu":
        return torch.stack([block.sum(dim=0) for block in torch.split(values, counts.tolist())])
    block_of_row = torch.repeat_interleave(counts, output_size=len(values))
    return sum_to(block_of_row, values, len(counts))
