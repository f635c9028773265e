"""``benchmark peers``: other programs at the same structures, in the same run, one turn each after the other.

Three comparisons:

* force calls on a box of water with a list that is given, energies and conservative forces except where
  ours are direct, weights drawn by chance. SchNet and PaiNN are the same model in SchNetPack and here;
  NequIP and MACE, other models, are set beside our smaller PaiNN;
* whole steps of molecular dynamics of water: our PaiNN with the run loop and its guards, atoms flying as
  :func:`~kinetograph.benchmark.step.whole_step` has it, beside what a classical force field costs, rigid
  TIP3P with its own steps of 2 fs, equilibrated for a moment;
* whole steps of Lennard-Jones argon, the same potential for everybody.

The ``speedup`` of a row of another program is its time over ours: how many times as fast as that program
our fast form is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kinetograph import units
from kinetograph.benchmark import environments
from kinetograph.benchmark.cases import CASES, Case
from kinetograph.benchmark.measure import Clock, Row, relative_error, timed_in_turns
from kinetograph.benchmark.peer_process import PeerFailed, PeerProcess
from kinetograph.benchmark.step import KELVIN, SKIN_A, STILL, TIMESTEP_FS, steps_of_run
from kinetograph.benchmark.structures import argon, water
from kinetograph.dynamics.reporters import ns_per_day
from kinetograph.dynamics.simulate import simulate
from kinetograph.dynamics.state import DEFAULT_SKIN_A, State
from kinetograph.dynamics.verlet import VelocityVerlet
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import ARGON_EPSILON_K, ARGON_SIGMA_A, LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential
from kinetograph.reference import openmm_systems as reference
from kinetograph.system import System

Json = dict[str, Any]
Take = Callable[[], float]
Say = Callable[[str], None]

OURS = "fast"
TURN_S = 0.1
MOST_CALLS = 50
WARM_UP = 3
"""Calls before the first that counts: TorchScript, which MACE is written for, compiles in the first few."""
STEPS_OF_ARGON = 50
"""Steps in a turn."""

RIGID_TIMESTEP_FS = 2.0
ARGON_TIMESTEP_FS = 2.0
ARGON_KELVIN = 100.0
ARGON_EPSILON_EV = ARGON_EPSILON_K * units.BOLTZMANN_EV_PER_K
PPPM_TOLERANCE = 1e-5
"""Of LAMMPS: forces on water as exact as OpenMM's with ``WATER_PME_TOLERANCE``, 0.01 % root mean square."""

FORCE_CALLS: dict[str, Case] = {
    "painn": CASES["painn"],
    "painn conservative": CASES["painn conservative"],
    "painn 128 conservative": Case("128 × 3, conservative", "painn-energy", 5.0),
    "schnet": CASES["schnet"],
}
PEER_CUTOFF_A = 5.0


@dataclass(frozen=True)
class Asked:
    """Another program, what it computes, and which of ours it is set beside."""

    peer: str
    case: str
    task: Json = field(default_factory=dict)
    suffix: str = ""
    """Of its name, where one program is asked several things."""


FORCE_PEERS = (
    Asked("nequip", "painn conservative"),
    Asked("mace", "painn conservative", {"model": "32x0e"}, " 32x0e"),
    Asked("mace", "painn conservative", {"model": "128x0e"}, " 128x0e"),
    Asked("schnetpack", "painn 128 conservative", {"model": "painn", "n_radial": 20}),
    Asked("schnetpack", "schnet", {"model": "schnet", "n_radial": 50}),
)
WATER_PEERS = (Asked("openmm", "MD step of water"), Asked("lammps", "MD step of water"))
ARGON_PEERS = tuple(Asked(peer, "MD step of argon") for peer in ("openmm", "lammps", "torch-sim"))


@dataclass(frozen=True)
class _Turn:
    """One of those that take turns."""

    row: Row
    """Without its time."""
    take: Take
    """Seconds of a call, or of a step."""
    timestep_fs: float | None = None


