"""``TrajectoryWriter``: appends frames so that a killed run leaves a readable file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from kinetograph.errors import UserError
from kinetograph.trajectory.layout import (
    FILE_FORMAT,
    NO_STEP,
    OBSERVABLES,
    VECTOR_ELEMENTS,
    Array,
    Frame,
    Head,
    elements_of,
    text_of,
)
from kinetograph.trajectory.reader import Trajectory

CHUNK_BYTES = 128 * 1024
BUFFER_BYTES = 64 * 1024 * 1024
MARGIN_BYTES = 1024 * 1024


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
        self._head = Head(
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
            writer._head = old.head
            n_kept = int(np.searchsorted(old.steps, after_step, side="right"))
            writer._last_step = int(old.steps[n_kept - 1]) if n_kept else NO_STEP
            if old.is_damaged or n_kept < old.n_listed or n_kept == 0:
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


def _write_new(path: Path, head: Head, frames: list[Frame]) -> None:
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
            _create(file, old.head)
            if n_frames:
                _create_elements(file, _frame_at(old, 0))
                elements = dict(elements_of(file))
                batch = 256
                for start in range(0, n_frames, batch):
                    stop = min(start + batch, n_frames)
                    for name, source in elements_of(old.file):
                        _extend(elements[name]["value"], start, source["value"][start:stop])
                    for part in ("step", "time"):
                        source = old.file["particles/trajectory/position"][part]
                        _extend(file["particles/trajectory/position"][part], start, source[start:stop])
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _append(path: Path, frames: list[Frame], n_before: int) -> None:
    with h5py.File(path, "r+", libver=FILE_FORMAT, locking=False) as file:
        file.swmr_mode = True
        _put(file, frames, n_before)


def _create(file: h5py.File, head: Head) -> None:
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
    if any(text_of(boundary) == "periodic" for boundary in particles["box"].attrs["boundary"]):
        element(particles["box"].create_group("edges"), (3, 3), np.float64, "Angstrom")
    for name, (field, unit) in OBSERVABLES.items():
        if getattr(first, field) is not None:
            element(file.create_group(f"observables/{name}"), (), np.float64, unit)


def _put(file: h5py.File, frames: list[Frame], n_before: int) -> None:
    """Write frames behind the first ``n_before``; steps last, so that a frame counts once it is complete."""
    for name, element in elements_of(file):
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
