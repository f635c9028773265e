"""How far predicted energies and stresses lie from reference ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kinetograph.errors import UserError


@dataclass(frozen=True)
class EnergyErrors:
    """Errors of predicted energies, per structure and per atom, and of stresses where both are known."""

    n_frames: int
    """Structures with a reference energy."""
    mae: float
    """eV per structure."""
    rmse: float
    """eV per structure."""
    mae_per_atom: float
    """eV/atom."""
    rmse_per_atom: float
    """eV/atom."""
    n_stresses: int
    """Structures with a reference stress that the model predicts."""
    stress_mae: float | None
    """eV/Å³ over the nine components; ``None`` without stresses."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        numbers: dict[str, Any] = {
            "n_energies": self.n_frames,
            "energy_mae_eV": self.mae,
            "energy_rmse_eV": self.rmse,
            "energy_mae_eV_per_atom": self.mae_per_atom,
            "energy_rmse_eV_per_atom": self.rmse_per_atom,
        }
        if self.stress_mae is not None:
            numbers["n_stresses"] = self.n_stresses
            numbers["stress_mae_eV_per_A3"] = self.stress_mae
        return numbers


def energy_errors(
    reference: ArrayLike,
    predicted: ArrayLike,
    n_atoms: ArrayLike,
    *,
    reference_stress: ArrayLike | None = None,
    predicted_stress: ArrayLike | None = None,
) -> EnergyErrors | None:
    """Errors of predicted energies; ``None`` where no structure has a reference energy.

    Args:
        reference, predicted: (n_frames,) eV, the reference NaN where not known.
        n_atoms: (n_frames,).
        reference_stress, predicted_stress: (n_frames, 3, 3) eV/Å³, NaN where not known.

    Raises:
        UserError: a predicted energy is not finite.
    """
    true, model = np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float)
    known = np.isfinite(true)
    if not known.any():
        return None
    if not np.isfinite(model[known]).all():
        raise UserError("predicted energies are not finite")
    error = (model - true)[known]
    per_atom = error / np.asarray(n_atoms, dtype=float)[known]
    stress_mae, n_stresses = None, 0
    if reference_stress is not None and predicted_stress is not None:
        difference = np.abs(np.asarray(predicted_stress) - np.asarray(reference_stress))
        both = np.isfinite(difference).all(axis=(1, 2))
        n_stresses = int(both.sum())
        stress_mae = float(difference[both].mean()) if n_stresses else None
    return EnergyErrors(
        n_frames=int(known.sum()),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt((error**2).mean())),
        mae_per_atom=float(np.abs(per_atom).mean()),
        rmse_per_atom=float(np.sqrt((per_atom**2).mean())),
        n_stresses=n_stresses,
        stress_mae=stress_mae,
    )
