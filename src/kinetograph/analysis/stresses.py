"""How far predicted stresses lie from reference stresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class StressErrors:
    """Errors of predicted stresses over all nine components of all structures."""

    n_frames: int
    """Structures whose stress is known on both sides."""
    mae: float
    """eV/Å³."""
    rmse: float
    """eV/Å³."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "n_stresses": self.n_frames,
            "stress_mae_eV_per_A3": self.mae,
            "stress_rmse_eV_per_A3": self.rmse,
        }


def stress_errors(reference: ArrayLike, predicted: ArrayLike) -> StressErrors | None:
    """Errors of predicted stresses; ``None`` where no structure has both.

    Args:
        reference, predicted: (n_frames, 3, 3) eV/Å³, NaN where not known.
    """
    error = np.asarray(predicted, dtype=float) - np.asarray(reference, dtype=float)
    error = error[np.isfinite(error).all(axis=(1, 2))]
    if len(error) == 0:
        return None
    return StressErrors(
        n_frames=len(error), mae=float(np.abs(error).mean()), rmse=float(np.sqrt((error**2).mean()))
    )
