"""Sums over the edges of an atom."""

from __future__ import annotations

from torch import Tensor


def sum_to(index: Tensor, values: Tensor, n: int) -> Tensor:
    """(n, …) with ``values[e]`` added to row ``index[e]``; rows that nothing is added to are zero."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, index, values)
