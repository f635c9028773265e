"""Trajectories on disk: H5MD 1.1 files, written so that a killed run leaves a readable one.

The layout is that of de Buyl, Colberg and Höfling, Comput. Phys. Commun. 185, 1546 (2014), with the
unit strings that MDAnalysis knows; MDAnalysis and VMD open the files.

==================================================  ====================================================
group                                               holds
==================================================  ====================================================
``particles/trajectory/position, velocity, force``  float32; Å, Å/fs, kJ/(mol Å); positions not wrapped
``particles/trajectory/box/edges``                  float64, Å, rows are cell vectors; absent for molecules
``particles/trajectory/species, mass``              atomic numbers; amu
``connectivity/bonds``                              pairs of atoms, where known
``observables/temperature_K`` and others            float64, one number a frame
``parameters/kinetograph/metadata``                 JSON: what made the run
==================================================  ====================================================

Single precision resolves 10⁻⁵ Å at 100 Å from the origin, and halves the file; a restart does not
use it, since checkpoints hold double precision.

Frames are buffered and appended in batches. Between batches the file is closed. During a batch it is
in HDF5's single-writer mode, in which what was there before stays readable whatever happens. The
steps of a batch are written last, so a frame counts once it is there completely.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import ase
import h5py
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from kinetograph import units
from kinetograph.errors import UserError

Array = np.ndarray[Any, Any]

FILE_FORMAT = ("v110", "v110")  # HDF5 of 2016: the oldest format with single-writer mode
CHUNK_BYTES = 128 * 1024
BUFFER_BYTES = 64 * 1024 * 1024
MARGIN_BYTES = 1024 * 1024
SLACK_BYTES = 4096  # that HDF5 may have set aside but not yet written
NO_STEP = -1

VECTOR_ELEMENTS = {  # name in the file: (unit, factor from our units)
    "position": ("Angstrom", 1.0),
    "velocity": ("Angstrom fs-1", 1.0),
    "force": ("kJ mol-1 Angstrom-1", units.EV_PER_A_IN_KJ_PER_MOL_A),
}
OBSERVABLES = {  # name in the file: (field of Frame, unit)
    "potential_energy_eV": ("potential_energy", "eV"),
    "kinetic_energy_eV": ("kinetic_energy", "eV"),
    "temperature_K": ("temperature", "K"),
    "conserved_eV": ("conserved", "eV"),
}


@dataclass(frozen=True)
class Frame:
    """One instant of a run. Every frame of a file has the same optional fields."""

    step: int
    time_fs: float
    positions: Array
    """(n_atoms, 3) Å, not wrapped into the cell."""
    cell: Array
    """(3, 3) Å; rows are the cell vectors."""
    velocities: Array | None = None
    """(n_atoms, 3) Å/fs."""
    forces: Array | None = None
    """(n_atoms, 3) eV/Å."""
    potential_energy: float | None = None
    """eV."""
    kinetic_energy: float | None = None
    """eV."""
    temperature: float | None = None
    """K."""
    conserved: float | None = None
    """eV: the quantity that the integrator conserves."""


class TrajectoryWriter:
    """Appends frames to a new trajectory file; a context manager.

    Args:
        path: the file; must not exist unless ``overwrite``.
        atomic_numbers: (n_atoms,).
        masses: (n_atoms,) amu.
        pbc: (3,) bool.
        bonds: (n_bonds, 2) pairs of atoms, or ``None`` where not known.
        metadata: anything JSON can hold, on what made the run.
        frames_per_flush: frames kept in memory before they go to disk.
        seconds_per_flush: the same by wall time, checked when a frame comes.

    Raises:
        UserError: the file exists, or cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        atomic_numbers: Array,
        masses: Array,
        pbc: Array,
        bonds: Array | None = None,
        metadata: dict[str, Any],
        overwrite: bool = False,
        frames_per_flush: int = 100,
        seconds_per_flush: float = 5.0,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise UserError(
                "the output exists already",
                where=str(self.path),
                mend="Choose another name, or overwrite it.",
            )
        self._head = _Head(
            atomic_numbers=np.asarray(atomic_numbers, dtype=np.int32),
            masses=np.asarray(masses, dtype=np.float64),
            pbc=np.asarray(pbc, dtype=bool).reshape(3),
            bonds=None if bonds is None else np.asarray(bonds, dtype=np.int64).reshape(-1, 2),
            metadata=metadata,
        )
        self._start_buffer(frames_per_flush, seconds_per_flush)
        self._n_written = 0
        self._last_step = NO_STEP
        with _write_errors(self.path):
            _write_new(self.path, self._head, [])

    @staticmethod
    def resume(
        path: Path | str,
        after_step: int,
        *,
        frames_per_flush: int = 100,
        seconds_per_flush: float = 5.0,
    ) -> TrajectoryWriter:
        """Continue a file, without its frames later than ``after_step``.

        A file that a killed run left marked as being written is copied to a clean one first.

        Raises:
            UserError: the file is missing, not a trajectory, or cannot be written.
        """
        writer = TrajectoryWriter.__new__(TrajectoryWriter)
        writer.path = Path(path)
        writer._start_buffer(frames_per_flush, seconds_per_flush)
        with Trajectory.open(path) as old:
            writer._head = old._head
            n_kept = int(np.searchsorted(old.steps, after_step, side="right"))
            writer._last_step = int(old.steps[n_kept - 1]) if n_kept else NO_STEP
            if old.is_damaged or n_kept < old._n_listed or n_kept == 0:
                with _write_errors(writer.path):
                    _copy(old, n_kept, writer.path)
        writer._n_written = n_kept
        return writer

    def _start_buffer(self, frames_per_flush: int, seconds_per_flush: float) -> None:
        self._frames: list[Frame] = []
        self._frames_per_flush = frames_per_flush
        self._seconds_per_flush = seconds_per_flush
        self._last_flush = time.monotonic()

    def append(self, frame: Frame) -> None:
        """Add a frame. Its arrays are kept until the next flush: do not change them.

        Raises:
            ValueError: the step does not lie after the last one, or the shapes do not fit the file.
            UserError: the file cannot be written, such as on a full disk.
        """
        if frame.step <= self._last_step:
            raise ValueError(f"step {frame.step} does not come after step {self._last_step}")
        if frame.positions.shape != (len(self._head.masses), 3):
            raise ValueError(
                f"positions of shape {frame.positions.shape} in a file of {len(self._head.masses)} atoms"
            )
        self._frames.append(frame)
        self._last_step = frame.step
        full = len(self._frames) >= self._frames_per_flush
        full = full or len(self._frames) * 3 * frame.positions.nbytes > BUFFER_BYTES
        if full or time.monotonic() - self._last_flush > self._seconds_per_flush:
            self.flush()

    def flush(self) -> None:
        """Bring every frame to disk. The file is closed and clean afterwards.

        Raises:
            UserError: it cannot be written; what was on disk before stays readable.
        """
        frames = self._frames
        self._last_flush = time.monotonic()
        if not frames:
            return
        with _write_errors(self.path):
            _reserve_space(self.path, frames)
            if self._n_written == 0:
                _write_new(self.path, self._head, frames)
            else:
                _append(self.path, frames, self._n_written)
        self._n_written += len(frames)
        self._frames = []

    def close(self) -> None:
        """Flush; the writer can still be used afterwards."""
        self.flush()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Trajectory:
    """A trajectory on disk, opened for reading; a context manager.

    Frames are read when asked for. Indices are slices, whole numbers or arrays of them.
    """

    def __init__(self, path: Path, file: h5py.File, *, is_damaged: bool) -> None:
        self.path = path
        self.is_damaged = is_damaged
        """Whether the file is being written, or its writer was killed during an append."""
        self._file = file
        self._particles = file["particles/trajectory"]
        head_group = file.get("parameters/kinetograph")
        bonds = file.get("connectivity/bonds")
        species = self._particles.get("species")
        masses = self._particles.get("mass")
        if species is None or masses is None:
            raise UserError("the H5MD file has no species or no masses", where=str(path))
        self._head = _Head(
            atomic_numbers=_fixed(species),
            masses=_fixed(masses).astype(np.float64),
            pbc=np.array([_text(b) == "periodic" for b in self._particles["box"].attrs["boundary"]]),
            bonds=None if bonds is None else bonds[()].astype(np.int64),
            metadata={} if head_group is None else json.loads(head_group["metadata"][()]),
        )
        self._n_listed = 0
        self.steps: Array = np.zeros(0, dtype=np.int64)
        """(n_frames,) int64."""
        self.times_fs: Array = np.zeros(0)
        """(n_frames,) fs."""
        if "position" in self._particles:
            position = self._particles["position"]
            self._n_listed = int(position["value"].shape[0])
            steps = position["step"][: self._n_listed].astype(np.int64)
            unfinished = np.nonzero(steps == NO_STEP)[0]
            n_frames = int(unfinished[0]) if len(unfinished) else len(steps)
            for _, element in _elements(file):
                n_frames = min(n_frames, element["value"].shape[0])
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
        return len(self._head.atomic_numbers)

    @property
    def atomic_numbers(self) -> Array:
        """(n_atoms,) int64."""
        return self._head.atomic_numbers.astype(np.int64)

    @property
    def masses(self) -> Array:
        """(n_atoms,) amu."""
        return self._head.masses

    @property
    def pbc(self) -> Array:
        """(3,) bool."""
        return self._head.pbc

    @property
    def bonds(self) -> Array | None:
        """(n_bonds, 2) int64, each pair once; ``None`` where not known."""
        return self._head.bonds

    @property
    def metadata(self) -> dict[str, Any]:
        """What made the run."""
        return self._head.metadata

    @property
    def cells(self) -> Array:
        """(n_frames, 3, 3) Å; zero rows where not periodic."""
        box = self._particles["box"]
        if "edges" not in box:
            return np.zeros((self.n_frames, 3, 3))
        edges = box["edges"]
        if isinstance(edges, h5py.Dataset):
            cells = np.broadcast_to(edges[()], (self.n_frames, *edges.shape)).astype(np.float64)
        else:
            cells = edges["value"][: self.n_frames].astype(np.float64)
        return cells if cells.ndim == 3 else cells[:, :, None] * np.eye(3)

    def positions(self, index: slice | int | Sequence[int] | Array = slice(None)) -> Array:
        """(n_chosen, n_atoms, 3) Å, not wrapped; (n_atoms, 3) for one frame."""
        chosen = self._vectors("position", index)
        assert chosen is not None
        return chosen

    def velocities(self, index: slice | int | Sequence[int] | Array = slice(None)) -> Array | None:
        """(n_chosen, n_atoms, 3) Å/fs, or ``None`` where the file has none."""
        return self._vectors("velocity", index)

    def forces(self, index: slice | int | Sequence[int] | Array = slice(None)) -> Array | None:
        """(n_chosen, n_atoms, 3) eV/Å, or ``None`` where the file has none."""
        return self._vectors("force", index)

    @property
    def observables(self) -> dict[str, Array]:
        """(n_frames,) numbers by name, such as ``temperature_K``."""
        group = self._file.get("observables", {})
        return {name: group[name]["value"][: self.n_frames].astype(np.float64) for name in group}

    def frame(self, index: int) -> ase.Atoms:
        """One frame, with velocities, forces and energy where known; ``info`` has step and time."""
        if not -self.n_frames <= index < self.n_frames:
            raise IndexError(f"frame {index} of a trajectory of {self.n_frames}")
        index %= self.n_frames
        atoms = ase.Atoms(
            numbers=self._head.atomic_numbers,
            positions=self.positions(index),
            cell=self.cells[index],
            pbc=self._head.pbc,
        )
        atoms.set_masses(self._head.masses)
        velocities, forces = self.velocities(index), self.forces(index)
        if velocities is not None:
            atoms.set_velocities(velocities * units.ASE_TIME_IN_FS)
        results: dict[str, Any] = {} if forces is None else {"forces": forces}
        energies = self._file.get("observables/potential_energy_eV/value")
        if energies is not None:
            results["energy"] = float(energies[index])
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info.update(step=int(self.steps[index]), time_fs=float(self.times_fs[index]))
        if self._head.bonds is not None:
            atoms.info["bonds"] = self._head.bonds
        return atoms

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _vectors(self, name: str, index: slice | int | Sequence[int] | Array) -> Array | None:
        if name not in self._particles:
            if name == "position":  # created, but nothing written yet
                return np.zeros((0, self.n_atoms, 3))
            return None
        values = self._particles[name]["value"]
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
        return np.asarray(chosen, dtype=np.float64) / VECTOR_ELEMENTS[name][1]


