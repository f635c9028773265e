"""``simulate``: the run loop, its files, and what stops it."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import ase.io
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from kinetograph.dynamics.checkpoint import (
    RunDescription,
    describe_integrator,
    describe_potential,
    load_checkpoint,
    require_same_run,
    save_checkpoint,
)
from kinetograph.dynamics.reporters import (
    DomainReporter,
    Reporter,
    StatusReporter,
    TrajectoryReporter,
    ns_per_day,
)
from kinetograph.dynamics.settings import Ramp, Temperature, for_each, hottest, require_positive
from kinetograph.dynamics.state import DEFAULT_SKIN_A, Integrator, State
from kinetograph.dynamics.velocities import inertia_of, maxwell_boltzmann, temperature
from kinetograph.errors import RunFailed, UserError
from kinetograph.pairs import shortest_pair
from kinetograph.potential import Potential
from kinetograph.system import System
from kinetograph.trajectory import TrajectoryWriter

SECONDS_PER_CHECKPOINT = 30.0
RUNAWAY_FACTOR = 20.0
"""A run stops when it is this many times hotter than it should be."""
RUNAWAY_FLOOR_K = 100.0
"""Cold runs count as this warm for that purpose: a cold start may heat itself by relaxing."""
N_LAST_GOOD_FRAMES = 5
COINCIDENT_A = 0.5
"""Å: atoms nearer than this are the likely cause of forces that are not finite; no bond is so short."""
LARGEST_SEED = 2**64 - 1
"""The key of the random numbers has so many bits."""


class SimulationFailed(RunFailed):
    """The run went wrong: forces are not finite, or the temperature ran away.

    The trajectory, the last checkpoint and a file with the last good frames are kept.
    """


@dataclass(frozen=True)
class SimulationResult:
    """A run that came to its end."""

    state: State
    path: Path | None
    """The trajectory."""
    n_steps: int
    """Steps made in this call, without those before a restart."""
    wall_s: float
    ns_per_day: float
    mean_temperature_K: float
    """Over the steps made in this call and all structures."""
    mean_net_force_eV_per_A: float
    """Mean |ΣF| of the predicted forces, taken out where the centre of mass is held."""
    resumed_from: int | None = None
    """The step at which this call took up the run."""
    warnings: list[str] = field(default_factory=list)
    """The first of each kind of warning."""
    warning_counts: dict[str, int] = field(default_factory=dict)
    """In how many of the checked steps each was seen."""


def restart_path(path: Path | str) -> Path:
    """Where the checkpoint of a trajectory lies: ``x.restart`` for ``x.h5``; other names are kept whole."""
    return _beside(Path(path), ".restart")


def _beside(path: Path, ending: str) -> Path:
    """The companion of a trajectory; only ``.h5`` gives way, so that ``a.100K`` and ``a.200K`` share none."""
    return path.with_name((path.stem if path.suffix == ".h5" else path.name) + ending)


def simulate(
    potential: Potential,
    system: System,
    integrator: Integrator,
    *,
    n_steps: int,
    seed: int = 0,
    path: Path | str | None = None,
    every: int = 100,
    checkpoint_every: int | None = None,
    skin_A: float = DEFAULT_SKIN_A,
    initial_temperature_K: float | None = None,
    max_temperature_K: float | None = None,
    overwrite: bool = False,
    resume: bool = False,
    reporters: Sequence[Reporter] = (),
    status: bool = True,
    metadata: dict[str, Any] | None = None,
) -> SimulationResult:
    """Run molecular dynamics.

    Two runs with the same arguments are the same run, and so are a run and one that was killed and
    resumed: bit for bit on the CPU.

    Args:
        system: one structure where ``path`` is given; any batch otherwise.
        n_steps: step at which the run ends, steps before a restart included.
        path: trajectory (``.h5``); the checkpoint lies beside it (see :func:`restart_path`).
        every: steps between frames, and between checks against the training domain.
        checkpoint_every: steps between checkpoints; by default one every half minute of wall time.
        skin_A: how much further than the cutoff the neighbour list reaches.
        initial_temperature_K: draw velocities at this temperature, 0 for a start at rest. By default
            the system's own velocities are kept; where it has none they are drawn at the temperature
            of the thermostat.
        max_temperature_K: stop above this; by default 20 times the temperature the run should have, and
            in a resumed run what it was before.
        resume: continue from the checkpoint; what makes the run must be as it was.
        reporters: further reporters, closed at the end.
        status: live status and warnings on stderr.
        metadata: kept in the trajectory, beside what describes the run.

    Raises:
        UserError: an input cannot be used, the forces on it are not finite, an output exists, or a
            resumed run is not the same. Nothing has been written then.
        SimulationFailed: the run went wrong; its files are kept.
        KeyboardInterrupt: the run was interrupted; it stopped after a whole step and can be resumed.
    """
    _check_arguments(system, n_steps, seed, path, every, checkpoint_every, max_temperature_K)
    if potential.domain is not None:
        potential.domain.require_elements(system)
    run = RunDescription(
        integrator=describe_integrator(integrator),
        potential=describe_potential(potential),
        seed=int(seed),
        skin_A=skin_A,
        every=every,
        initial_temperature_K=initial_temperature_K,
    )
    was_training = potential.training
    potential.eval()
    try:
        with torch.no_grad():
            state, writer, limit_K = _start(
                potential,
                system,
                integrator,
                run,
                None if path is None else Path(path),
                overwrite,
                resume,
                metadata,
            )
            if max_temperature_K is not None:
                limit_K = max_temperature_K
            loop = _Loop(potential, integrator, run, writer, n_steps, checkpoint_every, limit_K)
            return loop.run(state, list(reporters), status, resumed=resume)
    finally:
        potential.train(was_training)


def _start(
    potential: Potential,
    system: System,
    integrator: Integrator,
    run: RunDescription,
    path: Path | None,
    overwrite: bool,
    resume: bool,
    metadata: dict[str, Any] | None,
) -> tuple[State, TrajectoryWriter | None, float]:
    """The first state, from the structure or the checkpoint; the open trajectory; the runaway limit (K)."""
    if resume:
        if path is None:
            raise UserError("a run without files cannot be resumed", where="resume", mend="Give its path.")
        state, old_run, limit_K = load_checkpoint(restart_path(path), potential.request, system.device)
        require_same_run(old_run, run, restart_path(path))
        _require_same_atoms(state.system, system, restart_path(path))
        return state, TrajectoryWriter.resume(path, state.step), limit_K
    if path is not None and not overwrite:
        for output in (path, restart_path(path)):
            if output.exists():
                raise UserError(
                    "the output exists already",
                    where=str(output),
                    mend="Choose another name, resume the run, or overwrite it.",
                )
    state = integrator.init(_with_velocities(system, integrator, run), potential, run.seed, skin_A=run.skin_A)
    _require_finite_forces(state)
    limit_K = _runaway_temperature(state, integrator, run.initial_temperature_K)
    if path is None:
        return state, None, limit_K
    restart_path(path).unlink(missing_ok=True)
    bonds = state.system.bonds
    writer = TrajectoryWriter(
        path,
        atomic_numbers=state.system.atomic_numbers.cpu().numpy(),
        masses=state.system.masses.cpu().numpy(),
        pbc=state.system.pbc[0].cpu().numpy(),
        bonds=None if bonds is None else bonds.cpu().numpy(),
        metadata={**(metadata or {}), "run": asdict(run), "timestep_fs": integrator.timestep_fs},
        overwrite=overwrite,
    )
    return state, writer, limit_K


class _Loop:
    """The loop, with what it counts on the way."""

    def __init__(
        self,
        potential: Potential,
        integrator: Integrator,
        run: RunDescription,
        writer: TrajectoryWriter | None,
        n_steps: int,
        checkpoint_every: int | None,
        limit_K: float,
    ) -> None:
        self.limit_K = limit_K
        self.potential = potential
        self.integrator = integrator
        self.description = run
        self.writer = writer
        self.n_steps = n_steps
        self.checkpoint_every = checkpoint_every
        self._last_checkpoint = time.monotonic()
        self._last_good: deque[State] = deque(maxlen=N_LAST_GOOD_FRAMES)

    def run(
        self, first: State, reporters: list[Reporter], status: bool, *, resumed: bool
    ) -> SimulationResult:
        every = self.description.every
        live = StatusReporter(self.integrator, self.n_steps) if status else None
        domain = DomainReporter(self.potential, live.announce if live else _silent, every=every)
        reporters = [domain, *reporters]
        if self.writer is not None:
            reporters.insert(0, TrajectoryReporter(self.writer, self.integrator, every=every))
        if live is not None:
            reporters.append(live)
        state = first
        sum_temperature, sum_net_force = 0.0, torch.zeros_like(first.inertia.degrees)
        try:
            if resumed:  # the frame of the checkpoint is in the file already
                domain.report(state)
            else:
                for reporter in reporters:
                    reporter.report(state)
                self._checkpoint(state)
            started = time.perf_counter()
            with _stop_requests() as stop:
                while state.step < self.n_steps and stop.signal is None:
                    self._last_good.append(state)
                    state = self._step(state)
                    sum_temperature += self._healthy_temperature(state)
                    sum_net_force += torch.linalg.vector_norm(state.net_force, dim=1)
                    for reporter in reporters:
                        if state.step % reporter.every == 0:
                            reporter.report(state)
                    if self._checkpoint_is_due(state):
                        self._checkpoint(state)
                wall = time.perf_counter() - started
                self._checkpoint(state)
            if stop.signal == signal.SIGTERM:
                raise SystemExit(128 + signal.SIGTERM)
            if stop.signal is not None:
                raise KeyboardInterrupt
        except SimulationFailed:
            if self.writer is not None:
                self.writer.flush()
            raise
        finally:
            _close_all(reporters)
        n_done = state.step - first.step
        return SimulationResult(
            state=state,
            path=None if self.writer is None else self.writer.path,
            n_steps=n_done,
            wall_s=wall,
            ns_per_day=ns_per_day(n_done / wall, self.integrator.timestep_fs) if n_done else 0.0,
            mean_temperature_K=sum_temperature / n_done if n_done else math.nan,
            mean_net_force_eV_per_A=float(sum_net_force.mean()) / n_done if n_done else math.nan,
            resumed_from=first.step if resumed else None,
            warnings=domain.warnings,
            warning_counts=dict(domain.counts),
        )

    def _healthy_temperature(self, state: State) -> float:
        """Mean temperature (K) over the structures; NaN anywhere in the forces shows in it.

        Raises:
            SimulationFailed: it is not finite, or a structure is too hot.
        """
        kelvin = temperature(state.system, state.inertia)
        hottest = kelvin.max().item()
        if hottest <= self.limit_K:
            return hottest if len(kelvin) == 1 else kelvin.mean().item()
        if not bool(torch.isfinite(state.prediction.forces).all()):
            reason = "the forces are not finite"
        elif not math.isfinite(hottest):
            reason = "the velocities are not finite"
        else:
            reason = f"the temperature is {hottest:.0f} K, above the limit of {self.limit_K:.0f} K"
        raise self._failed(state.step, reason)

    def _step(self, state: State) -> State:
        """One step; a structure that the potential refuses on the way is a run that went wrong.

        Raises:
            SimulationFailed: two atoms fused, or an atom lost the neighbours that the model needs.
        """
        try:
            return self.integrator.step(state, self.potential)
        except UserError as error:
            raise self._failed(state.step + 1, error.what) from error

    def _failed(self, step: int, reason: str) -> SimulationFailed:
        """The failure as a sentence, after the last good frames are written."""
        sentence = f"the run went wrong at step {step}: {reason}."
        if self.writer is not None:
            last_frames = _beside(self.writer.path, ".failed.extxyz")
            _write_frames(last_frames, self._last_good, self.integrator.timestep_fs)
            sentence += (
                f" The trajectory and its checkpoint are kept; the last good frames are in {last_frames}."
            )
        return SimulationFailed(sentence)

    def _checkpoint_is_due(self, state: State) -> bool:
        if self.checkpoint_every is not None:
            return state.step % self.checkpoint_every == 0
        return time.monotonic() - self._last_checkpoint > SECONDS_PER_CHECKPOINT

    def _checkpoint(self, state: State) -> None:
        """The trajectory first: it must hold every frame up to the checkpoint."""
        if self.writer is not None:
            self.writer.flush()
            save_checkpoint(restart_path(self.writer.path), state, self.description, limit_K=self.limit_K)
        self._last_checkpoint = time.monotonic()


@dataclass
class _StopRequest:
    signal: int | None = None


@contextmanager
def _stop_requests() -> Iterator[_StopRequest]:
    """Let the first SIGINT or SIGTERM stop the loop after a whole step; a second one acts at once."""
    request = _StopRequest()
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: signals go elsewhere
        pass
    try:
        yield request
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)


def _close_all(reporters: Sequence[Reporter]) -> None:
    """Close every reporter, then raise the first error if there was one."""
    errors: list[Exception] = []
    for reporter in reporters:
        try:
            reporter.close()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _silent(sentence: str) -> None:
    """Say nothing; the result holds the warnings."""


def _write_frames(path: Path, states: Sequence[State], timestep_fs: float) -> None:
    frames = []
    for state in states:
        (atoms,) = state.system.to_ase()
        energy = state.prediction.energy
        results: dict[str, Any] = {"forces": state.prediction.forces.cpu().numpy()}
        if energy is not None:
            results["energy"] = float(energy[0])
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info = {"step": state.step, "time_fs": state.step * timestep_fs}
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")


def _with_velocities(system: System, integrator: Integrator, run: RunDescription) -> System:
    """Velocities drawn at the asked temperature, the system's own, or drawn at the thermostat's."""
    system = system.to(dtype=torch.float64)
    kelvin: Temperature | None = run.initial_temperature_K
    if kelvin is None and system.velocities is not None:
        return system
    if kelvin is None:
        kelvin = integrator.target_temperature_K
    if kelvin is None:
        raise UserError(
            "the structure has no velocities and there is no thermostat to draw them for",
            where="initial_temperature_K",
            mend="Give an initial temperature, 0 for a start at rest.",
        )
    temperatures = for_each(
        "initial_temperature_K", kelvin.at(0.0) if isinstance(kelvin, Ramp) else kelvin, system
    )
    if not bool((temperatures >= 0).all()) or not bool(torch.isfinite(temperatures).all()):
        raise UserError(
            f"the initial temperature is {kelvin}", where="initial_temperature_K", mend="Use 0 or more."
        )
    inertia = inertia_of(system, remove_com=integrator.remove_com)
    return replace(system, velocities=maxwell_boltzmann(system, temperatures, run.seed, inertia))


def _runaway_temperature(state: State, integrator: Integrator, initial_temperature_K: float | None) -> float:
    target = integrator.target_temperature_K
    start = temperature(state.system, state.inertia).max().item()
    meant = 0.0 if target is None else hottest(target)
    return RUNAWAY_FACTOR * max(meant, initial_temperature_K or 0.0, start, RUNAWAY_FLOOR_K)


def _require_finite_forces(state: State) -> None:
    """Refuse a structure that the potential has no forces for, and say so where atoms coincide."""
    broken = torch.nonzero(~torch.isfinite(state.prediction.forces).all(dim=1))[:, 0]
    if len(broken) == 0:
        return
    pair = shortest_pair(state.system, COINCIDENT_A)
    cause = f"atom {int(broken[0])} is the first of {len(broken)} such atoms"
    mend = "Repair the structure, or check the model on other structures."
    if pair is not None:
        cause = f"atoms {pair.first} and {pair.second} are {pair.distance:.4f} Å apart"
        mend = "Remove one of them or move them apart."
    raise UserError(f"the forces at the start are not finite: {cause}", where="structure", mend=mend)


def _require_same_atoms(old: System, new: System, where: Path) -> None:
    same = {
        "elements": torch.equal(old.atomic_numbers, new.atomic_numbers),
        "masses": old.masses.shape == new.masses.shape
        and torch.allclose(old.masses, new.masses.to(old.masses)),
        "cell": old.cell.shape == new.cell.shape and torch.allclose(old.cell, new.cell.to(old.cell)),
        "periodicity": torch.equal(old.pbc, new.pbc),
    }
    for what, agrees in same.items():
        if not agrees:
            raise UserError(
                f"the run cannot be resumed: the structure's {what} are not those of the checkpoint",
                where=str(where),
                mend="Give the structure it was started from.",
            )


def _check_arguments(
    system: System,
    n_steps: int,
    seed: int,
    path: Path | str | None,
    every: int,
    checkpoint_every: int | None,
    max_temperature_K: float | None,
) -> None:
    for name, value, least, most in (
        ("n_steps", n_steps, 0, math.inf),
        ("seed", seed, 0, LARGEST_SEED),
        ("every", every, 1, math.inf),
        ("checkpoint_every", checkpoint_every, 1, math.inf),
    ):
        if value is not None and not (math.isfinite(value) and least <= value <= most and value % 1 == 0):
            limits = f"from {least} on" if most == math.inf else f"from {least} to {most}"
            raise UserError(f"{name} is {value}", where=name, mend=f"It must be a whole number {limits}.")
    if max_temperature_K is not None:
        require_positive("max_temperature_K", max_temperature_K)
    if path is not None and system.n_systems != 1:
        raise UserError(
            f"a trajectory file holds one structure, not {system.n_systems}",
            where="path",
            mend="Run them one by one.",
        )
    if path is not None and str(path).endswith((".restart", ".failed.extxyz")):
        raise UserError(
            "this ending belongs to a file that lies beside a trajectory",
            where=str(path),
            mend="Name the trajectory with the ending .h5.",
        )
    if path is not None and not Path(path).parent.is_dir():
        raise UserError("there is no such folder", where=str(Path(path).parent), mend="Make it first.")
    system.check()
