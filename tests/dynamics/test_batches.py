"""Replicas in batches, one after another: each is the run it would be in one batch of them all."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kinetograph.bonds import BondRule, with_bonds
from kinetograph.dynamics import (
    DEFAULT_GUARDS,
    MTK,
    Bussi,
    CellRescaling,
    Integrator,
    Langevin,
    NoseHoover,
    SimulationFailed,
    SimulationResult,
    State,
    VelocityVerlet,
    batches,
    hold_bonds,
    restart_path,
    simulate,
    trajectory_paths,
)
from kinetograph.dynamics.memory import HostMemory, memory_of
from kinetograph.dynamics.reporters import StatusReporter
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest
from kinetograph.models import build
from kinetograph.models.classical import Harmonic, LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System, batch
from kinetograph.trajectory import Trajectory

KELVIN = [60.0, 90.0, 120.0, 150.0, 75.0]
BAR = [1.0, 500.0, 1000.0, 2000.0, 10.0]
SIZES = [32, 8, 32, 16, 8]
SEEDS = [4, 4, 9, 4, 7]
IN_THREE = {"batch_atoms": 40}
"""Of 32 + 8, 32, and 16 + 8 atoms."""
INTEGRATORS: dict[str, Integrator] = {
    "verlet": VelocityVerlet(4.0),
    "langevin": Langevin(4.0, KELVIN, friction_per_ps=2.0),
    "nose-hoover": NoseHoover(4.0, KELVIN),
    "massive": NoseHoover(4.0, KELVIN, massive=True),
    "bussi": Bussi(4.0, KELVIN),
    "mtk": MTK(4.0, KELVIN, BAR, pressure_time_constant_fs=500.0),
    "cell-rescaling": CellRescaling(4.0, KELVIN, BAR, mode="full", pressure_time_constant_fs=500.0),
}


def lennard_jones() -> LennardJones:
    return LennardJones(epsilon=0.0103, sigma=3.4, cutoff=5.6, truncation="switch", switch_start=4.5)


def network() -> Potential:
    """A small random model in double precision; its forces are of argon's size."""
    torch.manual_seed(3)
    model = build("painn", [18], {"cutoff": 5.0, "forces": "conservative", "width": 16, "n_layers": 2})
    model.force_scale.fill_(0.02)
    return model.double().eval()


def fluids() -> System:
    """Five boxes of argon without velocities."""
    parts = []
    for index, n_atoms in enumerate(SIZES):
        atoms = bulk("Ar", "fcc", 5.6, cubic=True) * {8: (2, 1, 1), 16: (2, 2, 1), 32: (2, 2, 2)}[n_atoms]
        atoms.rattle(0.1, seed=index)
        parts.append(System.from_ase(atoms))
    return batch(parts)


def run(path: Path, **changes: Any) -> SimulationResult:
    settings: dict[str, Any] = {
        "potential": lennard_jones(),
        "system": fluids(),
        "integrator": INTEGRATORS["langevin"],
        "n_steps": 30,
        "seed": SEEDS,
        "every": 5,
        "status": False,
        "initial_temperature_K": KELVIN,
    }
    return simulate(path=path, **{**settings, **changes})


def assert_same_trajectories(first: Path, second: Path, replicas: Sequence[int] = range(5)) -> None:
    for index in replicas:
        paths = (trajectory_paths(path, 5)[index] for path in (first, second))
        with Trajectory.open(next(paths)) as a, Trajectory.open(next(paths)) as b:
            assert a.n_frames > 1
            np.testing.assert_array_equal(a.steps, b.steps)
            np.testing.assert_array_equal(a.positions(), b.positions())
            np.testing.assert_array_equal(a.velocities(), b.velocities())
            np.testing.assert_array_equal(a.forces(), b.forces())
            np.testing.assert_array_equal(a.cells, b.cells)
            for name, values in a.observables.items():
                np.testing.assert_array_equal(values, b.observables[name])


