"""How far predicted forces lie from reference forces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from kinetograph.analysis.statistics import histogram_edges, overflow_histogram
from kinetograph.errors import UserError

COSINE_THRESHOLDS = (0.96, 0.995)
"""Shares of atoms above these cosines are reported: 0.96 and 0.995 are those of the GAMD paper's figures."""

N_PARITY_SAMPLES = 4000
PARITY_SEED = 20220
N_MAGNITUDE_BINS = 60
ONE_MINUS_COSINE_EDGES = np.concatenate([[0.0], np.logspace(-7, 0, 71), [1.25, 1.6, 2.0]])
"""Bin edges of 1 − cosine: logarithmic, because good models differ in how close to 1 they come."""


@dataclass(frozen=True)
class ForceErrors:
    """Errors of predicted forces F_ml against reference forces F, over all atoms of all frames."""

    n_atoms: int
    """Atoms compared: the sum over frames."""
    mae: float
    """eV/Å; mean of |ΔF| over atoms and Cartesian components."""
    rmse: float
    """eV/Å; root mean square of ΔF over atoms and Cartesian components."""
    relative_error: float
    """Σ|F_ml − F| / Σ|F| over atoms, with Euclidean norms; a ratio, not per cent. NaN where Σ|F| = 0."""
    mean_force: float
    """eV/Å; ⟨|F|⟩ of the reference."""
    cosine_mean: float
    """Mean over atoms of the cosine of the angle between F_ml and F."""
    cosine_p05: float
    """5th percentile of that cosine."""
    cosine_shares: dict[float, float]
    """Threshold → share of atoms whose cosine is above it."""
    n_zero_reference: int
    """Atoms whose reference force is exactly zero; they have no direction and are left out of the cosine."""
    per_element: dict[str, ForceErrors] = field(default_factory=dict)
    """The same for each element; ``relative_error`` is then ⟨|F_ml − F|⟩ / ⟨|F|⟩, the metric of GNNFF."""
    parity_sample: NDArray[np.float64] | None = None
    """(n_samples, 3): reference component, predicted component (eV/Å), atomic number; a fixed draw."""
    cosine_counts: NDArray[np.int64] | None = None
    """Atoms per bin of :data:`ONE_MINUS_COSINE_EDGES`."""
    magnitude_edges: NDArray[np.float64] | None = None
    """Bin edges of |F| in eV/Å."""
    magnitude_counts: NDArray[np.int64] | None = None
    """(2, n_bins): atoms per bin, reference and predicted; the last bin holds everything above."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists: the table, and what the plots need."""
        numbers: dict[str, Any] = {
            "n_atoms": self.n_atoms,
            "force_mae_eV_per_A": self.mae,
            "force_rmse_eV_per_A": self.rmse,
            "relative_error": self.relative_error,
            "mean_force_eV_per_A": self.mean_force,
            "cosine_mean": self.cosine_mean,
            "cosine_p05": self.cosine_p05,
            **{f"cosine_share_above_{limit:g}": share for limit, share in self.cosine_shares.items()},
            "n_zero_reference_forces": self.n_zero_reference,
        }
        if self.per_element:
            numbers["per_element"] = {name: errors.to_json() for name, errors in self.per_element.items()}
        if self.parity_sample is not None:
            numbers["parity_sample"] = {
                "reference_eV_per_A": _short(self.parity_sample[:, 0]),
                "predicted_eV_per_A": _short(self.parity_sample[:, 1]),
                "element": [chemical_symbols[int(z)] for z in self.parity_sample[:, 2]],
            }
        if self.cosine_counts is not None:
            numbers["cosine_histogram"] = {
                "one_minus_cosine_edges": _short(ONE_MINUS_COSINE_EDGES),
                "counts": self.cosine_counts.tolist(),
            }
        if self.magnitude_edges is not None and self.magnitude_counts is not None:
            numbers["force_magnitude_histogram"] = {
                "edges_eV_per_A": _short(self.magnitude_edges),
                "reference": self.magnitude_counts[0].tolist(),
                "predicted": self.magnitude_counts[1].tolist(),
            }
        return numbers


