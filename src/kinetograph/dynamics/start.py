"""How a run begins, and how it goes on from its checkpoints, batch by batch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from kinetograph.dynamics.batches import by_atoms, by_memory
from kinetograph.dynamics.checkpoint import RunDescription, read_header, read_state, require_same_run
from kinetograph.dynamics.files import (
    Outputs,
    failed_path,
    refuse_existing,
    remove_earlier,
    restart_path,
    trajectory_paths,
)
from kinetograph.dynamics.guards import Guard
from kinetograph.dynamics.loop import Failure
from kinetograph.dynamics.noise import streams_of
from kinetograph.dynamics.replicas import integrator_of
from kinetograph.dynamics.settings import Ramp, Temperature, for_each
from kinetograph.dynamics.state import Integrator, State
from kinetograph.dynamics.velocities import inertia_of, maxwell_boltzmann
from kinetograph.errors import UserError
from kinetograph.pairs import shortest_pair
from kinetograph.potential import Potential
from kinetograph.system import System, subset
from kinetograph.trajectory import TrajectoryWriter

COINCIDENT_A = 0.5
"""Å: atoms nearer than this are the likely cause of forces that are not finite; no bond is so short."""


@dataclass(frozen=True)
class Batch:
    """Replicas that run at once."""

    number: int
    """From 1."""
    replicas: range
    """Their places in the whole set."""
    step: int | None = None
    """That of its checkpoint; ``None`` where it has none, and begins."""


@dataclass(frozen=True)
class Start:
    """What a batch runs from."""

    state: State
    outputs: Outputs | None
    failures: list[Failure]
    """Of structures that have left it before."""


@dataclass(frozen=True)
class Run:
    """What ``simulate`` was asked for, of all structures."""

    potential: Potential
    system: System
    integrator: Integrator
    description: RunDescription
    guards: Sequence[Guard]
    path: Path | None
    overwrite: bool
    resume: bool
    n_steps: int
    checkpoint_every: int | None
    batch_atoms: int | None
    metadata: dict[str, Any]

    def batches(self) -> list[Batch]:
        """Those of the checkpoints, or new ones whose structures have all been looked at.

        Raises:
            UserError: the run is refused. No file has been touched.
        """
        if self.resume:
            return self._begun_batches()
        if self.path is not None and not self.overwrite:
            refuse_existing(self.path, self.system.n_systems)
        if self.batch_atoms is None:
            groups = by_memory(self.system, self.potential, self.description.skin_A)
        else:
            groups = by_atoms(self.system, self.batch_atoms)
        batches = [Batch(number, replicas) for number, replicas in enumerate(groups, 1)]
        for batch in batches[1:]:  # the first one is looked at when it begins
            self._first_state(batch)
        return batches

    def start(self, batch: Batch, sizes: Sequence[int]) -> Start:
        """Begin a batch, or go on with it.

        Args:
            sizes: how many replicas each batch has.

        Raises:
            UserError: it is refused.
        """
        return self._begin(batch, sizes) if batch.step is None else self._go_on(batch, sizes)

    def atom_steps(self, batches: Sequence[Batch]) -> int:
        """Steps that these batches still make, times atoms."""
        atoms = self.system.atoms_per_system.tolist()
        return sum(
            max(0, self.n_steps - (batch.step or 0)) * sum(atoms[index] for index in batch.replicas)
            for batch in batches
        )

    @cached_property
    def _moving(self) -> System:
        """All structures with the velocities that they begin with."""
        return _with_velocities(self.system, self.integrator, self.description)

    def _first_state(self, batch: Batch) -> State:
        """At step 0, accepted by the guards.

        Raises:
            UserError: the forces are not finite, or a guard refuses it.
        """
        description, system = self.description, self._moving
        streams = streams_of(description.seed, system.n_systems)[batch.replicas.start : batch.replicas.stop]
        integrator = integrator_of(self.integrator, batch.replicas)
        with _named(batch, system.n_systems):
            state = integrator.init(
                subset(system, batch.replicas),
                self.potential,
                [stream.seed for stream in streams],
                skin_A=description.skin_A,
            )
            _require_finite_forces(state)
        state = replace(state, streams=streams)
        conserved = integrator.conserved_quantity(state)
        if conserved is not None:
            state = state.keeping(start_conserved_eV=conserved)
        for guard in self.guards:
            state = guard.prepare(state, integrator)
        for guard in self.guards:
            for index, reason in guard.check(state, integrator).items():
                raise UserError(
                    f"the start is refused: {reason}",
                    where="structure" if system.n_systems == 1 else f"structure {batch.replicas[index]}",
                    mend="Repair or relax the structure, or leave this guard out.",
                )
        return state

    def _begin(self, batch: Batch, sizes: Sequence[int]) -> Start:
        state = self._first_state(batch)
        if self.path is None:
            return Start(state, None, [])
        if batch.number == 1:
            remove_earlier(self.path)
        paths = trajectory_paths(self.path, self.system.n_systems)
        writers = {}
        for replica, atoms in zip(batch.replicas, state.system.to_ase(), strict=True):
            writers[replica] = TrajectoryWriter(
                paths[replica],
                atomic_numbers=atoms.numbers,
                masses=atoms.get_masses(),
                pbc=atoms.pbc,
                bonds=atoms.info.get("bonds"),
                metadata={
                    **self.metadata,
                    "run": asdict(self.description),
                    "timestep_fs": self.integrator.timestep_fs,
                    "replica": replica,
                },
                overwrite=self.overwrite or self.resume,  # what a killed run had begun
            )
        return Start(state, Outputs(restart_path(self.path, batch.number), writers, sizes), [])

    def _begun_batches(self) -> list[Batch]:
        """What the checkpoints say, compared with what was asked for."""
        if self.path is None:
            raise UserError("a run without files cannot be resumed", where="resume", mend="Give its path.")
        where = restart_path(self.path)
        sizes = read_header(where).batches
        if sum(sizes) != self.system.n_systems:
            raise UserError(
                f"the run cannot be resumed: it began with {sum(sizes)} structures, "
                f"not {self.system.n_systems}",
                where=str(where),
                mend="Give the structures it was started from.",
            )
        ends = list(accumulate(sizes))
        groups = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        if self.batch_atoms is not None and by_atoms(self.system, self.batch_atoms) != groups:
            raise UserError(
                f"the run cannot be resumed: with at most {self.batch_atoms} atoms at once "
                "its batches are not those it was begun with",
                where=str(where),
                mend="Leave the limit out: a resumed run keeps its batches.",
            )
        batches = []
        for number, replicas in enumerate(groups, 1):
            where = restart_path(self.path, number)
            step = None
            if where.exists():
                header = read_header(where)
                require_same_run(header.run, self.description, where)
                step = header.step
            batches.append(Batch(number, replicas, step))
        furthest = max(batch.step or 0 for batch in batches)
        if self.n_steps < furthest and any((batch.step or 0) < furthest for batch in batches):
            raise UserError(
                f"a batch of replicas is at step {furthest} already: the others cannot end at {self.n_steps}",
                where="n_steps",
                mend=f"Let the run end at step {furthest} or later.",
            )
        return batches

    def _go_on(self, batch: Batch, sizes: Sequence[int]) -> Start:
        assert self.path is not None
        where = restart_path(self.path, batch.number)
        header = read_header(where)
        state = read_state(where, header, self.potential.request, self.system.device)
        replicas = [stream.replica for stream in header.streams]
        _require_same_atoms(
            state.system,
            subset(self.system, replicas),
            where,
            cell_may_move="pressure_bar" in self.description.integrator,
        )
        for guard in self.guards:  # those that the run was begun without
            state = guard.prepare(state, integrator_of(self.integrator, replicas))
        paths = trajectory_paths(self.path, self.system.n_systems)
        writers = {replica: TrajectoryWriter.resume(paths[replica], state.step) for replica in replicas}
        failures = [
            Failure(replica, step, reason, failed_path(paths[replica]))
            for replica, step, reason in header.failures
        ]
        return Start(state, Outputs(where, writers, sizes), failures)


@contextmanager
def _named(batch: Batch, n_systems: int) -> Iterator[None]:
    """Let errors that count structures within a batch count those of the whole set."""
    first, n = batch.replicas[0], len(batch.replicas)
    try:
        yield
    except UserError as error:
        if n == n_systems:
            raise
        where = re.sub(
            r"\bstructure (\d+)", lambda number: f"structure {first + int(number[1])}", error.where or ""
        )
        if where in ("structure", "the structure"):
            where = f"structure {first}"
        elif where == error.where:
            where = (
                f"{where}, structure {first}" if n == 1 else f"{where}, structures {first} to {first + n - 1}"
            )
        raise UserError(error.what, where=where, mend=error.mend) from error


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
    finite = torch.isfinite(state.prediction.forces).all(dim=1)
    if bool(finite.all()):
        return
    system = state.system
    index = int(system.system_index[int((~finite).nonzero()[0])])
    own = system.system_index == index
    broken = torch.nonzero(~finite[own])[:, 0]
    pair = shortest_pair(subset(system, [index]), COINCIDENT_A)
    cause = f"atom {int(broken[0])} is the first of {len(broken)} such atoms"
    mend = "Repair the structure, or check the model on other structures."
    if pair is not None:
        cause = f"atoms {pair.first} and {pair.second} are {pair.distance:.4f} Å apart"
        mend = "Remove one of them or move them apart."
    where = "structure" if system.n_systems == 1 else f"structure {index}"
    raise UserError(f"the forces at the start are not finite: {cause}", where=where, mend=mend)


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
