"""Which frames of which trajectories are measured together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kinetograph.errors import UserError
from kinetograph.trajectory import Trajectory


def require_same_atoms(trajectories: Sequence[Trajectory]) -> None:
    """Raise ``UserError`` unless there are trajectories and all hold the same atoms."""
    if not trajectories:
        raise UserError("no trajectories were given")
    for trajectory in trajectories:
        if not np.array_equal(trajectory.atomic_numbers, trajectories[0].atomic_numbers):
            raise UserError(
                "the trajectories hold different atoms",
                where=str(trajectory.path),
                mend="Analyse runs of one system together, others on their own.",
            )


def frames_after(trajectory: Trajectory, skip_fs: float, max_frames: int) -> NDArray[np.int64]:
    """Indices of at most ``max_frames`` evenly spaced frames later than ``skip_fs`` after the first.

    Raises:
        UserError: none is left.
    """
    times = trajectory.times_fs
    kept = np.nonzero(times - times[0] >= skip_fs - 1e-9)[0] if len(times) else np.zeros(0, dtype=np.int64)
    if len(kept) == 0:
        raise UserError(
            f"no frame is left after the first {skip_fs:g} fs",
            where=str(trajectory.path),
            mend="Leave out less, or run for longer.",
        )
    return np.asarray(kept[:: max(1, int(np.ceil(len(kept) / max_frames)))], dtype=np.int64)
