"""``Trajectory``: a file opened for reading, also while it is written or after its writer was killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ase
import h5py
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.trajectory.layout import (
    FILE_FORMAT,
    NO_STEP,
    STRESS,
    VECTOR_ELEMENTS,
    Array,
    Head,
    elements_of,
    text_of,
)

Index = slice | int | Sequence[int] | Array
SLACK_BYTES = 4096  # that HDF5 may have set aside but not yet written


class Trajectory:
    """A trajectory on disk, opened for reading; a context manager.

    Frames are read when asked for. Indices are slices, whole numbers or arrays of them.
    """

    def __init__(self, path: Path, file: h5py.File, *, is_damaged: bool) -> None:
        self.path = path
        self.is_damaged = is_damaged
        """Whether the file is being written, or its writer was killed during an append."""
        self.file = file
        """The open file."""
        self._particles = file["particles/trajectory"]
        head_group = file.get("parameters/kinetograph")
        bonds = file.get("connectivity/bonds")
        species = self._particles.get("species")
        masses = self._particles.get("mass")
        if species is None or masses is None:
            raise UserError("the H5MD file has no species or no masses", where=str(path))
        self.head = Head(
            atomic_numbers=_fixed(species),
            masses=_fixed(masses).astype(np.float64),
            pbc=np.array([text_of(b) == "periodic" for b in self._particles["box"].attrs["boundary"]]),
            bonds=None if bonds is None else bonds[()].astype(np.int64),
            metadata={} if head_group is None else json.loads(head_group["metadata"][()]),
        )
        """What stays the same through the file."""
        # Kept open, for with a dataset HDF5 closes the cache of its unpacked chunks.
        self._values = {name: element["value"] for name, element in elements_of(file)}
        self._check_units()
        self.n_listed = 0
        """Frames that the file has room for; the last may not be there completely."""
        self.steps: Array = np.zeros(0, dtype=np.int64)
        """(n_frames,) int64."""
        self.times_fs: Array = np.zeros(0)
        """(n_frames,) fs."""
        if "position" in self._particles:
            position = self._particles["position"]
            self.n_listed = int(position["value"].shape[0])
            steps = position["step"][: self.n_listed].astype(np.int64)
            unfinished = np.nonzero(steps == NO_STEP)[0]
            n_frames = int(unfinished[0]) if len(unfinished) else len(steps)
            n_frames = min(n_frames, *(len(values) for values in self._values.values()))
            self.steps = steps[:n_frames]
            self.times_fs = position["time"][:n_frames].astype(np.float64) * _time_in_fs(position["time"])

    @staticmethod
    def open(path: Path | str) -> Trajectory:
        """Open a file, also one that is being written or whose writer was killed.

        Raises:
            UserError: it is missing, truncated, or no H5MD file.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError("there is no such trajectory file", where=str(path))
        damaged = _is_marked_as_being_written(path)
        options: dict[str, Any] = {"libver": FILE_FORMAT, "swmr": True} if damaged else {}
        try:
            try:  # no locks: a reader must not stop the run that writes
                file = h5py.File(path, "r", locking=False, **options)
            except OSError:  # open elsewhere in this process, with locks
                file = h5py.File(path, "r", **options)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the trajectory cannot be read: it is truncated, damaged or no H5MD file ({error})",
                where=str(path),
            ) from error
        try:
            if "h5md" not in file or "particles/trajectory" not in file:
                raise UserError("the file is HDF5 but not an H5MD trajectory", where=str(path))
            return Trajectory(path, file, is_damaged=damaged)
        except UserError:
            file.close()
            raise
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            file.close()
            raise UserError(f"the trajectory is damaged ({error})", where=str(path)) from error

    @property
    def n_frames(self) -> int:
        return len(self.steps)

    @property
    def n_atoms(self) -> int:
        return len(self.head.atomic_numbers)

    @property
    def atomic_numbers(self) -> Array:
        """(n_atoms,) int64."""
        return self.head.atomic_numbers.astype(np.int64)

    @property
    def masses(self) -> Array:
        """(n_atoms,) amu."""
        return self.head.masses

    @property
    def pbc(self) -> Array:
        """(3,) bool."""
        return self.head.pbc

    @property
    def bonds(self) -> Array | None:
        """(n_bonds, 2) int64, each pair once; ``None`` where not known."""
        return self.head.bonds

    @property
    def metadata(self) -> dict[str, Any]:
        """What made the run."""
        return self.head.metadata

    @property
    def fields(self) -> list[str]:
        """What the file holds of every frame, by the names in it."""
        return list(self._values)

    @property
    def cells(self) -> Array:
        """(n_frames, 3, 3) Å; zero rows where none is recorded."""
        return self._cells(slice(self.n_frames))

    def positions(self, index: Index = slice(None)) -> Array:
        """(n_chosen, n_atoms, 3) Å, not wrapped; (n_atoms, 3) for one frame."""
        chosen = self._chosen("position", index)
        return np.zeros((0, self.n_atoms, 3)) if chosen is None else chosen  # created, nothing written yet

    def velocities(self, index: Index = slice(None)) -> Array | None:
        """(n_chosen, n_atoms, 3) Å/fs, or ``None`` where the file has none."""
        return self._chosen("velocity", index)

    def forces(self, index: Index = slice(None)) -> Array | None:
        """(n_chosen, n_atoms, 3) eV/Å, or ``None`` where the file has none."""
        return self._chosen("force", index)

    def stresses(self, index: Index = slice(None)) -> Array | None:
        """(n_chosen, 3, 3) eV/Å³ of the potential, tension positive; ``None`` where the file has none."""
        return self._chosen(STRESS, index)

    @property
    def observables(self) -> dict[str, Array]:
        """(n_frames,) numbers by name, such as ``temperature_K`` and ``pressure_bar``."""
        return {
            name: element["value"][: self.n_frames].astype(np.float64)
            for name, element in self.file.get("observables", {}).items()
            if "value" in element and element["value"].ndim == 1
        }

    def frame(self, index: int) -> ase.Atoms:
        """One frame, with velocities, forces, energy and stress where known; ``info`` has step and time."""
        if not -self.n_frames <= index < self.n_frames:
            raise IndexError(f"frame {index} of a trajectory of {self.n_frames}")
        index %= self.n_frames
        atoms = ase.Atoms(
            numbers=self.head.atomic_numbers,
            positions=self.positions(index),
            cell=self._cells(slice(index, index + 1))[0],
            pbc=self.head.pbc,
        )
        atoms.set_masses(self.head.masses)
        velocities, forces = self.velocities(index), self.forces(index)
        if velocities is not None:
            atoms.set_velocities(velocities * units.ASE_TIME_IN_FS)
        results: dict[str, Any] = {} if forces is None else {"forces": forces}
        energy = self._chosen("potential_energy_eV", index)
        if energy is not None:
            results["energy"] = float(energy)
        stress = self.stresses(index)
        if stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info.update(step=int(self.steps[index]), time_fs=float(self.times_fs[index]))
        if self.head.bonds is not None:
            atoms.info["bonds"] = self.head.bonds
        return atoms

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cells(self, frames: slice) -> Array:
        """(n_chosen, 3, 3) Å."""
        n_chosen = len(range(*frames.indices(self.n_frames)))
        if "edges" in self._values:
            cells: Array = self._values["edges"][frames].astype(np.float64)
        elif "edges" in self._particles["box"]:  # the same for all frames, in files of other programs
            edges = self._particles["box/edges"][()]
            cells = np.broadcast_to(edges, (n_chosen, *edges.shape)).astype(np.float64)
        else:
            cells = np.zeros((n_chosen, 3, 3))
        return cells if cells.ndim == 3 else cells[:, :, None] * np.eye(3)

    def _chosen(self, name: str, index: Index) -> Array | None:
        """The values of these frames in our units; ``None`` where the file has none."""
        if name not in self._values:
            return None
        values = self._values[name]
        if isinstance(index, slice):
            start, stop, stride = index.indices(self.n_frames)
            if stride > 0:
                chosen = values[start : max(start, stop) : stride]
            else:
                ascending = range(start, stop, stride)[::-1]
                chosen = values[ascending.start : ascending.stop : ascending.step][::-1]
        elif isinstance(index, int | np.integer):
            chosen = values[range(self.n_frames)[int(index)]]
        else:
            wanted = np.arange(self.n_frames)[np.asarray(index, dtype=np.int64)]
            ascending_frames, where = np.unique(wanted, return_inverse=True)
            chosen = values[ascending_frames][where]
        in_ours: Array = np.asarray(chosen, dtype=np.float64)
        return in_ours / VECTOR_ELEMENTS[name][1] if name in VECTOR_ELEMENTS else in_ours

    def _check_units(self) -> None:
        """Refuse lengths, velocities and forces in units that are not those we write."""
        wanted = {**{name: unit for name, (unit, _) in VECTOR_ELEMENTS.items()}, "edges": "Angstrom"}
        for name, values in self._values.items():
            unit = values.attrs.get("unit")
            if name in wanted and unit is not None and text_of(unit) != wanted[name]:
                raise UserError(
                    f"the unit of {name} is {text_of(unit)!r}, not {wanted[name]!r}",
                    where=str(self.path),
                    mend="Convert the file first, with MDAnalysis for example.",
                )


def _is_marked_as_being_written(path: Path) -> bool:
    """Whether HDF5's superblock has the marks of an open writer (its file format specification, II.A).

    Raises:
        UserError: it has, but much of the file is missing: HDF5 would wait for it for ever.
    """
    with path.open("rb") as file:
        superblock = file.read(36)
    if len(superblock) < 36 or superblock[:8] != b"\x89HDF\r\n\x1a\n" or superblock[8] < 3:
        return False
    marked = superblock[11] & 0b101 != 0
    known_size = int.from_bytes(superblock[28:36], "little")
    if marked and path.stat().st_size + SLACK_BYTES < known_size:
        raise UserError("the trajectory is truncated", where=str(path))
    return marked


def _fixed(element: h5py.Dataset | h5py.Group) -> Array:
    """A time-independent element; of a time-dependent one, its first value."""
    values: Array = element[()] if isinstance(element, h5py.Dataset) else element["value"][0]
    return values


def _time_in_fs(dataset: h5py.Dataset) -> float:
    return {"fs": 1.0, "ps": 1e3, "ns": 1e6}[text_of(dataset.attrs["unit"])]