@dataclass(frozen=True)
class _Comparison:
    ours: Callable[[], list[_Turn]]
    asked: Sequence[Asked]
    task: Json
    """What the programs are told, but for what one of them alone is."""
    n_edges: int
    """Within their cutoff, for a program that does not say."""
    n_calls: int | None = None
    """In a turn; ``None``: as many as take a while."""


def peer_rows(
    folder: Path,
    names: Sequence[str],
    n_atoms: int,
    step_sizes: Sequence[int],
    clock: Clock,
    seconds: float,
    say: Say,
) -> Iterator[Row]:
    """All comparisons in which one of the peers takes part.

    Args:
        folder: with an environment for each peer.
        names: of the peers.
        n_atoms: of the force calls and of argon.
        step_sizes: atoms of the boxes of the steps of water.
        seconds: for each comparison and size; at least three rounds are made whatever they take.
        say: told, a line at a time, which peers are left out.

    Raises:
        UserError: there is an environment for none of the peers.
    """
    there = [name for name in names if environments.interpreter(folder, name).exists()]
    for name in names:
        if name not in there:
            say(
                f"{name} is left out: there is no environment {folder / name}. "
                f"To make it, add --install, or: python -m kinetograph.benchmark.environments {folder} {name}"
            )
    if not there:
        raise UserError(
            f"there is an environment for none of {', '.join(names)}",
            where=str(folder),
            mend="Make them: add --install.",
        )
    comparisons = [
        partial(_force_calls, n_atoms, clock),
        *(partial(_steps_of_water, size, clock) for size in step_sizes),
        partial(_steps_of_argon, n_atoms, clock),
    ]
    for make in comparisons:
        comparison = make()
        asked = [one for one in comparison.asked if one.peer in there]
        if asked:
            yield from _compared(folder, replace(comparison, asked=asked), seconds, say)


def _compared(folder: Path, comparison: _Comparison, seconds: float, say: Say) -> list[Row]:
    """The rows of one comparison; a peer that fails is left out."""
    failed: set[int] = set()

    def fails(one: Asked, error: PeerFailed) -> None:
        say(f"{one.peer}{one.suffix} is left out of {one.case!r}, it failed: {error}")

    def unless_it_fails(one: Asked, index: int) -> float:
        if index not in failed:
            try:
                return turns[index].take()
            except PeerFailed as error:
                fails(one, error)
                failed.add(index)
        return 0.0

    with ExitStack() as processes:
        turns = comparison.ours()
        takers: list[Take] = [turn.take for turn in turns]
        for one in comparison.asked:
            task = {**comparison.task, **one.task}
            python, program = environments.interpreter(folder, one.peer), environments.program(one.peer)
            try:
                process = processes.enter_context(PeerProcess(python, program, task))
                turns.append(_their_turn(process, one, comparison))
            except PeerFailed as error:
                fails(one, error)
            else:
                takers.append(partial(unless_it_fails, one, len(takers)))
        median_s = timed_in_turns({str(k): take for k, take in enumerate(takers)}, seconds)
    timed = [(turn, median_s[str(k)]) for k, turn in enumerate(turns) if k not in failed]
    ours = {turn.row.case: value for turn, value in timed if turn.row.variant == OURS}
    return sorted(
        (
            replace(
                turn.row,
                median_s=value,
                speedup=value / ours[turn.row.case],
                against=OURS,
                more={**turn.row.more, **_pace(value, turn.timestep_fs)},
            )
            for turn, value in timed
        ),
        key=lambda row: list(ours).index(row.case),
    )


def _pace(step_s: float, timestep_fs: float | None) -> Mapping[str, float]:
    return {} if timestep_fs is None else {"ns_per_day": ns_per_day(1.0 / step_s, timestep_fs)}


