"""What a trajectory or a list of labelled frames holds, in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase.data import chemical_symbols

from kinetograph import units
from kinetograph.trajectory.layout import Array
from kinetograph.trajectory.reader import Trajectory

MAX_FORCE_FRAMES = 200
LABELS = ("energy", "forces", "stress")


def trajectory_summary(trajectory: Trajectory) -> dict[str, Any]:
    """Numbers of a trajectory as plain JSON; of what it does not have, ``None``.

    Forces are those of at most 200 evenly spaced frames.
    """
    steps, times = trajectory.steps, trajectory.times_fs
    cells = trajectory.cells
    return {
        "kind": "trajectory",
        "n_frames": trajectory.n_frames,
        "n_atoms": trajectory.n_atoms,
        "elements": _element_counts(trajectory.atomic_numbers),
        "n_bonds": None if trajectory.bonds is None else len(trajectory.bonds),
        "pbc": trajectory.pbc.tolist(),
        "first_cell_A": cells[0].tolist() if len(cells) and cells[0].any() else None,
        "volume_A3": _spread(np.abs(np.linalg.det(cells))) if trajectory.pbc.all() else None,
        "fields": trajectory.fields,
        "steps": [int(steps[0]), int(steps[-1])] if len(steps) else None,
        "steps_between_frames": _only(np.diff(steps)),
        "time_between_frames_fs": _only(np.diff(times)),
        "timestep_fs": trajectory.metadata.get("timestep_fs"),
        "length_ps": float(times[-1] - times[0]) / units.PS_IN_FS if len(times) else 0.0,
        "observables": {name: _spread(values) for name, values in trajectory.observables.items()},
        "force_eV_per_A": _forces(trajectory),
        "is_being_written": trajectory.is_damaged,
        "metadata": trajectory.metadata,
    }


def frames_summary(frames: Sequence[ase.Atoms]) -> dict[str, Any]:
    """Numbers of structures and their labels as plain JSON; of what they do not have, ``None``."""
    labels = [_labels(atoms) for atoms in frames]
    fields = {name for atoms in frames for name in (*atoms.arrays, *atoms.info)}
    sizes = [len(atoms) for atoms in frames]
    energies = [label["energy"] / n for label, n in zip(labels, sizes, strict=True) if "energy" in label]
    forces = [np.linalg.norm(label["forces"], axis=-1) for label in labels if "forces" in label]
    volumes = [atoms.get_volume() for atoms in frames if atoms.pbc.all() and atoms.cell.rank == 3]
    return {
        "kind": "frames",
        "n_frames": len(frames),
        "n_atoms": _spread(np.array(sizes)),
        "elements": _element_counts(np.concatenate([atoms.numbers for atoms in frames])),
        "n_periodic": sum(bool(atoms.pbc.any()) for atoms in frames),
        "volume_A3": _spread(np.array(volumes)),
        "fields": sorted(fields.union(*labels)),
        **{f"n_with_{name}": sum(name in label for label in labels) for name in LABELS},
        "n_not_finite": sum(not all(np.isfinite(x).all() for x in label.values()) for label in labels),
        "energy_eV_per_atom": _spread(np.array(energies)),
        "force_eV_per_A": _spread(np.concatenate(forces)) if forces else None,
    }


def _labels(atoms: ase.Atoms) -> dict[str, Array]:
    """Energy, forces and stress where a frame has them, as ASE's readers leave them."""
    results = getattr(atoms.calc, "results", {})
    kept = {"energy": atoms.info, "forces": atoms.arrays, "stress": atoms.info}
    found = {name: results.get(name, kept[name].get(name)) for name in LABELS}
    return {name: _numbers(value) for name, value in found.items() if value is not None}


def _numbers(value: Any) -> Array:
    """NaN for what is no number."""
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return np.array(np.nan)


def _element_counts(numbers: Array) -> dict[str, int]:
    """How many atoms there are of each element, by atomic number."""
    values, counts = np.unique(numbers, return_counts=True)
    return {chemical_symbols[z]: int(n) for z, n in zip(values, counts, strict=True)}


def _spread(values: Array) -> dict[str, float] | None:
    """Least, mean and largest of the values that are numbers; ``None`` where none is."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _only(values: Array) -> float | int | None:
    """The value that all have in common; ``None`` where they differ or there are none."""
    return values[0].item() if len(values) and np.allclose(values, values[0], rtol=1e-9) else None


def _forces(trajectory: Trajectory) -> dict[str, Any] | None:
    """Largest and root mean square length of a force, eV/Å."""
    frames = range(0, trajectory.n_frames, max(1, -(-trajectory.n_frames // MAX_FORCE_FRAMES)))
    squares = [
        (forces**2).sum(axis=1) for index in frames if (forces := trajectory.forces(index)) is not None
    ]
    if not squares:
        return None
    largest, mean = max(float(s.max()) for s in squares), float(np.mean(squares))
    return {"max": largest**0.5, "rms": mean**0.5, "of_frames": len(squares)}