def force_errors(reference: ArrayLike, predicted: ArrayLike, atomic_numbers: ArrayLike) -> ForceErrors:
    """Errors of predicted forces.

    Args:
        reference: (..., n_atoms, 3) eV/Å.
        predicted: the same shape, eV/Å.
        atomic_numbers: (..., n_atoms), or (n_atoms,) where all frames hold the same atoms.

    Raises:
        UserError: shapes differ, there are no atoms, or a force is not finite.
    """
    true = np.asarray(reference, dtype=np.float64)
    model = np.asarray(predicted, dtype=np.float64)
    if true.shape != model.shape or true.ndim < 2 or true.shape[-1] != 3:
        raise UserError(
            f"reference forces {true.shape} and predicted forces {model.shape} cannot be compared",
            mend="Both need the same shape, (n_atoms, 3) or (n_frames, n_atoms, 3).",
        )
    numbers = np.asarray(atomic_numbers, dtype=np.int64)
    if true.size == 0 or numbers.shape not in (true.shape[:-1], true.shape[-2:-1]):
        raise UserError(
            f"forces of shape {true.shape} do not fit atomic numbers of shape {numbers.shape}",
            mend="Give one atomic number for each force.",
        )
    numbers = np.broadcast_to(numbers, true.shape[:-1]).reshape(-1)
    true, model = true.reshape(-1, 3), model.reshape(-1, 3)
    for name, values in (("reference", true), ("predicted", model)):
        if not np.isfinite(values).all():
            raise UserError(
                f"{name} forces are not finite", mend="Remove the frames with NaN or infinite forces."
            )

    cosines = _cosines(true, model)
    sizes = [np.linalg.norm(forces, axis=1) for forces in (true, model)]
    edges = histogram_edges(sizes[:1], N_MAGNITUDE_BINS)
    counts = np.stack([overflow_histogram(values, edges) for values in sizes])
    elements = [int(z) for z in np.unique(numbers)]
    return _table(
        true,
        model,
        cosines,
        per_element={
            chemical_symbols[z]: _table(true[numbers == z], model[numbers == z], cosines[numbers == z])
            for z in elements
        },
        parity_sample=_parity_sample(true, model, numbers),
        cosine_counts=np.histogram(1.0 - cosines[~np.isnan(cosines)], ONE_MINUS_COSINE_EDGES)[0].astype(
            np.int64
        ),
        magnitude_edges=edges,
        magnitude_counts=counts,
    )


def _table(
    true: NDArray[np.float64],
    model: NDArray[np.float64],
    cosines: NDArray[np.float64],
    *,
    per_element: dict[str, ForceErrors] | None = None,
    parity_sample: NDArray[np.float64] | None = None,
    cosine_counts: NDArray[np.int64] | None = None,
    magnitude_edges: NDArray[np.float64] | None = None,
    magnitude_counts: NDArray[np.int64] | None = None,
) -> ForceErrors:
    error = model - true
    norms = np.linalg.norm(true, axis=1)
    known = cosines[~np.isnan(cosines)]
    total = float(norms.sum())
    return ForceErrors(
        n_atoms=len(true),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt((error**2).mean())),
        relative_error=float(np.linalg.norm(error, axis=1).sum() / total) if total > 0 else float("nan"),
        mean_force=float(norms.mean()),
        cosine_mean=float(known.mean()) if len(known) else float("nan"),
        cosine_p05=float(np.percentile(known, 5)) if len(known) else float("nan"),
        cosine_shares={
            limit: float((known > limit).mean()) if len(known) else float("nan")
            for limit in COSINE_THRESHOLDS
        },
        n_zero_reference=int((norms == 0).sum()),
        per_element=per_element or {},
        parity_sample=parity_sample,
        cosine_counts=cosine_counts,
        magnitude_edges=magnitude_edges,
        magnitude_counts=magnitude_counts,
    )


def _cosines(true: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_atoms,): NaN where the reference force is zero, 0 where only the predicted one is."""
    norms, model_norms = np.linalg.norm(true, axis=1), np.linalg.norm(model, axis=1)
    # Unit vectors first: the product of two tiny forces would underflow.
    unit = true / np.where(norms > 0, norms, 1.0)[:, None]
    model_unit = model / np.where(model_norms > 0, model_norms, 1.0)[:, None]
    # 1 − |u − v|²/2 keeps the digits near 1 that the dot product loses.
    cosines = np.maximum(-1.0, 1.0 - 0.5 * ((unit - model_unit) ** 2).sum(axis=1))
    cosines[model_norms == 0] = 0.0
    cosines[norms == 0] = np.nan
    return np.asarray(cosines)


def _parity_sample(
    true: NDArray[np.float64], model: NDArray[np.float64], numbers: NDArray[np.int64]
) -> NDArray[np.float64]:
    chosen = np.arange(true.size)
    if true.size > N_PARITY_SAMPLES:
        random = np.random.default_rng(PARITY_SEED)
        chosen = np.sort(random.choice(true.size, N_PARITY_SAMPLES, replace=False))
    return np.stack([true.reshape(-1)[chosen], model.reshape(-1)[chosen], numbers[chosen // 3]], axis=1)


def _short(values: NDArray[np.float64]) -> list[float]:
    """Six significant digits: enough for any plot, half the file."""
    return [float(f"{value:.6g}") for value in values]
