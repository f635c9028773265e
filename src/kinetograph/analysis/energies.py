"""How far predicted energies lie from reference energies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from kinetograph.errors import UserError

N_PARITY_SAMPLES = 4000
PARITY_SEED = 20220


@dataclass(frozen=True)
class EnergyErrors:
    """Errors of predicted energies, per structure and per atom."""

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
    element_energies: dict[str, float]
    """Symbol → eV per atom: the least squares of the reference energies on the composition, the smallest of
    all that fit as well."""
    parity_sample: NDArray[np.float64]
    """(n_samples, 3): reference and predicted energy in eV/atom, both less ``element_energies``, and the
    number of the structure; a fixed draw."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists: the table, and what the plot needs."""
        reference, predicted, frame = self.parity_sample.T
        return {
            "n_energies": self.n_frames,
            "energy_mae_eV": self.mae,
            "energy_rmse_eV": self.rmse,
            "energy_mae_eV_per_atom": self.mae_per_atom,
            "energy_rmse_eV_per_atom": self.rmse_per_atom,
            "element_energies_eV": self.element_energies,
            "energy_parity_sample": {
                "reference_eV_per_atom": np.round(reference, 7).tolist(),
                "predicted_eV_per_atom": np.round(predicted, 7).tolist(),
                "frame": frame.astype(int).tolist(),
            },
        }


def energy_errors(
    reference: ArrayLike, predicted: ArrayLike, atomic_numbers: Sequence[ArrayLike]
) -> EnergyErrors | None:
    """Errors of predicted energies; ``None`` where no structure has a reference energy.

    Args:
        reference, predicted: (n_frames,) eV, the reference NaN where not known.
        atomic_numbers: of the atoms of each structure.

    Raises:
        UserError: a predicted energy is not finite.
    """
    frames = np.nonzero(np.isfinite(np.asarray(reference, dtype=float)))[0]
    if len(frames) == 0:
        return None
    true, model = np.asarray(reference, dtype=float)[frames], np.asarray(predicted, dtype=float)[frames]
    if not np.isfinite(model).all():
        raise UserError("predicted energies are not finite")
    numbers = [np.asarray(atomic_numbers[frame]) for frame in frames.tolist()]
    elements = np.unique(np.concatenate(numbers))
    counts = np.array([(of[:, None] == elements).sum(axis=0) for of in numbers], dtype=float)
    n_atoms = counts.sum(axis=1)
    fitted = np.linalg.lstsq(counts, true, rcond=1e-10)[0]
    relative = (np.stack([true, model]) - counts @ fitted) / n_atoms
    error = model - true
    chosen = _drawn(len(frames))
    return EnergyErrors(
        n_frames=len(frames),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt((error**2).mean())),
        mae_per_atom=float(np.abs(error / n_atoms).mean()),
        rmse_per_atom=float(np.sqrt(((error / n_atoms) ** 2).mean())),
        element_energies={
            chemical_symbols[z]: float(energy) for z, energy in zip(elements, fitted, strict=True)
        },
        parity_sample=np.stack([*relative[:, chosen], frames[chosen]], axis=1),
    )


def _drawn(n: int) -> NDArray[np.int64]:
    """All of them, or a fixed draw from many."""
    if n <= N_PARITY_SAMPLES:
        return np.arange(n)
    return np.sort(np.random.default_rng(PARITY_SEED).choice(n, N_PARITY_SAMPLES, replace=False))
