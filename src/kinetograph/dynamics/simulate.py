"""``simulate``: molecular dynamics, from a structure or a batch to files and a result."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinetograph.dynamics.checkpoint import (
    RunDescription,
    describe_integrator,
    describe_potential,
    load_checkpoint,
    require_same_run,
)
from kinetograph.dynamics.guards import DEFAULT_GUARDS, Guard, drift_K
from kinetograph.dynamics.loop import Failure, Loop, Outputs, SimulationFailed, beside, close_all, mean
from kinetograph.dynamics.replicas import integrator_of
from kinetograph.dynamics.reporters import (
    DomainReporter,
    Reporter,
    StatusReporter,
    TrajectoryReporter,
    ns_per_day,
)
from kinetograph.dynamics.settings import Ramp, Temperature, for_each
from kinetograph.dynamics.state import DEFAULT_SKIN_A, Integrator, State
from kinetograph.dynamics.velocities import inertia_of, maxwell_boltzmann
from kinetograph.errors import UserError
from kinetograph.pairs import shortest_pair
from kinetograph.potential import Potential
from kinetograph.system import System, subset
from kinetograph.trajectory import TrajectoryWriter

__all__ = ["SimulationFailed", "SimulationResult", "restart_path", "simulate", "trajectory_paths"]

COINCIDENT_A = 0.5
"""Å: atoms nearer than this are the likely cause of forces that are not finite; no bond is so short."""
LARGEST_SEED = 2**64 - 1
"""The key of the random numbers has so many bits."""


@dataclass(frozen=True)
class SimulationResult:
    """A run that came to its end, for all of its structures or for some."""

    state: State
    """The structures that are left."""
    path: Path | None
    """The trajectory as it was asked for; :func:`trajectory_paths` names those of a batch."""
    n_steps: int
    """Steps made in this call, without those before a restart."""
    wall_s: float
    ns_per_day: float
    """Of all structures together."""
    mean_temperature_K: float
    """Over the steps made in this call and all structures."""
    temperatures_K: list[float]
    """The same for each structure."""
    mean_net_force_eV_per_A: float
    """Mean |ΣF| of the predicted forces, taken out where the centre of mass is held."""
    drift_K: float | None
    """Largest drift of the conserved quantity over all structures since the start, as heat spread over all
    degrees of freedom; ``None`` where nothing is conserved."""
    failures: list[Failure] = field(default_factory=list)
    """Structures that a guard stopped."""
    resumed_from: int | None = None
    """The step at which this call took up the run."""
    warnings: list[str] = field(default_factory=list)
    """The first of each kind of warning."""
    warning_counts: dict[str, int] = field(default_factory=dict)
    """In how many of the checked steps each was seen."""


def restart_path(path: Path | str) -> Path:
    """Where the checkpoint of a trajectory lies: ``x.restart`` for ``x.h5``; other names are kept whole."""
    return beside(Path(path), ".restart")


def trajectory_paths(path: Path | str, n_systems: int) -> list[Path]:
    """Where the trajectory of each structure lies: ``x.h5`` for one, ``x-00.h5`` and so on for a batch."""
    path = Path(path)
    if n_systems == 1:
        return [path]
    width = len(str(n_systems - 1))
    return [path.with_name(f"{path.stem}-{index:0{width}d}{path.suffix}") for index in range(n_systems)]


def simulate(
    potential: Potential,
    system: System,
    integrator: Integrator,
    *,
    n_steps: int,
    seed: int | Sequence[int] = 0,
    path: Path | str | None = None,
    every: int = 100,
    checkpoint_every: int | None = None,
    skin_A: float = DEFAULT_SKIN_A,
    initial_temperature_K: float | Sequence[float] | None = None,
    guards: Sequence[Guard] = DEFAULT_GUARDS,
    overwrite: bool = False,
    resume: bool = False,
    reporters: Sequence[Reporter] = (),
    status: bool = True,
    metadata: dict[str, Any] | None = None,
) -> SimulationResult:
    """Run molecular dynamics of one structure, or of a batch of replicas at once.

    Two runs with the same arguments are the same run, and so are a run and one that was killed and
    resumed: bit for bit on the CPU. A structure of a batch that a guard stops leaves it, and the others go
    on as they would have with it.

    Args:
        n_steps: step at which the run ends, steps before a restart included.
        seed: of the random numbers; for a batch one for all (each structure has its own numbers even so)
            or one for each.
        path: trajectory (``.h5``), one for each structure (see :func:`trajectory_paths`); the checkpoint
            lies beside it (see :func:`restart_path`).
        every: steps between frames, and between checks against the training domain.
        checkpoint_every: steps between checkpoints; by default one every half minute of wall time.
        skin_A: how much further than the cutoff the neighbour list reaches.
        initial_temperature_K: draw velocities at this temperature, 0 for a start at rest. By default
            the system's own velocities are kept; where it has none they are drawn at the temperature
            of the thermostat.
        guards: what stops a structure that goes wrong.
        resume: continue from the checkpoint; what makes the run must be as it was.
        reporters: further reporters, closed at the end.
        status: live status and warnings on stderr.
        metadata: kept in the trajectory, beside what describes the run.

    Raises:
        UserError: an input cannot be used, the forces on it are not finite, a guard refuses it, an output
            exists, or a resumed run is not the same. Nothing has been written then.
        SimulationFailed: guards stopped every structure; the files are kept.
        KeyboardInterrupt: the run was interrupted; it stopped after a whole step and can be resumed.
    """
    seed = seed if isinstance(seed, int | float) else np.asarray(seed).tolist()
    _check_arguments(system, n_steps, seed, path, every, checkpoint_every)
    if potential.domain is not None:
        potential.domain.require_elements(system)
    run = RunDescription(
        integrator=describe_integrator(integrator),
        potential=describe_potential(potential),
        seed=int(seed) if isinstance(seed, int) else [int(value) for value in seed],
        skin_A=skin_A,
        every=every,
        initial_temperature_K=_plain(initial_temperature_K),
    )
    was_training = potential.training
    potential.eval()
    try:
        with torch.no_grad():
            state, outputs, failures = _start(
                potential,
                system,
                integrator,
                run,
                guards,
                None if path is None else Path(path),
                overwrite,
                resume,
                metadata,
            )
            loop = Loop(
                potential,
                integrator,
                run,
                guards,
                outputs,
                n_steps,
                checkpoint_every,
                system.n_systems,
                failures,
            )
            return _report(loop, state, integrator, list(reporters), status, resumed=resume, path=path)
    finally:
        potential.train(was_training)


def _report(
    loop: Loop,
    first: State,
    integrator: Integrator,
    reporters: list[Reporter],
    status: bool,
    *,
    resumed: bool,
    path: Path | str | None,
) -> SimulationResult:
    """Run with everything that looks on, and sum up."""
    every = loop.description.every
    live = StatusReporter(integrator, loop.n_steps) if status else None
    domain = DomainReporter(loop.potential, live.announce if live else _silent, every=every)
    everyone: list[Reporter] = [domain, *reporters]
    if loop.outputs is not None:
        everyone.insert(0, TrajectoryReporter(loop.outputs.writers, loop, every=every))
    if live is not None:
        everyone.append(live)
        loop.announce = live.announce
    try:
        if resumed:  # the frame of the checkpoint is in the file already
            domain.report(first)
        state, averages = loop.run(first, everyone, resumed=resumed)
    finally:
        close_all(everyone)
    drift = drift_K(state, loop.integrator)
    n_done = state.step - first.step
    total_steps = float(averages.n_steps.sum())
    return SimulationResult(
        state=state,
        path=None if path is None else Path(path),
        n_steps=n_done,
        wall_s=loop.wall_s,
        ns_per_day=ns_per_day(total_steps / loop.wall_s, integrator.timestep_fs) if n_done else 0.0,
        mean_temperature_K=mean(averages.temperature_K, averages),
        temperatures_K=(averages.temperature_K / averages.n_steps).tolist(),
        mean_net_force_eV_per_A=mean(averages.net_force_eV_per_A, averages),
        drift_K=None if drift is None else float(drift[drift.abs().argmax()]),
        failures=loop.failures,
        resumed_from=first.step if resumed else None,
        warnings=domain.warnings,
        warning_counts=dict(domain.counts),
    )


def _start(
    potential: Potential,
    system: System,
    integrator: Integrator,
    run: RunDescription,
    guards: Sequence[Guard],
    path: Path | None,
    overwrite: bool,
    resume: bool,
    metadata: dict[str, Any] | None,
) -> tuple[State, Outputs | None, list[Failure]]:
    """The first state, from the structures or the checkpoint; the open trajectories; who has failed."""
    if resume:
        if path is None:
            raise UserError("a run without files cannot be resumed", where="resume", mend="Give its path.")
        return _resumed(potential, system, integrator, run, guards, path)
    paths = [] if path is None else trajectory_paths(path, system.n_systems)
    if path is not None and not overwrite:
        for output in (*paths, restart_path(path)):
            if output.exists():
                raise UserError(
                    "the output exists already",
                    where=str(output),
                    mend="Choose another name, resume the run, or overwrite it.",
                )
    state = integrator.init(_with_velocities(system, integrator, run), potential, run.seed, skin_A=run.skin_A)
    _require_finite_forces(state)
    conserved = integrator.conserved_quantity(state)
    if conserved is not None:
        state = state.keeping(start_conserved_eV=conserved)
    for guard in guards:
        state = guard.prepare(state, integrator)
    for guard in guards:
        for index, reason in guard.check(state, integrator).items():
            raise UserError(
                f"the start is refused: {reason}",
                where="structure" if system.n_systems == 1 else f"structure {index}",
                mend="Repair or relax the structure, or leave this guard out.",
            )
    if path is None:
        return state, None, []
    _remove_earlier(path)
    writers = {}
    for index, (atoms, own_path) in enumerate(zip(state.system.to_ase(), paths, strict=True)):
        bonds = atoms.info.get("bonds")
        writers[index] = TrajectoryWriter(
            own_path,
            atomic_numbers=atoms.numbers,
            masses=atoms.get_masses(),
            pbc=atoms.pbc,
            bonds=bonds,
            metadata={
                **(metadata or {}),
                "run": asdict(run),
                "timestep_fs": integrator.timestep_fs,
                "replica": index,
            },
            overwrite=overwrite,
        )
    return state, Outputs(restart_path(path), writers), []


def _remove_earlier(path: Path) -> None:
    """Take out an earlier run of this name, of however many replicas, before it is replaced."""
    replicas = re.compile(re.escape(path.stem) + r"-\d+" + re.escape(path.suffix))
    earlier = [other for other in path.parent.iterdir() if replicas.fullmatch(other.name)]
    for trajectory in (path, *earlier):
        beside(trajectory, ".failed.extxyz").unlink(missing_ok=True)
    for trajectory in earlier:
        trajectory.unlink()
    restart_path(path).unlink(missing_ok=True)


def _resumed(
    potential: Potential,
    system: System,
    integrator: Integrator,
    run: RunDescription,
    guards: Sequence[Guard],
    path: Path,
) -> tuple[State, Outputs, list[Failure]]:
    where = restart_path(path)
    saved = load_checkpoint(where, potential.request, system.device)
    require_same_run(saved.run, run, where)
    replicas = [stream.replica for stream in saved.state.streams]
    n_before = len(saved.failures) + len(replicas)
    if n_before != system.n_systems:
        raise UserError(
            f"the run cannot be resumed: it began with {n_before} structures, not {system.n_systems}",
            where=str(where),
            mend="Give the structures it was started from.",
        )
    chosen = torch.tensor(replicas, device=system.device)
    _require_same_atoms(
        saved.state.system, subset(system, chosen), where, cell_may_move="pressure_bar" in run.integrator
    )
    paths = trajectory_paths(path, system.n_systems)
    writers = {replica: TrajectoryWriter.resume(paths[replica], saved.state.step) for replica in replicas}
    failures = [
        Failure(replica, step, reason, beside(paths[replica], ".failed.extxyz"))
        for replica, step, reason in saved.failures
    ]
    state = saved.state
    for guard in guards:  # those that the run was begun without
        state = guard.prepare(state, integrator_of(integrator, replicas))
    return state, Outputs(where, writers), failures


def _plain(value: float | Sequence[float] | None) -> float | list[float] | None:
    return value if value is None or isinstance(value, int | float) else [float(v) for v in value]


def _silent(sentence: str) -> None:
    """Say nothing; the result holds the warnings."""


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


def _require_same_atoms(old: System, new: System, where: Path, *, cell_may_move: bool) -> None:
    same = {
        "elements": torch.equal(old.atomic_numbers, new.atomic_numbers),
        "masses": old.masses.shape == new.masses.shape
        and torch.allclose(old.masses, new.masses.to(old.masses)),
        "cell": cell_may_move or torch.allclose(old.cell, new.cell.to(old.cell)),
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
    seed: int | Sequence[int],
    path: Path | str | None,
    every: int,
    checkpoint_every: int | None,
) -> None:
    seeds = [seed] if isinstance(seed, int | float) else list(seed)
    for name, value, least, most in (
        ("n_steps", n_steps, 0, math.inf),
        *(("seed", each, 0, LARGEST_SEED) for each in seeds),
        ("every", every, 1, math.inf),
        ("checkpoint_every", checkpoint_every, 1, math.inf),
    ):
        if value is not None and not (math.isfinite(value) and least <= value <= most and value % 1 == 0):
            limits = f"from {least} on" if most == math.inf else f"from {least} to {most}"
            raise UserError(f"{name} is {value}", where=name, mend=f"It must be a whole number {limits}.")
    if path is not None and str(path).endswith((".restart", ".failed.extxyz")):
        raise UserError(
            "this ending belongs to a file that lies beside a trajectory",
            where=str(path),
            mend="Name the trajectory with the ending .h5.",
        )
    if path is not None and not Path(path).parent.is_dir():
        raise UserError("there is no such folder", where=str(Path(path).parent), mend="Make it first.")
    system.check()