@dataclass(frozen=True)
class _Head:
    """What stays the same through a file."""

    atomic_numbers: Array
    masses: Array
    pbc: Array
    bonds: Array | None
    metadata: dict[str, Any]


def _write_new(path: Path, head: _Head, frames: list[Frame]) -> None:
    """A complete file in one atomic step."""
    temporary = path.with_name(path.name + ".writing")
    try:
        with h5py.File(temporary, "w", libver=FILE_FORMAT, locking=False) as file:
            _create(file, head)
            if frames:
                _create_elements(file, frames[0])
                _put(file, frames, 0)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _copy(old: Trajectory, n_frames: int, path: Path) -> None:
    """The first frames of an open file as a clean one in its place, in one atomic step."""
    temporary = path.with_name(path.name + ".writing")
    try:
        with h5py.File(temporary, "w", libver=FILE_FORMAT, locking=False) as file:
            _create(file, old._head)
            if n_frames:
                _create_elements(file, _frame_at(old, 0))
                elements = dict(_elements(file))
                batch = 256
                for start in range(0, n_frames, batch):
                    stop = min(start + batch, n_frames)
                    for name, source in _elements(old._file):
                        _extend(elements[name]["value"], start, source["value"][start:stop])
                    for part in ("step", "time"):
                        source = old._particles["position"][part]
                        _extend(file["particles/trajectory/position"][part], start, source[start:stop])
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _append(path: Path, frames: list[Frame], n_before: int) -> None:
    with h5py.File(path, "r+", libver=FILE_FORMAT, locking=False) as file:
        file.swmr_mode = True
        _put(file, frames, n_before)