def _their_turn(process: PeerProcess, one: Asked, comparison: _Comparison) -> _Turn:
    """What a program says that it is ready to do.

    Raises:
        PeerFailed: it cannot do it, or its answer lacks something.
    """
    answer, task = process.answer, comparison.task
    try:
        row = Row(
            case=one.case,
            variant=answer["name"] + one.suffix,
            precision=answer["precision"],
            n_atoms=len(task["numbers"]),
            n_edges=comparison.n_edges if answer["n_edges"] is None else answer["n_edges"],
            median_s=None,
            more={
                "computes": answer["computes"],
                "version": ", ".join(f"{name} {number}" for name, number in answer["versions"].items()),
                **({} if answer["energy_eV"] is None else {"energy_eV": answer["energy_eV"]}),
            },
        )
    except KeyError as error:
        raise PeerFailed(f"its answer lacks {error}") from None
    return _Turn(row, _take(process.seconds, comparison.n_calls), task.get("timestep_fs"))


def _take(seconds_of: Callable[[int], float], n_calls: int | None) -> Take:
    """Seconds a call, of so many in a turn or of as many as take a while."""
    if n_calls is None:
        seconds_of(WARM_UP)
        n_calls = max(1, min(MOST_CALLS, round(TURN_S / max(seconds_of(1), 1e-9))))
    return lambda: seconds_of(n_calls) / n_calls


def _task(system: System, cutoff_A: float, clock: Clock, more: Json) -> Json:
    return {
        "numbers": system.atomic_numbers.tolist(),
        "positions": system.positions.tolist(),
        "cell": system.cell[0].tolist(),
        "masses": system.masses.tolist(),
        "cutoff_A": cutoff_A,
        "threads": clock.n_threads,
        **more,
    }


# ------------------------------------------------------------------------------------------------ force calls


def _force_calls(n_atoms: int, clock: Clock) -> _Comparison:
    system = water(n_atoms)
    return _Comparison(
        ours=lambda: [_our_force_call(name, case, system, clock) for name, case in FORCE_CALLS.items()],
        asked=FORCE_PEERS,
        task=_task(system, PEER_CUTOFF_A, clock, {"task": "force call"}),
        n_edges=NeighborList.build(system, PEER_CUTOFF_A).n_edges,
    )


def _our_force_call(name: str, case: Case, system: System, clock: Clock) -> _Turn:
    potential = case.potential()
    neighbors = neighbors_for(system, potential.request)

    def calls(n_calls: int) -> None:
        with torch.no_grad():
            for _ in range(n_calls):
                potential(system, neighbors)

    with torch.no_grad():
        exact = case.potential(torch.float64)(system, neighbors).forces
        error = relative_error(potential(system, neighbors).forces, exact)
    row = _our_row(name, system, neighbors.n_edges, "float32", f"{case.preset}, {case.about}")
    take = _take(lambda n_calls: clock.seconds(partial(calls, n_calls)), None)
    return _Turn(replace(row, relative_error=error), take)


def _our_row(case: str, system: System, n_edges: int, precision: str, computes: str) -> Row:
    return Row(
        case=case,
        variant=OURS,
        precision=precision,
        n_atoms=system.n_atoms,
        n_edges=n_edges,
        median_s=None,
        more={
            "computes": computes,
            "version": f"kinetograph {version('kinetograph')}, torch {torch.__version__}",
        },
    )


# ------------------------------------------------------------------------------------------------ whole steps


class _Stopwatch:
    """A reporter that takes the time from the first step's end to the last one's."""

    every = 1

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.steps = -1
        self.seconds = 0.0

    def report(self, state: State) -> None:
        self.steps += 1
        if self.steps == 0:
            self._began = self.clock()
        self.seconds = self.clock() - self._began

    def close(self) -> None: ...


