"""What looks on while structures relax: files of results and trajectories, and progress."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import ase
import ase.io
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console

from kinetograph.dynamics.relax.results import Frames, Relaxed
from kinetograph.dynamics.settings import require_whole
from kinetograph.dynamics.status_line import StatusLine, time_left
from kinetograph.errors import UserError


class RelaxationReporter(Protocol):
    """Sees every step and every end; reads, and changes nothing."""

    def report(self, frames: Frames) -> None:
        """The structures in work, with new forces."""

    def finished(self, relaxed: Relaxed) -> None:
        """One that is done; its last forces have been reported before, unless the potential refused it."""

    def close(self) -> None: ...


class RelaxedWriter:
    """Appends structures where they ended to an extended XYZ file, in the order in which they were given.

    Args:
        templates: the structures as they were read: what else they hold is kept.
        overwrite: replace the file, once there is something to write.
        companions: files with numbers of what the file holds: they go when it is replaced.

    Raises:
        UserError: the file exists.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        templates: Sequence[ase.Atoms] | None = None,
        overwrite: bool = False,
        companions: Sequence[Path] = (),
    ) -> None:
        self.path = Path(path)
        self.has_begun = False
        """Whether the file holds structures of this relaxation."""
        self._templates = templates
        self._companions = companions
        self._waiting: dict[int, ase.Atoms] = {}
        self._next = 0
        if self.path.exists() and not overwrite:
            raise UserError("the output exists already", where=str(path), mend="Choose another name.")

    def report(self, frames: Frames) -> None:
        pass

    def finished(self, relaxed: Relaxed) -> None:
        atoms = to_atoms(relaxed, self._templates)
        atoms.info["converged"] = relaxed.converged
        if relaxed.failure is not None:
            atoms.info["failure"] = relaxed.failure
        self._waiting[relaxed.number] = atoms
        ready = []
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next += 1
        self._append(ready)

    def close(self) -> None:
        """What still waits for one before it, in a run that was stopped."""
        self._append([self._waiting[number] for number in sorted(self._waiting)])
        self._waiting.clear()

    def _append(self, frames: list[ase.Atoms]) -> None:
        if not frames:
            return
        if not self.has_begun:
            self.has_begun = True
            for old in (*self._companions, self.path):
                old.unlink(missing_ok=True)
        _append(self.path, frames)


class RelaxationTrajectory:
    """The way of each structure as an extended XYZ file of its own, ``00000.extxyz`` and so on in a folder.

    Args:
        folder: made where there is none.
        every: steps between frames; the last frame is always there.
        templates: the structures as they were read: what else they hold is kept.
        overwrite: replace such files, once there is something to write.

    Raises:
        UserError: such files are there already, or ``every`` is no step.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        every: int = 1,
        templates: Sequence[ase.Atoms] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self._every = require_whole("every", every, least=1)
        self._templates = templates
        self._there = [path for path in self.folder.glob("*.extxyz") if path.stem.isdigit()]
        self._has_begun = False
        if self._there and not overwrite:
            raise UserError(
                "the folder holds trajectories already",
                where=str(folder),
                mend="Choose another.",
            )

    def report(self, frames: Frames) -> None:
        for index, n_steps in enumerate(frames.n_steps):
            if n_steps % self._every == 0:
                self._append(frames.structure(index))

    def finished(self, relaxed: Relaxed) -> None:
        if relaxed.n_steps % self._every != 0 or relaxed.forces is None:
            self._append(relaxed)

    def close(self) -> None:
        pass

    def _append(self, relaxed: Relaxed) -> None:
        if not self._has_begun:
            self._has_begun = True
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in self._there:
                old.unlink(missing_ok=True)
        path = self.folder / f"{relaxed.number:05d}.extxyz"
        _append(path, [to_atoms(relaxed, self._templates)])


def _append(path: Path, frames: list[ase.Atoms]) -> None:
    with warnings.catch_warnings():
        # What no text can hold of what ASE's builders leave in ``info`` is left out.
        warnings.filterwarnings("ignore", "Skipping unhashable information")
        ase.io.write(path, frames, format="extxyz", append=True)


def to_atoms(relaxed: Relaxed, templates: Sequence[ase.Atoms] | None = None) -> ase.Atoms:
    """A structure with its energy, forces and stress as far as they are finite numbers."""
    (atoms,) = relaxed.system.to_ase()
    if templates is not None:
        found, atoms = atoms, templates[relaxed.number].copy()
        atoms.set_cell(found.cell)
        atoms.set_positions(found.positions, apply_constraint=False)
        atoms.arrays.pop("momenta", None)
    for name in ("converged", "failure"):  # of an earlier relaxation of the same structure
        atoms.info.pop(name, None)
    atoms.info.update(structure=relaxed.number, n_steps=relaxed.n_steps)
    results: dict[str, Any] = {}
    if relaxed.energy_eV is not None:
        results["energy"] = relaxed.energy_eV
    if relaxed.forces is not None:
        results["forces"] = relaxed.forces.cpu().numpy()
    if relaxed.stress is not None:
        results["stress"] = relaxed.stress.cpu().numpy()
    atoms.calc = SinglePointCalculator(
        atoms, **{name: value for name, value in results.items() if _is_finite(value)}
    )
    return atoms


def _is_finite(value: Any) -> bool:
    return bool(torch.isfinite(torch.as_tensor(value)).all())


class RelaxationStatus:
    """Progress on stderr: a line that changes on a terminal, a line now and then elsewhere."""

    def __init__(
        self,
        n_structures: int,
        max_steps: int,
        *,
        console: Console | None = None,
        seconds: float = 0.5,
        seconds_between_lines: float = 15.0,
    ) -> None:
        self._line = StatusLine(
            n_structures, console=console, seconds=seconds, seconds_between_lines=seconds_between_lines
        )
        self._n_structures, self._max_steps = n_structures, max_steps
        self._n_done = 0
        self._started = time.monotonic()

    def report(self, frames: Frames) -> None:
        if self._line.is_due():
            self._show(frames, time.monotonic())

    def finished(self, relaxed: Relaxed) -> None:
        self._n_done += 1

    def close(self) -> None:
        self._line.close()

    def _show(self, frames: Frames, now: float) -> None:
        elapsed = now - self._started
        if self._n_structures == 1:
            done, total, rate_of = frames.n_steps[0], self._max_steps, "steps/s"
            line = f"step {done}/{total}"
        else:
            done, total, rate_of = self._n_done, self._n_structures, "structures/s"
            line = f"{done}/{total} structures  {len(frames.numbers)} in work"
        line += f"  largest force {float(frames.max_force.max()):.3g} eV/Å"
        if done > 0 and elapsed > 0:
            line += f"  {done / elapsed:.3g} {rate_of}  " + time_left((total - done) * elapsed / done)
        self._line.show(line, done, total)