def assert_same(first: Any, second: Any, name: str = "state") -> None:
    """Every tensor of two states, to the bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), name
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), name
        for key, value in first.items():
            assert_same(value, second[key], f"{name}.{key}")
    elif is_dataclass(first):
        for field in fields(first):
            assert_same(getattr(first, field.name), getattr(second, field.name), f"{name}.{field.name}")
    else:
        assert first == second, name


# ---------------------------------------------------------------- the same runs


@pytest.mark.parametrize("name", INTEGRATORS)
def test_replicas_in_batches_are_those_of_one_batch_to_the_bit(tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {"integrator": INTEGRATORS[name], "guards": DEFAULT_GUARDS}
    at_once = run(tmp_path / "a.h5", **changes)
    apart = run(tmp_path / "b.h5", **IN_THREE, **changes)
    assert (at_once.batches, apart.batches) == ([5], [2, 1, 2])
    assert_same_trajectories(tmp_path / "a.h5", tmp_path / "b.h5")
    # The lists of neighbours were made anew at different times, as each batch needed it.
    assert_same(replace(at_once.state, neighbors=None), replace(apart.state, neighbors=None))
    assert apart.temperatures_K == at_once.temperatures_K
    assert apart.drift_K == at_once.drift_K
    assert apart.n_steps == 30
    assert apart.resumed_from is None
    assert sorted(path.name for path in tmp_path.glob("b*")) == [
        *(f"b-{index}.h5" for index in range(5)),
        "b.batch-2.restart",
        "b.batch-3.restart",
        "b.restart",
    ]


def test_a_learned_model_too(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"potential": network(), "n_steps": 15}
    run(tmp_path / "a.h5", **changes)
    run(tmp_path / "b.h5", **IN_THREE, **changes)
    assert_same_trajectories(tmp_path / "a.h5", tmp_path / "b.h5")


def test_the_state_of_several_batches_goes_on_as_one() -> None:
    """Its neighbour list, numbers of atoms and bonds are those of the whole set."""
    gas = [molecule("H2"), molecule("H2O"), molecule("H2"), molecule("CH4")]
    spring = Harmonic(stiffness=20.0, length=1.0, cutoff=3.0)
    integrator = VelocityVerlet(0.2)
    settings: dict[str, Any] = {"n_steps": 5, "initial_temperature_K": 100.0, "status": False}
    apart = simulate(spring, System.from_ase(gas), integrator, batch_atoms=5, **settings)
    at_once = simulate(spring, System.from_ase(gas), integrator, **settings)
    assert apart.batches == [2, 1, 1]
    for _ in range(20):
        assert_same(at_once.state, apart.state)
        at_once, apart = (
            replace(result, state=integrator.step(result.state, spring)) for result in (at_once, apart)
        )


def test_rigid_bonds_in_one_batch_and_none_in_the_next(tmp_path: Path) -> None:
    water = with_bonds(System.from_ase(molecule("H2O")), BondRule())
    settings: dict[str, Any] = {
        "potential": Harmonic(stiffness=20.0, length=1.0, cutoff=3.0),
        "system": batch([hold_bonds(water, "all"), water]),
        "integrator": VelocityVerlet(0.2),
        "initial_temperature_K": 100.0,
        "status": False,
    }
    at_once = simulate(n_steps=20, **settings).state
    for n_steps in (8, 20):
        part = simulate(
            n_steps=n_steps, path=tmp_path / "b.h5", batch_atoms=3, resume=n_steps > 8, **settings
        )
    assert part.batches == [1, 1]
    assert torch.equal(at_once.positions, part.state.positions)


# ---------------------------------------------------------------- interruptions


class Interrupting:
    """Stops a run as Ctrl-C does, at a step of one of its batches."""

    every = 1

    def __init__(self, replica: int, step: int) -> None:
        self._replica, self._step = replica, step

    def report(self, state: State) -> None:
        if state.step == self._step and self._replica in [stream.replica for stream in state.streams]:
            raise KeyboardInterrupt

    def close(self) -> None:
        pass


def no_trial(*arguments: object) -> None:
    raise AssertionError("a resumed run keeps its batches")


@pytest.mark.parametrize("name", ["langevin", "mtk"])
@pytest.mark.parametrize("step", [0, 17])
def test_a_run_killed_in_its_second_batch_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    changes: dict[str, Any] = {"integrator": INTEGRATORS[name], "checkpoint_every": 4}
    run(tmp_path / "a.h5", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b.h5", reporters=[Interrupting(2, step)], **IN_THREE, **changes)
    assert restart_path(tmp_path / "b.h5", 2).exists() == (step > 0)  # at 0 it had just begun
    assert not restart_path(tmp_path / "b.h5", 3).exists()
    first = trajectory_paths(tmp_path / "b.h5", 5)[0].read_bytes()
    monkeypatch.setattr("kinetograph.dynamics.start.by_memory", no_trial)
    part = run(tmp_path / "b.h5", resume=True, **changes)
    assert (part.resumed_from, part.n_steps, part.batches) == (0, 30, [2, 1, 2])
    assert_same_trajectories(tmp_path / "a.h5", tmp_path / "b.h5")
    assert trajectory_paths(tmp_path / "b.h5", 5)[0].read_bytes() == first
    again = run(tmp_path / "b.h5", resume=True, **changes)
    assert (again.resumed_from, again.n_steps) == (30, 0)


KILLED = """
import os, signal, sys, torch
from test_batches_child import IN_THREE, Interrupting, Path, run

