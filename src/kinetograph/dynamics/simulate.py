"""``simulate``: molecular dynamics, from a structure or a batch to files and a result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinetograph.dynamics.checkpoint import RunDescription, describe_integrator, describe_potential
from kinetograph.dynamics.files import restart_path, trajectory_paths
from kinetograph.dynamics.guards import DEFAULT_GUARDS, Guard, drift_K
from kinetograph.dynamics.loop import Averages, Failure, Loop, SimulationFailed, close_all, mean
from kinetograph.dynamics.replicas import integrator_of, joined, on_host, require_one_for_each
from kinetograph.dynamics.reporters import (
    DomainReporter,
    Reporter,
    StatusReporter,
    TrajectoryReporter,
    ns_per_day,
)
from kinetograph.dynamics.start import Batch, Run
from kinetograph.dynamics.state import DEFAULT_SKIN_A, Integrator, State
from kinetograph.errors import UserError
from kinetograph.potential import Potential
from kinetograph.system import System

__all__ = ["SimulationFailed", "SimulationResult", "restart_path", "simulate", "trajectory_paths"]

LARGEST_SEED = 2**64 - 1
"""The key of the random numbers has so many bits."""


@dataclass(frozen=True)
class SimulationResult:
    """A run that came to its end, for all of its structures or for some."""

    state: State
    """The structures that are left; in the memory of the host where they ran in several batches."""
    path: Path | None
    """The trajectory as it was asked for; :func:`trajectory_paths` names those of several structures."""
    n_steps: int
    """Steps made in this call, without those before a restart; by the batch that made most."""
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
    """The step at which this call took up the run; of several batches the least."""
    warnings: list[str] = field(default_factory=list)
    """The first of each kind of warning."""
    warning_counts: dict[str, int] = field(default_factory=dict)
    """In how many of the checked steps each was seen, those of each batch counted."""
    batches: list[int] = field(default_factory=list)
    """How many structures ran at once, batch after batch."""


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
    batch_atoms: int | None = None,
    reporters: Sequence[Reporter] = (),
    status: bool = True,
    metadata: dict[str, Any] | None = None,
) -> SimulationResult:
    """Run molecular dynamics of one structure, or of many replicas: as many at once as memory holds.

    Two runs with the same arguments are the same run, and so are a run and one that was killed and
    resumed: bit for bit on the CPU, whatever else is in a batch. A structure that a guard stops leaves its
    batch, and the others go on as they would have with it.

    Args:
        n_steps: step at which the run ends, steps before a restart included.
        seed: of the random numbers; for several structures one for all (each has its own numbers even so) or
            one for each.
        path: trajectory (``.h5``), one for each structure (see :func:`trajectory_paths`); the checkpoint
            lies beside it (see :func:`restart_path`).
        every: steps between frames, and between checks against the training domain.
        checkpoint_every: steps between checkpoints; by default one every half minute of wall time.
        skin_A: how much further than the cutoff the neighbour list reaches.
        initial_temperature_K: draw velocities at this temperature, 0 for a start at rest. By default
            the system's own velocities are kept; where it has none they are drawn at the temperature
            of the thermostat.
        guards: what stops a structure that goes wrong.
        resume: continue from the checkpoint; what makes the run must be as it was. A resumed run keeps
            its batches.
        batch_atoms: run structures at once as long as they have no more atoms together, then the next
            ones; a larger one runs alone. By default as many as fit into the free memory, by trial.
        reporters: further reporters, closed at the end. They see one batch after the other, each from
            its first step to its last.
        status: live status and warnings on stderr.
        metadata: kept in the trajectory, beside what describes the run.

    Raises:
        UserError: an input cannot be used, the forces on it are not finite, a guard refuses it, an output
            exists, or a resumed run is not the same. Nothing has been written then.
        SimulationFailed: guards stopped every structure; the files are kept.
        KeyboardInterrupt: the run was interrupted; it stopped after a whole step and can be resumed.
    """
    seed = seed if isinstance(seed, int | float) else np.asarray(seed).tolist()
    _check_arguments(system, n_steps, seed, path, every, checkpoint_every, batch_atoms)
    require_one_for_each(integrator, system)
    if potential.domain is not None:
        potential.domain.require_elements(system)
    run = Run(
        potential=potential,
        system=system,
        integrator=integrator,
        description=RunDescription(
            integrator=describe_integrator(integrator),
            potential=describe_potential(potential),
            seed=int(seed) if isinstance(seed, int) else [int(value) for value in seed],
            skin_A=skin_A,
            every=every,
            initial_temperature_K=_plain(initial_temperature_K),
        ),
        guards=guards,
        path=None if path is None else Path(path),
        overwrite=overwrite,
        resume=resume,
        n_steps=n_steps,
        checkpoint_every=checkpoint_every,
        batch_atoms=batch_atoms,
        metadata=metadata or {},
    )
    was_training = potential.training
    potential.eval()
    try:
        with torch.no_grad():
            return _run(run, reporters, status=status)
    finally:
        potential.train(was_training)


@dataclass(frozen=True)
class _Onlookers:
    """What looks on from the first batch to the last."""

    domain: DomainReporter
    live: StatusReporter | None
    others: Sequence[Reporter]

    @property
    def all(self) -> list[Reporter]:
        return [self.domain, *self.others, *([] if self.live is None else [self.live])]


@dataclass(frozen=True)
class _Outcome:
    """Of a batch."""

    state: State | None
    """What is left of it; ``None`` where guards stopped every structure."""
    failures: list[Failure]
    n_steps: int
    wall_s: float


def _run(run: Run, reporters: Sequence[Reporter], *, status: bool) -> SimulationResult:
    """Batch after batch with everything that looks on, and sum up."""
    batches = run.batches()
    averages = Averages(run.system.n_systems)
    live = StatusReporter(run.integrator, run.n_steps) if status else None
    domain = DomainReporter(run.potential, live.announce if live else _silent, every=run.description.every)
    onlookers = _Onlookers(domain, live, reporters)
    try:
        outcomes = [_run_batch(run, batch, batches, averages, onlookers) for batch in batches]
    finally:
        close_all(onlookers.all)
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    states = [outcome.state for outcome in outcomes if outcome.state is not None]
    if not states:
        raise SimulationFailed(" ".join(failure.sentence(run.system.n_systems) for failure in failures))
    state = joined(states)
    drift = drift_K(state, integrator_of(run.integrator, [stream.replica for stream in state.streams]))
    n_steps = max(outcome.n_steps for outcome in outcomes)
    wall_s = sum(outcome.wall_s for outcome in outcomes)
    total_steps = float(averages.n_steps.sum())
    return SimulationResult(
        state=state,
        path=run.path,
        n_steps=n_steps,
        wall_s=wall_s,
        ns_per_day=ns_per_day(total_steps / wall_s, run.integrator.timestep_fs) if n_steps else 0.0,
        mean_temperature_K=mean(averages.temperature_K, averages),
        temperatures_K=(averages.temperature_K / averages.n_steps).tolist(),
        mean_net_force_eV_per_A=mean(averages.net_force_eV_per_A, averages),
        drift_K=None if drift is None else float(drift[drift.abs().argmax()]),
        failures=failures,
        resumed_from=min(batch.step or 0 for batch in batches) if run.resume else None,
        warnings=domain.warnings,
        warning_counts=dict(domain.counts),
        batches=[len(batch.replicas) for batch in batches],
    )


def _run_batch(
    run: Run, batch: Batch, batches: Sequence[Batch], averages: Averages, onlookers: _Onlookers
) -> _Outcome:
    """From its start or its checkpoint to the last step."""
    start = run.start(batch, [len(other.replicas) for other in batches])
    loop = Loop(
        run.potential,
        run.integrator,
        run.description,
        run.guards,
        start.outputs,
        run.n_steps,
        run.checkpoint_every,
        run.system.n_systems,
        start.failures,
    )
    if onlookers.live is not None:
        loop.announce = onlookers.live.announce
        onlookers.live.begin_batch(
            n_replicas=len(batch.replicas),
            name=f"batch {batch.number} of {len(batches)}" if len(batches) > 1 else "",
            later_atom_steps=run.atom_steps(batches[batch.number :]),
        )
    files: list[Reporter] = []
    if start.outputs is not None:
        files.append(TrajectoryReporter(start.outputs.writers, loop, every=run.description.every))
    resumed = batch.step is not None
    state = None
    try:
        if resumed:  # the frame of the checkpoint is in the file already
            onlookers.domain.report(start.state)
        state = loop.run(start.state, [*files, *onlookers.all], averages, resumed=resumed)
    except SimulationFailed:  # the other batches have no part in it
        pass
    finally:
        close_all(files)
    if state is not None and len(batches) > 1:
        state = on_host(state)
    n_steps = int(averages.n_steps[batch.replicas.start : batch.replicas.stop].max())
    return _Outcome(state, loop.failures, n_steps, loop.wall_s)


def _plain(value: float | Sequence[float] | None) -> float | list[float] | None:
    return value if value is None or isinstance(value, int | float) else [float(v) for v in value]


def _silent(sentence: str) -> None:
    """Say nothing; the result holds the warnings."""


def _check_arguments(
    system: System,
    n_steps: int,
    seed: int | Sequence[int],
    path: Path | str | None,
    every: int,
    checkpoint_every: int | None,
    batch_atoms: int | None,
) -> None:
    seeds = [seed] if isinstance(seed, int | float) else list(seed)
    for name, value, least, most in (
        ("n_steps", n_steps, 0, math.inf),
        *(("seed", each, 0, LARGEST_SEED) for each in seeds),
        ("every", every, 1, math.inf),
        ("checkpoint_every", checkpoint_every, 1, math.inf),
        ("batch_atoms", batch_atoms, 1, math.inf),
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
