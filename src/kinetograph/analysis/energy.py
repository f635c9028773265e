"""Temperature and kinetic energy over time, cold starts, and how large the forces are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from kinetograph import units
from kinetograph.analysis.frames import frames_after
from kinetograph.analysis.statistics import (
    SeriesStatistics,
    histogram_edges,
    overflow_histogram,
    pooled_statistics,
)
from kinetograph.errors import UserError
from kinetograph.trajectory import Trajectory

COLD_SHARE = 0.3
"""A run starts cold where its first kinetic energy is below this share of that of its second half."""
N_FORCE_BINS = 60


@dataclass(frozen=True)
class Trace:
    """One number over the time of a run."""

    name: str
    time: NDArray[np.float64]
    """(n_frames,) fs since the first frame."""
    values: NDArray[np.float64]
    """(n_frames,)."""

    def to_json(self, unit: str, max_points: int = 1000) -> dict[str, Any]:
        """The curve, thinned by averages over equal stretches of time."""
        time, values = _thinned(self.time, max_points), _thinned(self.values, max_points)
        return {
            "name": self.name,
            "time_ps": [float(f"{t / units.PS_IN_FS:.7g}") for t in time],
            unit: [float(f"{v:.6g}") for v in values],
        }


def kinetic_energy_trace(trajectory: Trajectory, name: str) -> Trace | None:
    """Kinetic energy in eV as recorded, else from the velocities; ``None`` where the file has neither."""
    time = trajectory.times_fs - trajectory.times_fs[0]
    recorded = trajectory.observables.get("kinetic_energy_eV")
    if recorded is not None:
        return Trace(name, time, recorded)
    energies = []
    for start in range(0, trajectory.n_frames, 64):
        velocities = trajectory.velocities(slice(start, start + 64))
        if velocities is None:
            return None
        energies.append(
            0.5 * units.AMU_A2_PER_FS2_IN_EV * np.einsum("a,fak->f", trajectory.masses, velocities**2)
        )
    return Trace(name, time, np.concatenate(energies))


def temperature_trace(trajectory: Trajectory, name: str) -> Trace | None:
    """Temperature in K as recorded, else from the kinetic energy and :func:`degrees_of_freedom`."""
    recorded = trajectory.observables.get("temperature_K")
    if recorded is not None:
        return Trace(name, trajectory.times_fs - trajectory.times_fs[0], recorded)
    kinetic = kinetic_energy_trace(trajectory, name)
    if kinetic is None:
        return None
    factor = 2.0 / (degrees_of_freedom(trajectory) * units.BOLTZMANN_EV_PER_K)
    return Trace(name, kinetic.time, kinetic.values * factor)


def degrees_of_freedom(trajectory: Trajectory) -> int:
    """The number behind the recorded temperatures, else ``n_dof`` of the metadata, else 3 n_atoms − 3."""
    observed = trajectory.observables
    temperature, kinetic = observed.get("temperature_K"), observed.get("kinetic_energy_eV")
    if temperature is not None and kinetic is not None:
        warm = temperature > 0
        if warm.any():
            return int(
                np.rint(np.median(2.0 * kinetic[warm] / (units.BOLTZMANN_EV_PER_K * temperature[warm])))
            )
    given = trajectory.metadata.get("n_dof")
    return int(given) if given is not None else 3 * trajectory.n_atoms - 3


@dataclass(frozen=True)
class TemperatureStatistics:
    """Temperature of runs in equilibrium against what the canonical ensemble demands."""

    series: SeriesStatistics
    """K."""
    n_dof: int

    @property
    def expected_standard_deviation(self) -> float:
        """K: sqrt(2/n_dof) T, the spread of the kinetic temperature in the canonical ensemble.

        At constant energy the spread is smaller.
        """
        return float(np.sqrt(2.0 / self.n_dof)) * self.series.mean

    def to_json(self) -> dict[str, Any]:
        return {
            **self.series.to_json(),
            "n_dof": self.n_dof,
            "expected_standard_deviation": self.expected_standard_deviation,
        }


def temperature_statistics(
    traces: Sequence[Trace], skip_fs: Sequence[float], n_dof: int
) -> TemperatureStatistics:
    """Mean temperature, its spread and its statistical error over several runs.

    Args:
        traces: temperatures in K.
        skip_fs: time left out at the start of each.
        n_dof: degrees of freedom behind the temperature.
    """
    kept = [trace.values[trace.time >= skip - 1e-9] for trace, skip in zip(traces, skip_fs, strict=True)]
    return TemperatureStatistics(pooled_statistics([values for values in kept if len(values)]), n_dof)


def starts_cold(kinetic: Trace) -> bool:
    """Whether the run begins with far less kinetic energy than it has in its second half."""
    if len(kinetic.values) < 4:
        return False
    later = float(kinetic.values[len(kinetic.values) // 2 :].mean())
    return bool(kinetic.values[0] < COLD_SHARE * later)


@dataclass(frozen=True)
class TraceComparison:
    """How far one trace lies from a reference trace over the time that both cover."""

    time: NDArray[np.float64]
    """(n_times,) fs: the frames of the trace inside the common time."""
    values: NDArray[np.float64]
    reference: NDArray[np.float64]
    """(n_times,): the reference, interpolated to those times."""

    @property
    def normalized_deviation(self) -> float:
        """Mean of |x − x_ref| over mean of |x_ref|."""
        return float(np.abs(self.values - self.reference).mean() / np.abs(self.reference).mean())


def compare_traces(trace: Trace, reference: Trace) -> TraceComparison:
    """Align two traces at their first frames and compare them over the common time.

    Raises:
        UserError: one of them has fewer than two frames there.
    """
    time, other = trace.time - trace.time[0], reference.time - reference.time[0]
    common = time <= min(time[-1], other[-1]) + 1e-9
    if common.sum() < 2 or len(other) < 2:
        raise UserError(
            f"{trace.name} and {reference.name} share no stretch of time",
            mend="Both need at least two frames.",
        )
    return TraceComparison(
        time[common], trace.values[common], np.interp(time[common], other, reference.values)
    )


@dataclass(frozen=True)
class ForceMagnitudes:
    """How often forces of one element have which size, beside a reference."""

    element: str
    edges: NDArray[np.float64]
    """(n_bins + 1,) eV/Å; the last bin also holds everything above."""
    counts: NDArray[np.int64]
    """(n_bins,)."""
    reference_counts: NDArray[np.int64] | None

    @property
    def total_variation(self) -> float:
        """½ Σ|p − q| over bins: 0 for equal distributions, 1 for disjoint ones; NaN without a reference."""
        if self.reference_counts is None:
            return float("nan")
        return 0.5 * float(np.abs(_shares(self.counts) - _shares(self.reference_counts)).sum())

    @property
    def total_variation_noise(self) -> float:
        """What two independent samples of one distribution would give on average.

        Σ sqrt(p (1/n + 1/m) / 2π), from the normal limit of each bin. Correlated frames give more.
        """
        if self.reference_counts is None:
            return float("nan")
        n, m = self.counts.sum(), self.reference_counts.sum()
        pooled = (self.counts + self.reference_counts) / (n + m)
        return float(np.sqrt(pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m) / (2.0 * np.pi)).sum())

    def to_json(self) -> dict[str, Any]:
        return {
            "element": self.element,
            "edges_eV_per_A": [float(f"{edge:.6g}") for edge in self.edges],
            "counts": self.counts.tolist(),
            "reference_counts": None if self.reference_counts is None else self.reference_counts.tolist(),
            "total_variation": self.total_variation,
            "total_variation_noise": self.total_variation_noise,
        }


def force_magnitudes(
    trajectories: Sequence[Trajectory],
    reference: Sequence[Trajectory] = (),
    *,
    skip_fs: Sequence[float],
    reference_skip_fs: Sequence[float] = (),
    max_frames: int = 200,
) -> list[ForceMagnitudes]:
    """Histograms of |F| for each element; empty where a trajectory has no forces."""
    own = _magnitudes(trajectories, skip_fs, max_frames)
    other = _magnitudes(reference, reference_skip_fs, max_frames) if reference else {}
    if own is None:
        return []
    histograms = []
    for z, values in own.items():
        beside = other.get(z) if other else None
        edges = histogram_edges([values] if beside is None else [values, beside], N_FORCE_BINS)
        histograms.append(
            ForceMagnitudes(
                chemical_symbols[z],
                edges,
                overflow_histogram(values, edges),
                None if beside is None else overflow_histogram(beside, edges),
            )
        )
    return histograms


def _magnitudes(
    trajectories: Sequence[Trajectory], skip_fs: Sequence[float], max_frames: int
) -> dict[int, NDArray[np.float64]] | None:
    """Element → |F| in eV/Å over all atoms and frames; ``None`` where a trajectory has no forces."""
    parts: dict[int, list[NDArray[np.float64]]] = {}
    for trajectory, skip in zip(trajectories, skip_fs, strict=True):
        numbers = trajectory.atomic_numbers
        frames = frames_after(trajectory, skip, max_frames)
        for start in range(0, len(frames), 32):
            forces = trajectory.forces(frames[start : start + 32])
            if forces is None:
                return None
            sizes = np.linalg.norm(forces, axis=-1)
            for z in np.unique(numbers):
                parts.setdefault(int(z), []).append(sizes[:, numbers == z].reshape(-1))
    return {z: np.concatenate(values) for z, values in parts.items()}


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / max(1, int(counts.sum()))


def _thinned(values: NDArray[np.float64], max_points: int) -> NDArray[np.float64]:
    stretch = int(np.ceil(len(values) / max_points))
    if stretch <= 1:
        return values
    starts = np.arange(0, len(values), stretch)
    return np.asarray(np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values))))