class Killing(Interrupting):
    def report(self, state):
        try:
            super().report(state)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
run(Path("b.h5"), reporters=[Killing(2, 17)], checkpoint_every=4, **IN_THREE)
"""


def test_a_run_killed_outright_in_its_second_batch_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "test_batches_child.py").write_text(Path(__file__).read_text())
    child = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert child.returncode == -signal.SIGKILL
    run(tmp_path / "a.h5")
    part = run(tmp_path / "b.h5", resume=True)
    assert (part.resumed_from, part.n_steps) == (0, 30)
    assert_same_trajectories(tmp_path / "a.h5", tmp_path / "b.h5")


def test_a_finished_run_goes_on_for_longer(tmp_path: Path) -> None:
    whole = run(tmp_path / "a.h5", n_steps=50)
    run(tmp_path / "b.h5", **IN_THREE)
    longer = run(tmp_path / "b.h5", n_steps=50, resume=True, **IN_THREE)
    assert (longer.resumed_from, longer.n_steps) == (30, 20)
    assert torch.equal(whole.state.positions, longer.state.positions)
    assert_same_trajectories(tmp_path / "a.h5", tmp_path / "b.h5")


def test_another_division_or_an_end_that_lies_behind_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b.h5", reporters=[Interrupting(2, 17)], checkpoint_every=4, **IN_THREE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for changes, message in (
        ({"batch_atoms": 1}, "its batches are not those"),
        ({"n_steps": 20}, "at step 30 already: the others cannot end at 20"),
        ({"seed": [4, 4, 9, 4, 8]}, "seed is"),
        ({"system": batch([fluids(), fluids()]), "seed": 4, "initial_temperature_K": 60.0}, "5 structures"),
    ):
        if "system" in changes:
            changes |= {"integrator": VelocityVerlet(4.0)}
        with pytest.raises(UserError, match=message):
            run(tmp_path / "b.h5", resume=True, **changes)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


# ---------------------------------------------------------------- what goes wrong


class Stopping:
    """A guard that stops these replicas at a step."""

    every = 1

    def __init__(self, replicas: Sequence[int], step: int) -> None:
        self._replicas, self._step = replicas, step

    def prepare(self, state: State, integrator: Integrator) -> State:
        return state

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        replicas = [stream.replica for stream in state.streams]
        if state.step < self._step:
            return {}
        return {replicas.index(replica): "no luck" for replica in self._replicas if replica in replicas}


@pytest.mark.parametrize("unlucky", [[1], [2], [0, 1], [0, 1, 2, 3]])
def test_a_batch_that_fails_stops_no_other(tmp_path: Path, unlucky: list[int]) -> None:
    run(tmp_path / "a.h5")
    result = run(tmp_path / "b.h5", guards=[Stopping(unlucky, 12)], **IN_THREE)
    assert [(failure.replica, failure.step) for failure in result.failures] == [(r, 12) for r in unlucky]
    left = [index for index in range(5) if index not in unlucky]
    assert [stream.replica for stream in result.state.streams] == left
    assert_same_trajectories(tmp_path / "a.h5", tmp_path / "b.h5", left)
    assert all((tmp_path / f"b-{index}.failed.extxyz").is_file() for index in unlucky)
    assert result.n_steps == 30
    again = run(tmp_path / "b.h5", guards=[Stopping(unlucky, 12)], resume=True)
    assert [failure.replica for failure in again.failures] == unlucky


def test_when_every_batch_fails_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(SimulationFailed, match=r"replica 0 went wrong.*replica 4 went wrong"):
        run(tmp_path / "b.h5", guards=[Stopping(range(5), 12)], **IN_THREE)


def fused() -> dict[str, Any]:
    system = fluids()
    positions = system.positions.clone()
    positions[-1] = positions[-2]
    return {"system": replace(system, positions=positions)}


class BrokenAtTheEnd(LennardJones):
    """No force on the last atom but three of the 16 and 8 atoms of a batch."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        prediction = super().forward(system, neighbors)
        if system.n_atoms == 24:
            prediction.forces[-3] = torch.nan
        return prediction


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (fused(), r"atoms 6 and 7 are in one place .*\(structure 4\)"),
        (
            {"potential": BrokenAtTheEnd(epsilon=0.0103, sigma=3.4, cutoff=5.6)},
            r"not finite: atom 5 is the first of 1 such atoms \(structure 4\)",
        ),
        ({"guards": [Stopping([3], 0)]}, r"the start is refused: no luck \(structure 3\)"),
    ],
)
def test_a_start_refused_in_a_later_batch_is_refused_before_any_work(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run(tmp_path / "b.h5", n_steps=5, **IN_THREE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message):
        run(tmp_path / "b.h5", overwrite=True, **IN_THREE, **changes)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_settings_for_fewer_or_more_structures_are_refused() -> None:
    for kelvin in (KELVIN[:4], [*KELVIN, 60.0]):
        with pytest.raises(UserError, match="values of temperature_K for 5 structures"):
            simulate(lennard_jones(), fluids(), Langevin(4.0, kelvin), n_steps=1, status=False, batch_atoms=1)
    for most in (0, 1.5):
        with pytest.raises(UserError, match="batch_atoms is"):
            simulate(
                lennard_jones(), fluids(), Langevin(4.0, 60.0), n_steps=1, status=False, batch_atoms=most
            )


def test_an_overwriting_run_takes_out_the_checkpoints_of_all_batches(tmp_path: Path) -> None:
    run(tmp_path / "b.h5", n_steps=5, **IN_THREE)
    (tmp_path / "b.batch-x.restart").write_text("somebody else's")
    for name in ("b-0.h5", "b-1.h5", "b-2.h5", "b-3.h5", "b-4.h5", "b.restart"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="exists already"):
        run(tmp_path / "b.h5", n_steps=5)
    run(tmp_path / "b.h5", n_steps=5, overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("*.restart")) == ["b.batch-x.restart", "b.restart"]


def test_the_status_names_the_batch_and_counts_the_time_of_all(capfd: pytest.CaptureFixture[str]) -> None:
    simulate(lennard_jones(), fluids(), INTEGRATORS["langevin"], n_steps=4, **IN_THREE)
    shown = capfd.readouterr().err
    for text in ("batch 1 of 3  step 4/4  2 of 2 replicas", "batch 3 of 3  step 4/4  2 of 2 replicas"):
        assert text in shown


def test_the_time_left_is_that_of_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 of 30 steps of a batch of 8 atoms in 10 seconds, 2400 atom-steps to follow: 20 + 300 seconds."""
    seconds = iter([0.0, 10.0])
    console = Console(width=200, record=True, quiet=True)
    status = StatusReporter(VelocityVerlet(4.0), 30, console=console, seconds_between_lines=0.0)
    system = System.from_ase(bulk("Ar", "fcc", 5.6, cubic=True) * (2, 1, 1))
    state = VelocityVerlet(4.0).init(system, lennard_jones(), 0)
    shown: list[str] = []
    monkeypatch.setattr(status._line, "show", lambda text, done, total: shown.append(text))
    monkeypatch.setattr("kinetograph.dynamics.reporters.time.monotonic", lambda: next(seconds))
    monkeypatch.setattr(status._line, "is_due", lambda always: True)
    status.begin_batch(n_replicas=1, name="batch 1 of 2", later_atom_steps=2400)
    for step in (0, 10):
        status.report(replace(state, step=step))
    assert "0:05:20 left" in shown[-1]


# ---------------------------------------------------------------- what fits


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    st.one_of(st.integers(1, 3000), st.floats(0.5, 3000.0)),
)
def test_batches_are_consecutive_complete_within_the_limit_and_as_long_as_they_can_be(
    sizes: list[int], limit: float
) -> None:
    groups = batches.consecutive(sizes, limit)
    assert [index for group in groups for index in group] == list(range(len(sizes)))
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        total = sum(sizes[index] for index in group)
        assert len(group) == 1 or total <= limit
        if following is not None:
            assert total + sizes[following[0]] > limit


def test_a_structure_beyond_the_limit_runs_alone(tmp_path: Path) -> None:
    run(tmp_path / "a.h5")
    assert run(tmp_path / "b.h5", batch_atoms=20).batches == [1, 1, 1, 1, 1]
    assert run(tmp_path / "b.h5", batch_atoms=25, overwrite=True).batches == [1, 1, 1, 2]
    assert_same_trajectories(tmp_path / "a.h5", tmp_path / "b.h5")


class Hungry(Potential):
    """No forces, for many bytes an edge."""

    BYTES_PER_EDGE = 40_000

    def __init__(self) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=5.6)
        self.called_with: list[list[int]] = []

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        self.called_with.append(system.atoms_per_system.tolist())
        torch.ones(neighbors.n_edges, self.BYTES_PER_EDGE // 8, dtype=torch.float64)
        return Prediction(forces=torch.zeros_like(system.positions), conservative=False)


class Fixed:
    """Memory that knows how much a potential took."""

    def __init__(self, free: float, taken: Callable[[], float]) -> None:
        self.free, self.most_taken = free, taken


def test_batches_fill_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 replicas with 8 atoms, of which 100 fit by a byte count that grows with the atoms."""
    small = bulk("Ar", "fcc", 5.6, cubic=True) * (2, 1, 1)
    hungry, system = Hungry(), batch([System.from_ase(small)] * 500)
    hungry.BYTES_PER_EDGE = 8

    def taken() -> float:
        return 1e6 * sum(hungry.called_with[-1])

    monkeypatch.setattr(batches, "memory_of", lambda device: Fixed(800e6 / batches.FILL, taken))
    found = batches.by_memory(system, hungry, 1.0)
    assert [len(group) for group in found] == [100] * 5
    assert sum(hungry.called_with[-1]) < 0.25 * 800  # a trial stays far below what is free


def test_memory_that_a_model_keeps_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second trial it takes nothing anew."""
    small = bulk("Ar", "fcc", 5.6, cubic=True) * (2, 1, 1)
    hungry, system = Hungry(), batch([System.from_ase(small)] * 40)
    hungry.BYTES_PER_EDGE = 8
    for factor in (1e6, 0.0):
        taken = lambda factor=factor: factor * sum(hungry.called_with[-1])  # noqa: E731
        memory = Fixed(80e6 / batches.FILL, taken)
        monkeypatch.setattr(batches, "memory_of", lambda device, memory=memory: memory)
        assert [len(group) for group in batches.by_memory(system, hungry, 1.0)] == [10] * 4


def test_the_trial_is_made_of_the_largest_and_not_at_all_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hungry = Hungry()
    hungry.BYTES_PER_EDGE = 8
    monkeypatch.setattr(batches, "memory_of", lambda device: Fixed(1e9, lambda: 1.0))
    assert batches.by_memory(fluids(), hungry, 1.0) == [range(5)]
    assert [sorted(call, reverse=True) for call in hungry.called_with] == [
        [8],  # before one looks at the memory
        [32],
        [32, 32],
        [32, 32, 16, 8],
        [32, 32, 16, 8, 8],
    ]
    hungry.called_with.clear()
    assert batches.by_memory(System.from_ase(bulk("Ar", cubic=True) * 2), hungry, 1.0) == [range(1)]
    assert hungry.called_with == []


def test_a_refused_trial_leaves_the_answer_to_the_start() -> None:
    with pytest.raises(UserError, match=r"atoms 6 and 7 are in one place .*\(structure 4\)"):
        simulate(lennard_jones(), integrator=Langevin(4.0, 60.0), n_steps=1, status=False, **fused())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_the_memory_of_the_host_is_measured() -> None:
    """A force call of 200 MB; half of that as tolerance for what else the process takes or gives back."""
    torch.ones(50_000_000, dtype=torch.float64)  # an earlier and higher mark does not count
    gc.collect()
    memory = HostMemory()
    assert 1e8 < memory.free < 1e14
    assert memory.most_taken() < 1e8
    torch.ones(25_000_000, dtype=torch.float64)
    assert memory.most_taken() == pytest.approx(2e8, rel=0.5)


def test_memory_measured_on_the_host_divides_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 boxes of some 3000 edges that take 40 kB each; where 4 fit, it is 4 within a factor of two."""
    atoms = bulk("Ar", "fcc", 5.6, cubic=True) * 2
    system = batch([System.from_ase(atoms)] * 32)
    hungry = Hungry()
    edges = NeighborList.build(System.from_ase(atoms), 5.6, skin=1.0).n_edges
    own = edges * hungry.BYTES_PER_EDGE

    def host(device: torch.device) -> HostMemory:
        memory = HostMemory()
        memory.free = 4.5 * own / batches.FILL
        return memory

    monkeypatch.setattr(batches, "memory_of", host)
    sizes = [len(group) for group in batches.by_memory(system, hungry, 1.0)]
    assert 2 <= sizes[0] <= 8
    assert max(len(call) for call in hungry.called_with) <= 2


@pytest.mark.gpu
def test_memory_measured_on_the_device_divides_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    system = batch([System.from_ase(bulk("Ar", "fcc", 5.6, cubic=True) * 4)] * 16).to("cuda")
    memory = memory_of(system.device)
    assert 0 < memory.free <= torch.cuda.get_device_properties(0).total_memory
    held = torch.ones(1_000_000, dtype=torch.float64, device="cuda")
    assert memory.most_taken() == held.nbytes
    monkeypatch.setattr(batches, "FILL", 1e-5)
    assert len(batches.by_memory(system, lennard_jones().to("cuda"), 1.0)) > 1
