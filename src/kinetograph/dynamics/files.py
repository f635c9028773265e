"""The files of a run: what they are called, and how they are written while the run goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path

from kinetograph.dynamics.checkpoint import RunDescription, Snapshot
from kinetograph.dynamics.state import State
from kinetograph.errors import UserError
from kinetograph.trajectory import TrajectoryWriter
from kinetograph.trajectory.background import in_background

FAILED = ".failed.extxyz"
RESTART = ".restart"


def restart_path(path: Path | str, batch: int = 1) -> Path:
    """Where the checkpoint of a trajectory lies: ``x.restart`` for ``x.h5``; other names are kept whole.

    Args:
        batch: of a run in several batches; from the second on they are ``x.batch-2.restart`` and so on.
    """
    return beside(Path(path), RESTART if batch == 1 else f".batch-{batch}{RESTART}")


def trajectory_paths(path: Path | str, n_systems: int) -> list[Path]:
    """Where the trajectory of each structure lies: ``x.h5`` for one, ``x-00.h5`` and so on for several."""
    path = Path(path)
    if n_systems == 1:
        return [path]
    width = len(str(n_systems - 1))
    return [path.with_name(f"{path.stem}-{index:0{width}d}{path.suffix}") for index in range(n_systems)]


def failed_path(trajectory: Path) -> Path:
    """Where the last good frames before a failure lie."""
    return beside(trajectory, FAILED)


def numbers_path(path: Path | str) -> Path:
    """Where the command line keeps the numbers of a run."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def beside(path: Path, ending: str) -> Path:
    """The companion of a trajectory; only ``.h5`` gives way, so that ``a.100K`` and ``a.200K`` share none."""
    return path.with_name((path.stem if path.suffix == ".h5" else path.name) + ending)


def refuse_existing(path: Path, n_systems: int) -> None:
    """Raise ``UserError`` where a file of a run of this name is there already."""
    for output in (*trajectory_paths(path, n_systems), *_restart_paths(path)):
        if output.exists():
            raise UserError(
                "the output exists already",
                where=str(output),
                mend="Choose another name, resume the run, or overwrite it.",
            )


def remove_earlier(path: Path) -> None:
    """Take out an earlier run of this name, of however many replicas, before it is replaced."""
    for checkpoint in _restart_paths(path):  # first: half a run is not to be resumed
        checkpoint.unlink()
    numbers_path(path).unlink(missing_ok=True)
    earlier = _siblings(path, re.escape(path.stem) + r"-\d+" + re.escape(path.suffix))
    for trajectory in (path, *earlier):
        failed_path(trajectory).unlink(missing_ok=True)
    for trajectory in earlier:
        trajectory.unlink()


def _restart_paths(path: Path) -> list[Path]:
    """Those there are, of all batches, the first one's first."""
    first = restart_path(path)
    stem = re.escape(first.name.removesuffix(RESTART))
    later = _siblings(path, stem + r"\.batch-\d+" + re.escape(RESTART))
    return [first, *later] if first.exists() else later


def _siblings(path: Path, pattern: str) -> list[Path]:
    return [other for other in path.parent.iterdir() if re.fullmatch(pattern, other.name)]


class Outputs:
    """Trajectories and checkpoint of a batch while it runs.

    The thread that writes trajectories writes checkpoints too, each behind the frames that it must not be
    ahead of. At most one is on its way: where the disk is slower, the run waits.

    Args:
        checkpoint: its path.
        writers: by replica.
        batches: how many replicas each batch of the run has.
    """

    def __init__(
        self, checkpoint: Path, writers: Mapping[int, TrajectoryWriter], batches: Sequence[int]
    ) -> None:
        self.writers = writers
        self._checkpoint = checkpoint
        self._batches = batches
        self._writing: Future[None] | None = None

    def save(
        self, state: State, description: RunDescription, failures: Sequence[tuple[int, int, str]]
    ) -> None:
        """Let the thread write a checkpoint, and all frames there are before it.

        Args:
            failures: replica, step and reason of the structures that left the batch.

        Raises:
            UserError: frames, or the checkpoint before this one, could not be written.
        """
        self.finish()
        content = Snapshot.of(state, description, failures=failures, batches=self._batches)
        frames = [writing for w in self.writers.values() if (writing := w.hand_over()) is not None]
        self._writing = in_background(_write, self._checkpoint, content, frames)

    def look(self) -> None:
        """Raise ``UserError`` if the thread could not write the last checkpoint; do not wait for it."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint is on disk.

        Raises:
            UserError: it, or a frame before it, could not be written; the one before is kept.
        """
        if self._writing is None:
            return
        wait([self._writing])
        error, self._writing = self._writing.exception(), None
        if error is not None:
            raise error

    def flush(self) -> None:
        """Wait until every frame is on disk."""
        for writer in self.writers.values():
            writer.flush()

    def abandon(self) -> None:
        """Wait for the thread where an error is on its way already: what else goes wrong is not told."""
        if self._writing is not None:
            wait([self._writing])


def _write(checkpoint: Path, content: Snapshot, frames: Sequence[Future[None]]) -> None:
    """In the thread. A checkpoint ahead of its frames would lose them: a restart goes on behind it."""
    for writing in frames:
        writing.result()
    content.write(checkpoint)
