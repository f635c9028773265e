"""Losses on forces."""

from __future__ import annotations

from torch import Tensor


def force_l1(predicted: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error of the force components (GAMD's loss)."""
    return (predicted - reference).abs().mean()


def net_force_penalty(predicted: Tensor, system_index: Tensor, n_systems: int) -> Tensor:
    """|Σ_i F_i|, the L1 norm of the net force, averaged over structures (GAMD's regulariser)."""
    total = predicted.new_zeros(n_systems, 3).index_add(0, system_index, predicted)
    return total.abs().sum(dim=1).mean()
