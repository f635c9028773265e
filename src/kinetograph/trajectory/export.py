"""Trajectories in formats of other programs: extended XYZ, XYZ and DCD, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ase
import numpy as np
from ase.data import atomic_masses
from ase.io.extxyz import write_extxyz
from ase.io.xyz import write_xyz

from kinetograph import units
from kinetograph.errors import UserError, needs
from kinetograph.trajectory.output import replacing, write_errors
from kinetograph.trajectory.reader import Trajectory
from kinetograph.trajectory.wrapping import Wrap, wrapping

Write = Callable[[ase.Atoms], None]


def convert(
    trajectory: Trajectory,
    path: Path | str,
    *,
    first: int = 0,
    last: int = -1,
    every: int = 1,
    wrap: Wrap | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write frames in the format that the ending of ``path`` names; gives their number.

    =============  ==================================================================================
    ending         holds
    =============  ==================================================================================
    ``.extxyz``    positions, cell, momenta, forces, energy, stress, step and time, as ASE reads them
    ``.xyz``       elements and positions
    ``.dcd``       positions and cell in single precision, and evenly spaced times. The format knows
                   lengths and angles of a cell only: other cells are turned until their first vector
                   lies along x and their second in the xy plane, and the positions with them
    =============  ==================================================================================

    The file is there completely or not at all.

    Args:
        first: the first frame, counted from 0, or from the end where negative.
        last: the last frame, which is written too.
        every: of these each so-manieth.
        wrap: see :func:`kinetograph.trajectory.wrapping.wrapping`.
        progress: told frames written and frames in all.

    Raises:
        UserError: the format is not known, such frames are not there, they cannot be wrapped, DCD
            cannot hold their times, the file exists or cannot be written, or MDAnalysis, which
            writes DCD, is missing.
    """
    path = Path(path)
    formats = {".extxyz": _extxyz, ".xyz": _xyz, ".dcd": _dcd}
    if path.suffix not in formats:
        raise UserError(
            f"the format {path.suffix or 'without an ending'} is not known",
            where=str(path),
            mend=f"Use one of {', '.join(formats)}.",
        )
    if path.exists() and not overwrite:
        raise UserError(
            "the output exists already", where=str(path), mend="Choose another name, or overwrite it."
        )
    frames = _frames(trajectory, first, last, every)
    wrapped = wrapping(trajectory, wrap)
    with (
        write_errors(path, "Free some space or choose another place."),
        replacing(path) as temporary,
        formats[path.suffix](temporary, trajectory, frames) as write,
    ):
        for n_done, index in enumerate(frames, start=1):
            atoms = _frame(trajectory, index)
            atoms.positions = wrapped(atoms.positions, np.asarray(atoms.cell))
            write(atoms)
            if progress is not None:
                progress(n_done, len(frames))
    return len(frames)


def _frame(trajectory: Trajectory, index: int) -> ase.Atoms:
    try:
        return trajectory.frame(index)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"frame {index} cannot be read: the file is damaged ({error})",
            where=str(trajectory.path),
            mend="Choose frames before it.",
        ) from error


def _frames(trajectory: Trajectory, first: int, last: int, every: int) -> range:
    n = trajectory.n_frames
    if n == 0:
        raise UserError("the trajectory has no frames", where=str(trajectory.path))
    for name, value in (("first", first), ("last", last)):
        if not -n <= value < n:
            raise UserError(f"there is no frame {value}; the trajectory has {n}", where=name)
    if every < 1:
        raise UserError(f"every is {every}", where="every", mend="Use 1 or more.")
    frames = range(first % n, last % n + 1, every)
    if not frames:
        raise UserError(f"the first frame, {first}, comes after the last, {last}", where="first")
    return frames


@contextmanager
def _extxyz(path: Path, trajectory: Trajectory, frames: range) -> Iterator[Write]:
    usual = np.allclose(trajectory.masses, atomic_masses[trajectory.atomic_numbers], rtol=1e-6)

    def write(atoms: ase.Atoms) -> None:
        atoms.info.pop("bonds", None)  # ASE would repeat them in every frame
        if usual:
            del atoms.arrays["masses"]
        write_extxyz(file, atoms)

    with path.open("w", encoding="utf-8") as file:
        yield write


@contextmanager
def _xyz(path: Path, trajectory: Trajectory, frames: range) -> Iterator[Write]:
    def write(atoms: ase.Atoms) -> None:
        write_xyz(file, [atoms], comment=f"step={atoms.info['step']} time_fs={atoms.info['time_fs']:g}")

    with path.open("w", encoding="utf-8") as file:
        yield write


@contextmanager
def _dcd(path: Path, trajectory: Trajectory, frames: range) -> Iterator[Write]:
    with needs("MDAnalysis", extra="analysis"):
        from MDAnalysis.lib.formats.libdcd import DCDFile
        from MDAnalysis.units import convert as converted
    steps, times_fs = trajectory.steps[frames], trajectory.times_fs[frames]
    spacings = np.diff(steps)
    if len(np.unique(spacings)) > 1:
        raise UserError(
            "the frames are not evenly spaced, and DCD holds one spacing for all",
            where=str(trajectory.path),
            mend="Choose a part that is, or write .extxyz.",
        )
    step_fs = (times_fs[-1] - times_fs[0]) / (steps[-1] - steps[0]) if len(steps) > 1 else 1.0

    def write(atoms: ase.Atoms) -> None:
        positions, cell = atoms.positions, atoms.cell
        if cell.rank == 3:
            cell, turn = cell.standard_form()
            positions = positions @ turn.T
        a, b, c, alpha, beta, gamma = cell.cellpar()
        file.write(positions.astype(np.float32), np.array([a, gamma, b, beta, alpha, c]))

    with DCDFile(str(path), "w") as file:
        file.write_header(
            remarks="written by kinetograph",
            natoms=trajectory.n_atoms,
            istart=int(steps[0]),
            nsavc=int(spacings[0]) if len(spacings) else 1,
            delta=converted(step_fs / units.PS_IN_FS, "ps", "AKMA"),
            is_periodic=int(trajectory.pbc.any()),
        )
        yield write
