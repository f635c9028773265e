"""``analyze``: what is measured on a set of trajectories, beside a reference where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase.formula import Formula

from kinetograph import units
from kinetograph.analysis.energy import (
    ForceMagnitudes,
    TemperatureStatistics,
    Trace,
    TraceComparison,
    compare_traces,
    degrees_of_freedom,
    force_magnitudes,
    kinetic_energy_trace,
    starts_cold,
    temperature_statistics,
    temperature_trace,
)
from kinetograph.analysis.frames import frames_after, require_same_atoms
from kinetograph.analysis.pair_counting import BIN_WIDTH_A, radial_distributions, require_length
from kinetograph.analysis.rdf import RadialDistribution, RdfComparison, compare_rdf
from kinetograph.errors import UserError
from kinetograph.trajectory import Trajectory

FORMAT_VERSION = 1


@dataclass(frozen=True)
class RunSet:
    """What was measured on one set of trajectories of the same atoms."""

    label: str
    formula: str
    n_atoms: int
    volume: float
    """Å³, mean over frames; NaN without a box."""
    density: float
    """g/cm³."""
    durations: list[float]
    """ps, of each trajectory."""
    skipped: list[float]
    """fs left out of equilibrium averages at the start of each trajectory."""
    cold: list[bool]
    """Which trajectories start cold."""
    temperatures: list[Trace]
    kinetic_energies: list[Trace]
    temperature: TemperatureStatistics | None
    rdfs: list[RadialDistribution]

    @property
    def averaged(self) -> list[int]:
        """Indices of the trajectories that averages are over: not those that start cold, unless all do."""
        return [i for i, is_cold in enumerate(self.cold) if not is_cold or all(self.cold)]

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "formula": self.formula,
            "n_atoms": self.n_atoms,
            "volume_A3": self.volume,
            "density_g_per_cm3": self.density,
            "durations_ps": self.durations,
            "skipped_fs": self.skipped,
            "starts_cold": self.cold,
            "temperature_traces": [trace.to_json("temperature_K") for trace in self.temperatures],
            "temperature": None if self.temperature is None else self.temperature.to_json(),
            "kinetic_energy_traces": [trace.to_json("kinetic_energy_eV") for trace in self.kinetic_energies],
            "rdf": [rdf.to_json() for rdf in self.rdfs],
        }


@dataclass(frozen=True)
class Analysis:
    """The measurements, the same on the reference, and how they compare."""

    run: RunSet
    reference: RunSet | None
    rdf_comparisons: dict[tuple[str, str], RdfComparison]
    """(pair, kind) → comparison."""
    cold_starts: list[TraceComparison]
    """Kinetic energy per atom of each run that starts cold beside the reference that does, eV over fs."""
    forces: list[ForceMagnitudes]
    notes: list[str] = field(default_factory=list)
    """What could not be measured, or was measured on a part only."""

    @property
    def headline_rdfs(self) -> list[tuple[str, str]]:
        """The comparisons that ``rdf_mae`` averages: between molecules where they are known, else all."""
        kinds = {kind for _, kind in self.rdf_comparisons}
        chosen = "intermolecular" if "intermolecular" in kinds else "all"
        return [key for key in self.rdf_comparisons if key[1] == chosen]

    def summary(self) -> dict[str, float | bool]:
        """The few numbers that a person asks for first; only those that could be measured."""
        numbers: dict[str, float | bool] = {}
        if self.run.temperature is not None:
            series = self.run.temperature.series
            numbers["temperature_K"] = series.mean
            numbers["temperature_error_K"] = series.standard_error
            numbers["temperature_std_K"] = series.standard_deviation
            numbers["temperature_std_expected_K"] = self.run.temperature.expected_standard_deviation
        if self.reference is not None and self.reference.temperature is not None:
            numbers["reference_temperature_K"] = self.reference.temperature.series.mean
            numbers["reference_temperature_error_K"] = self.reference.temperature.series.standard_error
        headline = [self.rdf_comparisons[key] for key in self.headline_rdfs]
        if headline:
            numbers["rdf_mae"] = float(np.mean([comparison.mae for comparison in headline]))
            numbers["rdf_mae_worst_pair"] = max(comparison.mae for comparison in headline)
            numbers["rdf_within_error_band"] = all(comparison.within_band for comparison in headline)
            for name, values in (
                ("rdf_peak_position_worst", [c.peak_position_difference for c in headline]),
                ("rdf_peak_height_worst", [c.peak_height_difference for c in headline]),
            ):
                known = [abs(value) for value in values if np.isfinite(value)]
                if known:
                    numbers[name] = max(known)
        if self.cold_starts:
            numbers["cold_start_kinetic_energy_deviation"] = float(
                np.mean([comparison.normalized_deviation for comparison in self.cold_starts])
            )
        distances = [histogram.total_variation for histogram in self.forces]
        if distances and np.isfinite(distances).all():
            numbers["force_magnitude_total_variation"] = max(distances)
        return numbers

    def to_json(self) -> dict[str, Any]:
        """Curves and summary as plain numbers and lists; NaN where a number does not exist."""
        return {
            "format_version": FORMAT_VERSION,
            "summary": self.summary(),
            "run": self.run.to_json(),
            "reference": None if self.reference is None else self.reference.to_json(),
            "rdf_comparisons": [
                {"pair": pair, "kind": kind, **comparison.to_json()}
                for (pair, kind), comparison in self.rdf_comparisons.items()
            ],
            "cold_starts": [
                {
                    "time_ps": [float(f"{t / units.PS_IN_FS:.7g}") for t in c.time],
                    "kinetic_energy_eV_per_atom": [float(f"{v:.6g}") for v in c.values],
                    "reference_kinetic_energy_eV_per_atom": [float(f"{v:.6g}") for v in c.reference],
                    "normalized_deviation": c.normalized_deviation,
                }
                for c in self.cold_starts
            ],
            "force_magnitudes": [histogram.to_json() for histogram in self.forces],
            "notes": self.notes,
        }


def analyze(
    trajectories: Sequence[Trajectory],
    reference: Sequence[Trajectory] | None = None,
    *,
    skip_fs: float = 0.0,
    r_max_A: float | None = None,
    bin_width_A: float = BIN_WIDTH_A,
    max_frames: int = 500,
) -> Analysis:
    """Measure trajectories, and compare them with a reference.

    Runs that start cold are compared by their kinetic energy per atom, each with the reference run that
    starts cold and stands at the same place in the order. They are not in equilibrium, so only their second
    half counts for averages, and not at all where other runs are there.

    Args:
        trajectories: runs of the same atoms.
        reference: runs of the same composition by the reference; the size of the box may differ.
        skip_fs: time left out of averages at the start of each trajectory.
        r_max_A: largest distance of g(r); by default half the smallest height of the boxes, at most 15 Å.
        bin_width_A: width of the bins of g(r).
        max_frames: at most so many frames of each trajectory are read for g(r).

    Raises:
        UserError: there is no trajectory, one has no frames or none after ``skip_fs``, the atoms differ
            within a set or the composition between the sets, or a length cannot be used.
    """
    notes: list[str] = []
    require_length("r_max_A", r_max_A)
    require_length("bin_width_A", bin_width_A)
    if not 0.0 <= skip_fs < np.inf:
        raise UserError(f"skip_fs is {skip_fs}", where="skip_fs", mend="It must be 0 or a positive number.")
    own = _measured(trajectories, "run", skip_fs, notes)
    other = _measured(reference, "reference", skip_fs, notes) if reference else None
    if other is not None and other.formula != own.formula:
        raise UserError(
            f"the runs hold {own.formula}, the reference {other.formula}: they cannot be compared",
            where="reference",
            mend="Give a reference of the same composition, or analyse without one.",
        )
    own = _with_rdfs(
        own, trajectories, notes, bin_width_A=bin_width_A, max_frames=max_frames, r_max_A=r_max_A
    )
    comparisons: dict[tuple[str, str], RdfComparison] = {}
    cold_starts: list[TraceComparison] = []
    if other is not None and reference:
        other = _with_rdfs(
            other, reference, notes, bin_width_A=bin_width_A, max_frames=max_frames, r_max_A=r_max_A
        )
        beside = {(rdf.name, rdf.kind): rdf for rdf in other.rdfs}
        comparisons = {
            (rdf.name, rdf.kind): compare_rdf(rdf, beside[rdf.name, rdf.kind])
            for rdf in own.rdfs
            if (rdf.name, rdf.kind) in beside
        }
        cold, cold_reference = _cold_per_atom(own), _cold_per_atom(other)
        cold_starts = [compare_traces(*pair) for pair in zip(cold, cold_reference, strict=False)]
        if cold and not cold_reference:
            notes.append("No reference run starts cold, so the cold start has nothing to be compared with.")
    forces = force_magnitudes(
        [trajectories[i] for i in own.averaged],
        [reference[i] for i in other.averaged] if other and reference else (),
        skip_fs=[own.skipped[i] for i in own.averaged],
        reference_skip_fs=[other.skipped[i] for i in other.averaged] if other else (),
    )
    if not forces:
        notes.append("The trajectories hold no forces, so there is no histogram of their magnitudes.")
    return Analysis(own, other, comparisons, cold_starts, forces, notes)


def _cold_per_atom(runs: RunSet) -> list[Trace]:
    """Kinetic energies per atom (eV) of the runs that start cold: comparable between boxes of all sizes."""
    return [
        replace(trace, values=trace.values / runs.n_atoms)
        for trace, is_cold in zip(runs.kinetic_energies, runs.cold, strict=False)
        if is_cold
    ]


def _measured(trajectories: Sequence[Trajectory], label: str, skip_fs: float, notes: list[str]) -> RunSet:
    require_same_atoms(trajectories)
    for trajectory in trajectories:
        if trajectory.n_frames == 0:
            raise UserError("the trajectory has no frames", where=str(trajectory.path))
    names = [f"{label} {i + 1}" if len(trajectories) > 1 else label for i in range(len(trajectories))]
    kinetic = [kinetic_energy_trace(t, name) for t, name in zip(trajectories, names, strict=True)]
    temperatures = [temperature_trace(t, name) for t, name in zip(trajectories, names, strict=True)]
    traces = [trace for trace in temperatures if trace is not None]
    energies = [trace for trace in kinetic if trace is not None]
    if len(energies) < len(trajectories):
        notes.append(f"Not every trajectory of the {label} has velocities or kinetic energies.")
        energies, traces = [], []
    cold = [starts_cold(trace) for trace in energies] or [False] * len(trajectories)
    skipped = []
    for trajectory, is_cold in zip(trajectories, cold, strict=True):
        duration = float(trajectory.times_fs[-1] - trajectory.times_fs[0])
        skipped.append(max(skip_fs, 0.5 * duration) if is_cold else skip_fs)
    if any(cold):
        notes.append(
            f"{sum(cold)} of {len(cold)} trajectories of the {label} start cold; "
            + (
                "they are left out of averages."
                if not all(cold)
                else "only their second half counts for averages."
            )
        )
    warm = [i for i in range(len(trajectories)) if all(cold) or not cold[i]]
    for i in warm:
        frames_after(trajectories[i], skipped[i], max_frames=1)  # refuses a trajectory that is too short
    temperature = None
    if traces:
        temperature = temperature_statistics(
            [traces[i] for i in warm], [skipped[i] for i in warm], degrees_of_freedom(trajectories[0])
        )
    first = trajectories[0]
    volume = float("nan")
    if bool(np.all(first.pbc)):
        volume = float(np.mean([np.abs(np.linalg.det(t.cells)).mean() for t in trajectories]))
    return RunSet(
        label=label,
        formula=_formula(first),
        n_atoms=first.n_atoms,
        volume=volume,
        density=float(first.masses.sum() / volume * units.AMU_PER_A3_IN_G_PER_CM3),
        durations=[float(t.times_fs[-1] - t.times_fs[0]) / units.PS_IN_FS for t in trajectories],
        skipped=skipped,
        cold=cold,
        temperatures=traces,
        kinetic_energies=energies,
        temperature=temperature,
        rdfs=[],
    )


def _with_rdfs(
    runs: RunSet,
    trajectories: Sequence[Trajectory],
    notes: list[str],
    *,
    bin_width_A: float,
    max_frames: int,
    r_max_A: float | None,
) -> RunSet:
    if not all(bool(np.all(trajectory.pbc)) for trajectory in trajectories):
        notes.append(
            f"The {runs.label} has no box that is periodic in three directions, so there is no g(r)."
        )
        return runs
    rdfs = radial_distributions(
        [trajectories[i] for i in runs.averaged],
        r_max_A=r_max_A,
        bin_width_A=bin_width_A,
        skip_fs=[runs.skipped[i] for i in runs.averaged],
        max_frames=max_frames,
    )
    return replace(runs, rdfs=rdfs)


def _formula(trajectory: Trajectory) -> str:
    symbols = trajectory.frame(0).get_chemical_formula(mode="hill")
    reduced, _ = Formula(symbols).reduce()
    return f"{reduced}"
