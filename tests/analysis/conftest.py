"""Trajectories of chosen positions, written by the real writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinetograph.trajectory import Frame, Trajectory, TrajectoryWriter

Write = Callable[..., Trajectory]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes and opens a trajectory.

    Positions (n_frames, n_atoms, 3) and a cell (3, 3) or (n_frames, 3, 3), in Å; other fields per frame.
    """
    opened: list[Trajectory] = []

    def written(
        positions: np.ndarray,
        cell: np.ndarray,
        numbers: np.ndarray,
        *,
        bonds: np.ndarray | None = None,
        pbc: bool = True,
        step_fs: float = 10.0,
        metadata: dict[str, Any] | None = None,
        **fields: np.ndarray,
    ) -> Trajectory:
        path = tmp_path / f"trajectory-{len(opened)}.h5"
        cells = np.broadcast_to(cell, (len(positions), 3, 3))
        with TrajectoryWriter(
            path,
            atomic_numbers=np.asarray(numbers),
            masses=np.full(len(numbers), 2.0),
            pbc=np.full(3, pbc),
            bonds=bonds,
            metadata=metadata or {},
        ) as writer:
            for i, frame in enumerate(positions):
                own = {name: values[i] for name, values in fields.items()}
                writer.append(Frame(step=i, time_fs=i * step_fs, positions=frame, cell=cells[i], **own))
        opened.append(Trajectory.open(path))
        return opened[-1]

    return written