def _run(
    potential: Potential,
    system: System,
    timestep_fs: float,
    kelvin: float,
    skin_A: float,
    n_steps: int,
    clock: Clock,
) -> tuple[float, System]:
    """Seconds a step with the run loop and its guards, and where the atoms are then."""
    watch = _Stopwatch(clock)
    result = simulate(
        potential,
        system,
        VelocityVerlet(timestep_fs),
        n_steps=n_steps,
        initial_temperature_K=kelvin if system.velocities is None else None,
        skin_A=skin_A,
        reporters=[watch],
        status=False,
        batch_atoms=system.n_atoms,
    )
    return watch.seconds / watch.steps, result.state.system


def _steps_of_water(n_atoms: int, clock: Clock) -> _Comparison:
    case, system = CASES["painn"], water(n_atoms)
    n_steps = steps_of_run(system.n_atoms)

    def ours() -> list[_Turn]:
        potential = case.potential()
        potential.force_scale.fill_(STILL)
        row = _our_row(
            WATER_PEERS[0].case,
            system,
            NeighborList.build(system, case.cutoff_A).n_edges,
            "float32",
            f"{case.preset}, {case.about}, {TIMESTEP_FS:g} fs",
        )
        # Always from the same start: atoms that fly straight on would meet.
        run = partial(_run, potential, system, TIMESTEP_FS, KELVIN, SKIN_A, n_steps, clock)
        return [_Turn(row, lambda: run()[0], TIMESTEP_FS)]

    given = {
        "charges": [reference.OXYGEN_CHARGE, reference.HYDROGEN_CHARGE],
        "sigma_A": reference.OXYGEN_SIGMA_A,
        "epsilon_eV": reference.OXYGEN_EPSILON_KJ_PER_MOL * units.KJ_PER_MOL_IN_EV,
        "bond_A": reference.BOND_LENGTH_A,
        "angle_rad": reference.ANGLE_RAD,
        "pme_tolerance": reference.WATER_PME_TOLERANCE,
        "pppm_tolerance": PPPM_TOLERANCE,
    }
    more = {"task": "water step", "kelvin": KELVIN, "timestep_fs": RIGID_TIMESTEP_FS, "tip3p": given}
    return _Comparison(
        ours=ours,
        asked=WATER_PEERS,
        task=_task(system, reference.WATER_CUTOFF_A, clock, more),
        n_edges=NeighborList.build(system, reference.WATER_CUTOFF_A).n_edges,
        n_calls=n_steps,
    )


def _steps_of_argon(n_atoms: int, clock: Clock) -> _Comparison:
    start, cutoff = argon(n_atoms), reference.ARGON_CUTOFF_A
    neighbors = NeighborList.build(start, cutoff)

    def ours() -> list[_Turn]:
        potential = LennardJones(
            epsilon=ARGON_EPSILON_EV, sigma=ARGON_SIGMA_A, cutoff=cutoff, truncation="cut"
        )
        energy = potential(start, neighbors).energy
        assert energy is not None
        row = _our_row(
            ARGON_PEERS[0].case,
            start,
            neighbors.n_edges,
            "float64",
            f"Lennard-Jones, {ARGON_TIMESTEP_FS:g} fs",
        )
        system = start

        def take() -> float:
            nonlocal system
            step_s, system = _run(
                potential, system, ARGON_TIMESTEP_FS, ARGON_KELVIN, DEFAULT_SKIN_A, STEPS_OF_ARGON, clock
            )
            return step_s

        return [_Turn(replace(row, more={**row.more, "energy_eV": float(energy)}), take, ARGON_TIMESTEP_FS)]

    more = {
        "task": "argon step",
        "kelvin": ARGON_KELVIN,
        "timestep_fs": ARGON_TIMESTEP_FS,
        "lennard_jones": {"sigma_A": ARGON_SIGMA_A, "epsilon_eV": ARGON_EPSILON_EV},
    }
    return _Comparison(
        ours=ours,
        asked=ARGON_PEERS,
        task=_task(start, cutoff, clock, more),
        n_edges=neighbors.n_edges,
        n_calls=STEPS_OF_ARGON,
    )
