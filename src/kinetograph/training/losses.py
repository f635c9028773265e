"""Losses on forces."""

from __future__ import annotations

import torch
from torch import Tensor


def force_l1(predicted: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error of the force components (GAMD's loss)."""
    return (predicted - reference).abs().mean()


def net_force_penalty(predicted: Tensor, system_index: Tensor, n_systems: int) -> Tensor:
    """|Σ_i F_i| / N, the L1 norm of the net force per atom, averaged over structures.

    GAMD's paper takes the norm of the sum, its program that of the mean. The mean keeps its weight
    beside a loss that is a mean too: with the sum, at some hundred atoms, λ = 10⁻³ is as strong as
    the loss itself and holds a model that must learn directions at zero force.
    """
    total = predicted.new_zeros(n_systems, 3).index_add(0, system_index, predicted)
    n_atoms = torch.bincount(system_index, minlength=n_systems)
    return (total.abs().sum(dim=1) / n_atoms).mean()
