"""Losses on forces, energies and stresses. Each is a mean, so that weights mean the same at every size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kinetograph.nn.segments import sum_to

ForceLoss = Literal["mae", "norm", "mse"]
EnergyLoss = Literal["mae", "mse"]


def force_loss(
    predicted: Tensor, reference: Tensor, kind: ForceLoss = "mae", weights: Tensor | None = None
) -> Tensor:
    """Mean error of the forces over atoms.

    Args:
        predicted, reference: (n_atoms, 3).
        kind: ``"mae"``: mean absolute error of components (GAMD, ForceNet); ``"norm"``: mean length of the
            error vector over √3, so that it is as large (GemNet); ``"mse"``: mean square of components.
        weights: (n_atoms,) of the atoms; alike by default.
    """
    error = predicted - reference
    if kind == "mae":
        per_atom = error.abs().mean(dim=1)
    elif kind == "norm":
        # The gradient of the norm is not defined at zero: round the tip off far below any error.
        per_atom = (error.square().sum(dim=1) + 1e-12).sqrt() / 3.0**0.5
    else:
        per_atom = error.square().mean(dim=1)
    return per_atom.mean() if weights is None else (weights * per_atom).sum() / weights.sum()


def energy_loss(predicted: Tensor, reference: Tensor, n_atoms: Tensor, kind: EnergyLoss = "mae") -> Tensor:
    """Mean error of the energies per atom over the structures of known energy; 0 where there is none.

    Args:
        predicted, reference: (n_systems,); NaN in ``reference`` is an unknown energy.
        n_atoms: (n_systems,) of the structures.
        kind: ``"mae"``: mean |ΔE|/N; ``"mse"``: mean (ΔE/N)², by which a few structures that are far off,
            such as surfaces among bulk, count more than many that are almost right.
    """
    known = torch.isfinite(reference)
    error = torch.where(known, predicted - torch.where(known, reference, 0.0), 0.0) / n_atoms
    per_structure = error.abs() if kind == "mae" else error.square()
    return per_structure.sum() / known.sum().clamp(min=1)


def stress_loss(predicted: Tensor, reference: Tensor, volume_per_atom: Tensor) -> Tensor:
    """Mean |Δσ| V/N over components of the structures whose reference (n_systems, 3, 3) is not NaN.

    Stress times volume is an energy (the virial), so that it compares with energies and forces.
    """
    known = torch.isfinite(reference).all(dim=2).all(dim=1) & torch.isfinite(volume_per_atom)
    mask = known[:, None, None]
    error = torch.where(mask, predicted, 0.0) - torch.where(mask, reference, 0.0)
    scaled = error * torch.where(known, volume_per_atom, 0.0)[:, None, None]
    return scaled.abs().mean(dim=(1, 2)).sum() / known.sum().clamp(min=1)


def net_force_penalty(predicted: Tensor, system_index: Tensor, n_systems: int) -> Tensor:
    """|Σ_i F_i| / N, the L1 norm of the net force per atom, averaged over structures.

    GAMD's paper takes the norm of the sum, its program that of the mean. The mean keeps its weight
    beside a loss that is a mean too: with the sum, at some hundred atoms, λ = 10⁻³ is as strong as
    the loss itself and holds a model that must learn directions at zero force.
    """
    total = sum_to(system_index, predicted, n_systems)
    n_atoms = torch.bincount(system_index, minlength=n_systems)
    return (total.abs().sum(dim=1) / n_atoms).mean()