def _create(file: h5py.File, head: _Head) -> None:
    h5md = file.create_group("h5md")
    h5md.attrs["version"] = np.array([1, 1])
    h5md.create_group("author").attrs["name"] = "unknown"
    creator = h5md.create_group("creator")
    creator.attrs["name"] = "kinetograph"
    creator.attrs["version"] = version("kinetograph")
    h5md.create_group("modules/units").attrs["version"] = np.array([1, 0])
    particles = file.create_group("particles/trajectory")
    box = particles.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if periodic else "none" for periodic in head.pbc]
    particles["species"] = head.atomic_numbers
    particles["mass"] = head.masses
    particles["mass"].attrs["unit"] = "u"
    if head.bonds is not None:
        file["connectivity/bonds"] = head.bonds
        file["connectivity/bonds"].attrs["particles_group"] = particles.ref
    file["parameters/kinetograph/metadata"] = json.dumps(head.metadata, ensure_ascii=False, default=str)


def _create_elements(file: h5py.File, first: Frame) -> None:
    """Empty time-dependent elements for the fields that the first frame has; all share step and time."""
    particles = file["particles/trajectory"]
    n_atoms = len(first.positions)
    step = particles.create_dataset(
        "position/step", (0,), np.int64, maxshape=(None,), chunks=(1024,), fillvalue=NO_STEP
    )
    times = particles.create_dataset("position/time", (0,), np.float64, maxshape=(None,), chunks=(1024,))
    times.attrs["unit"] = "fs"

    def element(group: h5py.Group, shape: tuple[int, ...], kind: type, unit: str) -> None:
        per_frame = int(np.prod(shape)) * np.dtype(kind).itemsize
        chunk = min(1024, max(1, CHUNK_BYTES // per_frame))
        group.create_dataset("value", (0, *shape), kind, maxshape=(None, *shape), chunks=(chunk, *shape))
        group["value"].attrs["unit"] = unit
        if "step" not in group:
            group["step"] = step
            group["time"] = times

    present = {"position": first.positions, "velocity": first.velocities, "force": first.forces}
    for name, values in present.items():
        if values is not None:
            element(particles.require_group(name), (n_atoms, 3), np.float32, VECTOR_ELEMENTS[name][0])
    if any(_text(boundary) == "periodic" for boundary in particles["box"].attrs["boundary"]):
        element(particles["box"].create_group("edges"), (3, 3), np.float64, "Angstrom")
    for name, (field, unit) in OBSERVABLES.items():
        if getattr(first, field) is not None:
            element(file.create_group(f"observables/{name}"), (), np.float64, unit)


def _put(file: h5py.File, frames: list[Frame], n_before: int) -> None:
    """Write frames behind the first ``n_before``; steps last, so that a frame counts once it is complete."""
    for name, element in _elements(file):
        _extend(element["value"], n_before, _column(name, frames))
    position = file["particles/trajectory/position"]
    _extend(position["time"], n_before, np.array([frame.time_fs for frame in frames]))
    file.flush()
    _extend(position["step"], n_before, np.array([frame.step for frame in frames]))
    file.flush()


def _column(name: str, frames: list[Frame]) -> Array:
    """The values of one element over the frames, in the units of the file."""
    if name in OBSERVABLES:
        values = [getattr(frame, OBSERVABLES[name][0]) for frame in frames]
    else:
        field = {"position": "positions", "velocity": "velocities", "force": "forces", "edges": "cell"}[name]
        values = [getattr(frame, field) for frame in frames]
    if any(value is None for value in values):
        raise ValueError(f"a frame has no {name}, though the first frame of the file has")
    factor = VECTOR_ELEMENTS[name][1] if name in VECTOR_ELEMENTS else 1.0
    return np.asarray(values, dtype=np.float64) * factor


def _extend(dataset: h5py.Dataset, n_before: int, values: Array) -> None:
    dataset.resize(n_before + len(values), axis=0)
    dataset[n_before:] = values


def _elements(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    """The time-dependent elements of our files, by name."""
    particles = file["particles/trajectory"]
    for name in VECTOR_ELEMENTS:
        if name in particles:
            yield name, particles[name]
    if isinstance(particles["box"].get("edges"), h5py.Group):
        yield "edges", particles["box/edges"]
    for name in OBSERVABLES:
        if f"observables/{name}" in file:
            yield name, file[f"observables/{name}"]


def _frame_at(trajectory: Trajectory, index: int) -> Frame:
    observables = trajectory.observables
    values = {
        field: float(observables[name][index])
        for name, (field, _) in OBSERVABLES.items()
        if name in observables
    }
    return Frame(
        step=int(trajectory.steps[index]),
        time_fs=float(trajectory.times_fs[index]),
        positions=trajectory.positions(index),
        cell=trajectory.cells[index],
        velocities=trajectory.velocities(index),
        forces=trajectory.forces(index),
        **values,
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
    return {"fs": 1.0, "ps": 1e3, "ns": 1e6}[_text(dataset.attrs["unit"])]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _reserve_space(path: Path, frames: list[Frame]) -> None:
    """Set aside what a batch needs before HDF5 touches the file; it gives back what is left over.

    Where the system cannot set space aside, look whether there is enough.
    """
    per_element = frames[0].positions.nbytes // 2  # single precision
    needed = len(VECTOR_ELEMENTS) * (len(frames) * per_element + max(per_element, CHUNK_BYTES)) + MARGIN_BYTES
    if not hasattr(os, "posix_fallocate"):
        if shutil.disk_usage(path.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), size, needed)
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a sentence for the user."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py raises both when a write fails
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            f"the trajectory cannot be written: {reason}",
            where=str(path),
            mend="Frames written before are safe; free some space or choose another place, then resume.",
        ) from error
