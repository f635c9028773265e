"""``TrajectoryWriter``: appends frames while the run goes on, so that a killed run leaves a readable file."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kinetograph.errors import UserError
from kinetograph.trajectory import h5md
from kinetograph.trajectory.background import in_background
from kinetograph.trajectory.layout import NO_STEP, VECTOR_ELEMENTS, Array, Frame, Head
from kinetograph.trajectory.output import write_errors
from kinetograph.trajectory.reader import Trajectory

BATCH_BYTES = 4 * 1024 * 1024
SECONDS_PER_FLUSH = 30.0
MEND = "Frames written before are safe; free some space or choose another place, then resume."


class TrajectoryWriter:
    """Appends frames to a new trajectory file; a context manager.

    A thread compresses and writes them, batch after batch. At most two batches are in
    memory: where the disk is slower than the run, the run waits.

    Args:
        path: the file; must not exist unless ``overwrite``.
        atomic_numbers: (n_atoms,).
        masses: (n_atoms,) amu.
        pbc: (3,) bool.
        bonds: (n_bonds, 2) pairs of atoms, or ``None`` where not known.
        metadata: anything JSON can hold, on what made the run.
        frames_per_flush: frames in a batch; about 4 MiB in the file, in whole chunks, by default.
        seconds_per_flush: a batch goes to disk at this age although it is smaller, checked when a
            frame comes.

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
        frames_per_flush: int | None = None,
        seconds_per_flush: float = SECONDS_PER_FLUSH,
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
        self._start(0, NO_STEP, frames_per_flush, seconds_per_flush)
        with write_errors(self.path, MEND):
            h5md.write_new(self.path, self._head, [])

    @staticmethod
    def resume(
        path: Path | str,
        after_step: int,
        *,
        frames_per_flush: int | None = None,
        seconds_per_flush: float = SECONDS_PER_FLUSH,
    ) -> TrajectoryWriter:
        """Continue a file, without its frames later than ``after_step``.

        A file that a killed run left marked as being written is copied to a clean one first.

        Raises:
            UserError: the file is missing, not a trajectory, or cannot be written.
        """
        writer = TrajectoryWriter.__new__(TrajectoryWriter)
        writer.path = Path(path)
        with Trajectory.open(path) as old:
            writer._head = old.head
            n_kept = int(np.searchsorted(old.steps, after_step, side="right"))
            last_step = int(old.steps[n_kept - 1]) if n_kept else NO_STEP
            if old.is_damaged or n_kept < old.n_listed or n_kept == 0:
                with write_errors(writer.path, MEND):
                    h5md.copy(old, n_kept, writer.path)
            fields = set(old.fields) if n_kept else None
        writer._start(n_kept, last_step, frames_per_flush, seconds_per_flush)
        writer._fields = fields
        return writer

    def _start(
        self, n_written: int, last_step: int, frames_per_flush: int | None, seconds_per_flush: float
    ) -> None:
        per_vector = h5md.bytes_per_vector(len(self._head.masses))
        self._n_chunk = h5md.chunk_frames(per_vector)
        if frames_per_flush is None:
            n_chunks = max(1, BATCH_BYTES // (len(VECTOR_ELEMENTS) * self._n_chunk * per_vector))
            frames_per_flush = n_chunks * self._n_chunk
        self._frames_per_flush = frames_per_flush
        self._seconds_per_flush = seconds_per_flush
        self._last_flush = time.monotonic()
        self._last_step = last_step
        self._n_written = n_written
        self._fields: set[str] | None = None
        """What every frame must have, by the names in the file; ``None`` before the first."""
        self._frames: list[Frame] = []
        """Not yet handed over."""
        self._batch: list[Frame] = []
        """Being written."""
        self._writing: Future[None] | None = None

    def append(self, frame: Frame) -> None:
        """Add a frame. Its arrays are kept until they are on disk: do not change them.

        Raises:
            ValueError: the step does not lie after the last one, the shapes do not fit the file, or
                something is missing that its first frame has.
            UserError: a batch handed over before could not be written, such as on a full disk. Its
                frames are kept, this one too, and the next flush tries again.
        """
        if frame.step <= self._last_step:
            raise ValueError(f"step {frame.step} does not come after step {self._last_step}")
        self._require_fields(frame)
        self._frames.append(frame)
        self._last_step = frame.step
        if self._writing is not None and self._writing.done():
            self._finish_batch()
        is_old = time.monotonic() - self._last_flush > self._seconds_per_flush
        if is_old or len(self._frames) >= self._frames_per_flush:
            self._finish_batch()
            # Whole chunks where there are some: only those are compressed.
            n_whole = len(self._frames) - (self._n_written + len(self._frames)) % self._n_chunk
            self._begin_batch(n_whole if n_whole > 0 else len(self._frames))

    def hand_over(self) -> Future[None] | None:
        """Let the thread write every frame there is; wait only for a batch that is on its way already.

        Returns:
            What is done when all are on disk, and holds the error if they could not be written; ``None``
            where they are on disk.

        Raises:
            UserError: a batch handed over before could not be written.
        """
        if self._frames:
            self._finish_batch()
            self._begin_batch(len(self._frames))
        return self._writing

    def flush(self) -> None:
        """Wait until every frame is on disk. The file is closed and clean afterwards.

        Raises:
            UserError: it cannot be written; what was on disk before stays readable.
        """
        self._finish_batch()
        if self._frames:
            self._begin_batch(len(self._frames))
            self._finish_batch()

    def close(self) -> None:
        """Flush; the writer can still be used afterwards."""
        self.flush()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_fields(self, frame: Frame) -> None:
        if self._fields is None:
            self._fields = h5md.fields_of(frame)
        for name in self._fields:
            value = getattr(frame, h5md.FIELDS[name])
            if value is None:
                raise ValueError(f"a frame has no {name}, though the first frame of the file has")
            if name in VECTOR_ELEMENTS and value.shape != (len(self._head.masses), 3):
                raise ValueError(f"{name} of shape {value.shape} in a file of {len(self._head.masses)} atoms")

    def _begin_batch(self, n_frames: int) -> None:
        """Hand over the first frames; nothing is being written."""
        self._batch, self._frames = self._frames[:n_frames], self._frames[n_frames:]
        self._writing = in_background(self._write, self._batch, self._n_written)
        self._last_flush = time.monotonic()

    def _finish_batch(self) -> None:
        """Wait for the batch being written, if there is one; its frames are kept if it failed."""
        if self._writing is None:
            return
        wait([self._writing])
        error, self._writing = self._writing.exception(), None
        if error is not None:
            self._frames = self._batch + self._frames
            self._batch = []
            raise error
        self._n_written += len(self._batch)
        self._batch = []

    def _write(self, frames: list[Frame], n_before: int) -> None:
        """In the thread."""
        with write_errors(self.path, MEND):
            if n_before == 0:
                h5md.write_new(self.path, self._head, frames)
            else:
                h5md.append(self.path, frames, n_before)
