"""The run loop: restarts, files, bad input, runs that go wrong."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from rich.console import Console

from kinetograph.atomic_file import write_atomically
from kinetograph.dynamics import (
    Integrator,
    Langevin,
    NoseHoover,
    SimulationFailed,
    State,
    TemperatureGuard,
    VelocityVerlet,
    checkpoint,
    restart_path,
    simulate,
)
from kinetograph.dynamics.reporters import StatusReporter
from kinetograph.errors import UserError
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.models.classical import Harmonic, LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System, batch
from kinetograph.training_domain import domain_of
from kinetograph.trajectory import Trajectory, h5md

INTEGRATORS = [
    VelocityVerlet(4.0),
    Langevin(4.0, 90.0, friction_per_ps=2.0),
    NoseHoover(4.0, 90.0),
    NoseHoover(4.0, 90.0, massive=True),
]


def lennard_jones(epsilon: float = 0.0103) -> LennardJones:
    return LennardJones(epsilon=epsilon, sigma=3.4, cutoff=5.6, truncation="switch", switch_start=4.5)


def argon(n_side: int = 2) -> System:
    atoms = bulk("Ar", "fcc", 5.6, cubic=True) * n_side
    atoms.rattle(0.1, seed=1)
    return System.from_ase(atoms)


SETTINGS = {"every": 5, "seed": 3, "initial_temperature_K": 90.0, "status": False}


def assert_same_files(first: Path, second: Path) -> None:
    with Trajectory.open(first) as a, Trajectory.open(second) as b:
        np.testing.assert_array_equal(a.steps, b.steps)
        np.testing.assert_array_equal(a.positions(), b.positions())
        np.testing.assert_array_equal(a.velocities(), b.velocities())
        np.testing.assert_array_equal(a.forces(), b.forces())
        assert set(a.observables) == set(b.observables)
        for name, values in a.observables.items():
            np.testing.assert_array_equal(values, b.observables[name])


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda i: type(i).__name__)
def test_a_restarted_run_is_the_uninterrupted_run(tmp_path: Path, integrator: Integrator) -> None:
    whole = simulate(lennard_jones(), argon(), integrator, n_steps=80, path=tmp_path / "a.h5", **SETTINGS)
    for n_steps in (0, 33, 61, 80):
        part = simulate(
            lennard_jones(),
            argon(),
            integrator,
            n_steps=n_steps,
            path=tmp_path / "b.h5",
            resume=n_steps > 0,
            **SETTINGS,
        )
    for name in ("positions", "velocities", "acceleration"):
        assert torch.equal(getattr(whole.state, name), getattr(part.state, name))
    for kept in ("of_systems", "of_atoms"):
        values, others = getattr(whole.state, kept), getattr(part.state, kept)
        assert values.keys() == others.keys()
        assert all(torch.equal(values[name], others[name]) for name in values)
    assert_same_files(tmp_path / "a.h5", tmp_path / "b.h5")
    assert part.resumed_from == 61
    assert whole.resumed_from is None


def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path: Path) -> None:
    def end(seed: int) -> torch.Tensor:
        return simulate(
            lennard_jones(), argon(), Langevin(4.0, 90.0), n_steps=10, seed=seed, status=False
        ).state.positions

    assert torch.equal(end(1), end(1))
    assert not torch.equal(end(1), end(2))


def test_a_hot_run_without_a_thermostat_keeps_its_limit_when_resumed(tmp_path: Path) -> None:
    """Above 20 times 100 K, the limit of a run that was cold at its start."""
    random = torch.Generator().manual_seed(2)
    hot = replace(argon(), velocities=0.012 * torch.randn(32, 3, generator=random, dtype=torch.float64))
    run = {"potential": lennard_jones(), "system": hot, "integrator": VelocityVerlet(0.2)}
    run |= {"every": 5, "status": False}
    whole = simulate(n_steps=20, path=tmp_path / "a.h5", **run)
    simulate(n_steps=10, path=tmp_path / "b.h5", **run)
    part = simulate(n_steps=20, path=tmp_path / "b.h5", resume=True, **run)
    assert part.mean_temperature_K > 2500.0
    assert torch.equal(whole.state.positions, part.state.positions)
    assert_same_files(tmp_path / "a.h5", tmp_path / "b.h5")
    with pytest.raises(SimulationFailed, match="above the limit of 1500 K"):
        simulate(
            n_steps=30,
            path=tmp_path / "b.h5",
            resume=True,
            guards=[TemperatureGuard(max_temperature_K=1500.0)],
            **run,
        )


def test_companions_of_a_trajectory_have_names_of_their_own(tmp_path: Path) -> None:
    assert restart_path(tmp_path / "x.h5") == tmp_path / "x.restart"
    for name in ("a.100K", "a.200K", "b.h5.old", "plain"):
        assert restart_path(tmp_path / name) == tmp_path / f"{name}.restart"
    failing = FailingAt(3, float("nan"))
    with pytest.raises(SimulationFailed, match=r"a\.100K\.failed\.extxyz"):
        simulate(failing, argon(), INTEGRATORS[0], n_steps=5, path=tmp_path / "a.100K", **SETTINGS)
    for name in ("z.restart", "z.failed.extxyz"):
        with pytest.raises(UserError, match="beside a trajectory"):
            simulate(lennard_jones(), argon(), INTEGRATORS[0], n_steps=1, path=tmp_path / name, **SETTINGS)


def test_frames_later_than_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    integrator = INTEGRATORS[1]
    path = tmp_path / "a.h5"
    simulate(lennard_jones(), argon(), integrator, n_steps=20, path=path, **SETTINGS)
    early = restart_path(path).read_bytes()
    simulate(lennard_jones(), argon(), integrator, n_steps=60, path=path, resume=True, **SETTINGS)
    late = path.read_bytes()
    restart_path(path).write_bytes(early)
    simulate(lennard_jones(), argon(), integrator, n_steps=60, path=path, resume=True, **SETTINGS)
    (tmp_path / "late.h5").write_bytes(late)
    assert_same_files(path, tmp_path / "late.h5")


def test_bonds_and_fixed_atoms_survive_a_restart(tmp_path: Path) -> None:
    atoms = ase.Atoms("H4", [[0, 0, 0], [0, 0, 0.75], [2, 0, 0], [2, 0, 0.75]])
    system = replace(System.from_ase(atoms), fixed=torch.tensor([True, False, False, False]))
    spring = Harmonic(stiffness=20.0, length=0.75, cutoff=3.0)
    run = {"every": 5, "status": False, "seed": 1}
    whole = simulate(spring, system, Langevin(0.5, 300.0), n_steps=40, path=tmp_path / "a.h5", **run)
    simulate(spring, system, Langevin(0.5, 300.0), n_steps=15, path=tmp_path / "b.h5", **run)
    part = simulate(
        spring, system, Langevin(0.5, 300.0), n_steps=40, path=tmp_path / "b.h5", resume=True, **run
    )
    assert torch.equal(whole.state.positions, part.state.positions)
    assert torch.equal(part.state.positions[0], system.positions[0])
    with Trajectory.open(tmp_path / "b.h5") as read:
        assert read.bonds.tolist() == [[0, 1], [2, 3]]


RUN_SLOWLY = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
from test_simulate_child import SETTINGS, argon, lennard_jones
from kinetograph.dynamics import NoseHoover, simulate

class Slow:
    every = 1
    def report(self, state):
        time.sleep(0.005)
        print(state.step, flush=True)
    def close(self):
        pass

torch.set_num_threads(1)
simulate(lennard_jones(), argon(), NoseHoover(4.0, 90.0), n_steps=100000, path="run.h5",
         checkpoint_every=10, reporters=[Slow()], **SETTINGS)
"""


def start_child(tmp_path: Path, until_step: int) -> subprocess.Popen[str]:
    """A run in a process of its own, somewhere after a step."""
    (tmp_path / "test_simulate_child.py").write_text(Path(__file__).read_text())
    child = subprocess.Popen(
        [sys.executable, "-c", RUN_SLOWLY, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert child.stdout is not None
    while (line := child.stdout.readline()) and int(line) < until_step:
        pass
    assert line, "the run ended early"
    return child


def resume_and_compare(tmp_path: Path) -> None:
    integrator = NoseHoover(4.0, 90.0)
    with Trajectory.open(tmp_path / "run.h5") as read:
        n_steps = int(read.steps[-1]) + 40
    part = simulate(
        lennard_jones(),
        argon(),
        integrator,
        n_steps=n_steps,
        path=tmp_path / "run.h5",
        resume=True,
        **SETTINGS,
    )
    assert part.resumed_from is not None
    assert part.resumed_from > 0
    simulate(lennard_jones(), argon(), integrator, n_steps=n_steps, path=tmp_path / "whole.h5", **SETTINGS)
    assert_same_files(tmp_path / "run.h5", tmp_path / "whole.h5")


def test_a_run_killed_at_any_moment_opens_and_resumes_as_if_it_had_not_been(tmp_path: Path) -> None:
    child = start_child(tmp_path, 37)
    with child:
        child.kill()
    assert child.returncode == -signal.SIGKILL
    resume_and_compare(tmp_path)


def test_an_interrupted_run_stops_after_a_whole_step_and_resumes(tmp_path: Path) -> None:
    child = start_child(tmp_path, 23)
    with child:
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    resume_and_compare(tmp_path)


def test_an_interrupt_is_passed_on_after_the_files_are_written(tmp_path: Path) -> None:
    class Interrupting:
        every = 7

        def report(self, state: State) -> None:
            if state.step:
                os.kill(os.getpid(), signal.SIGINT)

        def close(self) -> None:
            self.closed = True

    reporter = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        simulate(
            lennard_jones(),
            argon(),
            NoseHoover(4.0, 90.0),
            n_steps=50,
            path=tmp_path / "a.h5",
            reporters=[reporter],
            **SETTINGS,
        )
    assert reporter.closed
    done = simulate(
        lennard_jones(),
        argon(),
        NoseHoover(4.0, 90.0),
        n_steps=50,
        path=tmp_path / "a.h5",
        resume=True,
        **SETTINGS,
    )
    assert done.resumed_from == 7


# ---------------------------------------------------------------- checkpoints behind the run


class Looking:
    """Calls a function with every state."""

    every = 1

    def __init__(self, look: Callable[[State], None]) -> None:
        self.report = look

    def close(self) -> None:
        pass


def test_a_run_goes_on_while_its_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk does not take the first one before step 10."""
    ready = threading.Event()

    def slow(path: Path, content: bytes) -> None:
        assert ready.wait(30.0)
        write_atomically(path, content)

    def look(state: State) -> None:
        if state.step == 9:
            assert not restart_path(path).exists()
            ready.set()

    path = tmp_path / "a.h5"
    monkeypatch.setattr(checkpoint, "write_atomically", slow)
    simulate(
        lennard_jones(),
        argon(),
        INTEGRATORS[0],
        n_steps=20,
        path=path,
        reporters=[Looking(look)],
        **SETTINGS,
    )
    assert ready.is_set()
    assert checkpoint.read_header(restart_path(path)).step == 20  # when the run returns


def test_no_checkpoint_is_ahead_of_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that takes its time for frames."""
    path, append, write, seen = tmp_path / "a.h5", h5md.append, checkpoint.Snapshot.write, []

    def slow(*arguments: Any) -> None:
        time.sleep(0.02)
        append(*arguments)

    def compared(snapshot: checkpoint.Snapshot, where: Path) -> None:
        with Trajectory.open(path) as read:
            seen.append((snapshot.header["step"], int(read.steps[-1])))
        write(snapshot, where)

    monkeypatch.setattr(h5md, "append", slow)
    monkeypatch.setattr(checkpoint.Snapshot, "write", compared)
    run = {**SETTINGS, "every": 1, "checkpoint_every": 3}
    simulate(lennard_jones(), argon(), INTEGRATORS[0], n_steps=12, path=path, **run)
    assert [step for step, _ in seen] == [0, 3, 6, 9, 12, 12]
    assert all(in_file >= step for step, in_file in seen)


def test_frames_that_the_disk_refuses_hold_back_the_checkpoint_and_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, append, n_calls = tmp_path / "b.h5", h5md.append, itertools.count()

    def refuse(*arguments: Any) -> None:
        if next(n_calls) > 2:
            raise OSError(28, "No space left on device")
        append(*arguments)

    run = {**SETTINGS, "every": 1, "checkpoint_every": 3}
    with monkeypatch.context() as patch:
        patch.setattr(h5md, "append", refuse)
        with pytest.raises(UserError, match=r"trajectory cannot be written: No space left .*b\.h5"):
            simulate(lennard_jones(), argon(), INTEGRATORS[1], n_steps=10_000, path=path, **run)
    with Trajectory.open(path) as read:
        assert checkpoint.read_header(restart_path(path)).step <= read.steps[-1]
    simulate(lennard_jones(), argon(), INTEGRATORS[1], n_steps=20, path=path, resume=True, **run)
    simulate(lennard_jones(), argon(), INTEGRATORS[1], n_steps=20, path=tmp_path / "a.h5", **run)
    assert_same_files(tmp_path / "a.h5", path)


def test_a_checkpoint_that_the_disk_refuses_ends_the_run_and_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps, n_calls = tmp_path / "a.h5", [], itertools.count()

    def refuse(place: Path, content: bytes) -> None:
        if next(n_calls) > 0:
            raise UserError("cannot write: No space left on device", where=str(place))
        write_atomically(place, content)

    def look(state: State) -> None:
        steps.append(state.step)
        if state.step == 101:
            time.sleep(0.5)  # the thread has tried by now

    monkeypatch.setattr(checkpoint, "write_atomically", refuse)
    with pytest.raises(UserError, match=r"No space left on device .*a\.restart"):
        simulate(
            lennard_jones(),
            argon(),
            INTEGRATORS[0],
            n_steps=10_000,
            path=path,
            checkpoint_every=100,
            reporters=[Looking(look)],
            **SETTINGS,
        )
    assert 100 <= steps[-1] <= 101  # not at the next checkpoint
    assert checkpoint.read_header(restart_path(path)).step == 0
    with Trajectory.open(path) as read:
        assert read.steps[-1] >= steps[-1] - 5


def test_a_run_that_goes_wrong_waits_for_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path, content: bytes) -> None:
        time.sleep(0.3)
        write_atomically(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", slow)
    path = tmp_path / "a.h5"
    with pytest.raises(SimulationFailed):
        simulate(
            FailingAt(24, 1e4),
            argon(),
            INTEGRATORS[0],
            n_steps=50,
            path=path,
            checkpoint_every=22,
            **SETTINGS,
        )
    assert checkpoint.read_header(restart_path(path)).step == 22


# ---------------------------------------------------------------- runs that go wrong


class FailingAt(Potential):
    """Lennard-Jones whose forces break at a call."""

    def __init__(self, call: int, value: float) -> None:
        super().__init__()
        self.inner = lennard_jones()
        self.request = self.inner.request
        self._calls = 0
        self._call, self._value = call, value

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        prediction = self.inner(system, neighbors)
        self._calls += 1
        if self._calls < self._call:
            return prediction
        forces = prediction.forces.clone()
        forces[0, 0] = self._value
        return replace(prediction, forces=forces)


@pytest.mark.parametrize(
    ("value", "what"),
    [(float("nan"), "not finite"), (float("inf"), "not finite"), (1e4, "temperature|velocities")],
)
@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda i: type(i).__name__)
def test_a_run_that_goes_wrong_stops_and_keeps_what_it_has(
    tmp_path: Path, value: float, what: str, integrator: Integrator
) -> None:
    with pytest.raises(SimulationFailed, match=what) as caught:
        simulate(FailingAt(24, value), argon(), integrator, n_steps=50, path=tmp_path / "a.h5", **SETTINGS)
    assert "step 23" in str(caught.value)
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.steps.tolist() == [0, 5, 10, 15, 20]
        assert np.isfinite(read.forces()).all()
    assert restart_path(tmp_path / "a.h5").is_file()
    last = ase.io.read(tmp_path / "a.failed.extxyz", ":")
    assert [atoms.info["step"] for atoms in last] == [18, 19, 20, 21, 22]
    assert np.isfinite(last[-1].get_forces()).all()


def test_atoms_that_fuse_on_the_way_end_the_run_and_keep_what_it_has(tmp_path: Path) -> None:
    """Two free atoms on one line, meeting at the third step: the run fails, it is not the user's mistake."""
    system = replace(
        System.from_ase(ase.Atoms("Ar2", positions=[[0, 0, 0], [3.0, 0, 0]])),
        velocities=torch.tensor([[0.5, 0, 0], [-0.5, 0, 0]], dtype=torch.float64),
    )
    path = tmp_path / "a.h5"
    blind = LennardJones(epsilon=0.0, sigma=3.4, cutoff=8.0)
    with pytest.raises(SimulationFailed, match=r"at step 3: atoms 0 and 1 are in one place"):
        simulate(
            blind, system, VelocityVerlet(1.0, remove_com=False), n_steps=9, path=path, every=1, status=False
        )
    with Trajectory.open(path) as read:
        assert read.n_frames == 3
    assert len(ase.io.read(tmp_path / "a.failed.extxyz", ":")) == 3


# ---------------------------------------------------------------- what a user gets wrong


@pytest.mark.parametrize(
    ("value", "coincident", "message"),
    [
        (float("nan"), False, "forces at the start are not finite: atom 0 is the first of 1 such"),
        (float("inf"), False, "forces at the start are not finite: atom 0 is the first of 1 such"),
        (0.0, True, r"atoms 4 and 9 are in one place"),
    ],
)
def test_a_start_without_finite_forces_is_refused_and_nothing_is_touched(
    tmp_path: Path, value: float, coincident: bool, message: str
) -> None:
    path = tmp_path / "a.h5"
    simulate(lennard_jones(), argon(), INTEGRATORS[0], n_steps=5, path=path, **SETTINGS)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    system, potential = argon(), FailingAt(1, value) if not coincident else lennard_jones()
    if coincident:
        positions = system.positions.clone()
        positions[9] = positions[4] + system.cell[0, 0]  # the image coincides
        system = replace(system, positions=positions)
    with pytest.raises(UserError, match=message):
        simulate(potential, system, INTEGRATORS[0], n_steps=5, path=path, overwrite=True, **SETTINGS)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_an_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    simulate(lennard_jones(), argon(), INTEGRATORS[0], n_steps=5, path=path, **SETTINGS)
    before = path.read_bytes(), restart_path(path).read_bytes()
    with pytest.raises(UserError, match="exists already"):
        simulate(lennard_jones(), argon(), INTEGRATORS[0], n_steps=5, path=path, **SETTINGS)
    assert before == (path.read_bytes(), restart_path(path).read_bytes())
    simulate(lennard_jones(), argon(), INTEGRATORS[0], n_steps=10, path=path, overwrite=True, **SETTINGS)
    with Trajectory.open(path) as read:
        assert read.n_frames == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"integrator": NoseHoover(2.0, 90.0)}, "integrator.timestep_fs is 2.0, but was 4.0"),
        ({"integrator": Langevin(4.0, 90.0)}, "integrator.name"),
        ({"potential": lennard_jones(0.0104)}, "epsilon"),
        ({"seed": 4}, "seed is 4"),
        ({"every": 4}, "every is 4"),
        ({"system": argon(1)}, "elements"),
    ],
)
def test_a_different_run_is_not_resumed(tmp_path: Path, change: dict[str, object], message: str) -> None:
    run = {
        "potential": lennard_jones(),
        "system": argon(),
        "integrator": NoseHoover(4.0, 90.0),
        "path": tmp_path / "a.h5",
        **SETTINGS,
    }
    simulate(n_steps=10, **run)
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(UserError, match=message):
        simulate(n_steps=20, resume=True, **{**run, **change})
    assert (tmp_path / "a.h5").read_bytes() == before


def test_another_model_is_refused_before_its_neighbours_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: dict[str, Any] = {"system": argon(), "integrator": NoseHoover(4.0, 90.0), **SETTINGS}
    simulate(lennard_jones(), n_steps=10, path=tmp_path / "a.h5", **run)

    def build(*arguments: object, **more: object) -> NeighborList:
        raise AssertionError("a neighbour list was built")

    monkeypatch.setattr(NeighborList, "build", build)
    far = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=500.0)
    with pytest.raises(UserError, match=r"cutoff is 500\.0"):
        simulate(far, n_steps=20, path=tmp_path / "a.h5", resume=True, **run)


def test_a_damaged_or_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    run = {"n_steps": 10, "path": tmp_path / "a.h5", **SETTINGS}
    with pytest.raises(UserError, match="nothing to resume"):
        simulate(lennard_jones(), argon(), INTEGRATORS[0], resume=True, **run)
    simulate(lennard_jones(), argon(), INTEGRATORS[0], **run)
    whole = restart_path(tmp_path / "a.h5").read_bytes()
    restart_path(tmp_path / "a.h5").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="checkpoint cannot be read"):
        simulate(lennard_jones(), argon(), INTEGRATORS[0], resume=True, **run)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VelocityVerlet(0.0), "timestep_fs"),
        (lambda: VelocityVerlet(float("nan")), "timestep_fs"),
        (lambda: Langevin(1.0, -3.0), "temperature_K"),
        (lambda: Langevin(1.0, 300.0, friction_per_ps=0.0), "friction_per_ps"),
        (lambda: NoseHoover(1.0, 300.0, time_constant_fs=-1.0), "time_constant_fs"),
        (lambda: NoseHoover(1.0, 300.0, chain_length=0), "chain_length"),
        (lambda: NoseHoover(1.0, 300.0, yoshida_suzuki=2), "yoshida_suzuki"),
        (lambda: simulate(lennard_jones(), argon(), VelocityVerlet(1.0), n_steps=1), "no velocities"),
        (lambda: simulate(lennard_jones(), argon(), Langevin(1.0, 90.0), n_steps=-1), "n_steps"),
        (lambda: simulate(lennard_jones(), argon(), Langevin(1.0, 90.0), n_steps=1, every=0), "every"),
        *(
            (
                lambda seed=seed: simulate(
                    lennard_jones(), argon(), Langevin(1.0, 90.0), n_steps=1, seed=seed
                ),
                "seed",
            )
            for seed in (-1, 2**64, 1e20, 0.5, float("inf"), float("nan"))
        ),
        *(
            (
                lambda kelvin=kelvin: simulate(
                    lennard_jones(),
                    argon(),
                    Langevin(1.0, 90.0),
                    n_steps=1,
                    guards=[TemperatureGuard(max_temperature_K=kelvin)],
                ),
                "max_temperature_K",
            )
            for kelvin in (0.0, -5.0, float("nan"))
        ),
        (lambda: simulate(lennard_jones(), argon(), Langevin(1.0, 90.0), n_steps=1, skin_A=-1.0), "skin"),
        (
            lambda: simulate(
                lennard_jones(), argon(), Langevin(1.0, 90.0), n_steps=1, initial_temperature_K=-1.0
            ),
            "initial temperature",
        ),
        (
            lambda: simulate(
                lennard_jones(),
                replace(argon(), cell=torch.zeros(1, 3, 3, dtype=torch.float64)),
                Langevin(1.0, 90.0),
                n_steps=1,
            ),
            "cell",
        ),
        (
            lambda: simulate(
                lennard_jones(),
                System.from_ase(ase.Atoms("Ar", [[0, 0, 0]])),
                Langevin(1.0, 90.0),
                n_steps=1,
            ),
            "nothing can move",
        ),
        (
            lambda: simulate(
                lennard_jones(), argon(), Langevin(1.0, 90.0), n_steps=1, path="/nonexistent/a.h5"
            ),
            "no such folder",
        ),
    ],
)
def test_bad_input_is_refused_with_a_sentence(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_velocities_are_kept_drawn_or_zero_as_asked() -> None:
    def start(system: System, integrator: Integrator, kelvin: float | None) -> State:
        return simulate(
            lennard_jones(), system, integrator, n_steps=0, initial_temperature_K=kelvin, status=False
        ).state

    own = replace(argon(), velocities=torch.randn(32, 3, dtype=torch.float64) * 1e-3)
    own = replace(own, velocities=own.velocities - own.velocities.mean(dim=0))
    torch.testing.assert_close(start(own, Langevin(1.0, 90.0), None).velocities, own.velocities)
    assert not start(own, Langevin(1.0, 90.0), 0.0).velocities.any()
    assert start(argon(), Langevin(1.0, 90.0), None).velocities.any()


# ---------------------------------------------------------------- warnings and status


def known_argon() -> LennardJones:
    """Lennard-Jones that says it was trained on a cold, dilute crystal."""
    potential, system = lennard_jones(), argon()
    potential.domain = domain_of(
        system, build_graph(system, neighbors_for(system, potential.request), potential.request)
    )
    return potential


def test_leaving_the_training_domain_is_warned_of_once_and_counted() -> None:
    potential = known_argon()
    system = argon()
    denser = replace(system, positions=0.93 * system.positions, cell=0.93 * system.cell)
    result = simulate(potential, denser, Langevin(4.0, 90.0), n_steps=20, every=5, status=False)
    assert len(result.warnings) == 2
    assert any("density" in sentence for sentence in result.warnings)
    assert any("Ar-Ar distance" in sentence for sentence in result.warnings)
    assert max(result.warning_counts.values()) == 5
    assert simulate(potential, system, Langevin(4.0, 1.0), n_steps=20, every=5, status=False).warnings == []


def test_an_unknown_element_is_refused() -> None:
    neon = replace(argon(), atomic_numbers=torch.full((32,), 10))
    with pytest.raises(UserError, match="never saw the element Ne"):
        simulate(known_argon(), neon, Langevin(1.0, 90.0), n_steps=1, status=False)


def test_status_and_warnings_go_to_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
    system = argon()
    denser = replace(system, positions=0.93 * system.positions, cell=0.93 * system.cell)
    simulate(known_argon(), denser, Langevin(4.0, 90.0), n_steps=20, every=5)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "step 20/20" in shown.err
    assert "ns/day" in shown.err
    assert "density" in shown.err


def test_the_status_counts_replicas_of_all_that_began(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last of three has failed before the restart."""

    class Unlucky:
        every = 1

        def prepare(self, state: State, integrator: Integrator) -> State:
            return state

        def check(self, state: State, integrator: Integrator) -> dict[int, str]:
            return {2: "no luck"} if state.step and len(state.streams) == 3 else {}

    run: dict[str, Any] = {"potential": lennard_jones(), "system": batch([argon(1)] * 3)}
    run |= {"integrator": VelocityVerlet(4.0), "path": tmp_path / "a.h5", "guards": [Unlucky()], **SETTINGS}
    simulate(n_steps=5, **run)
    simulate(n_steps=10, resume=True, **{**run, "status": True})
    assert "2 of 3 replicas" in capfd.readouterr().err


def test_the_live_status_shows_step_time_temperature_energy_speed_and_time_left() -> None:
    console = Console(force_terminal=True, width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    integrator = Langevin(4.0, 90.0)
    status = StatusReporter(integrator, 10, console=console, seconds=0.0)
    simulate(lennard_jones(), argon(), integrator, n_steps=10, status=False, reporters=[status])
    text = console.export_text()
    for word in ("step 10/10", "0.040 ps", " K ", " eV ", "ns/day", "left"):
        assert word in text
    console.file.close()


def test_the_result_tells_speed_temperature_and_net_force() -> None:
    result = simulate(lennard_jones(), argon(), Langevin(4.0, 90.0, 20.0), n_steps=300, status=False)
    assert result.n_steps == 300
    assert result.ns_per_day == pytest.approx(300 * 4e-6 / result.wall_s * 86400)
    assert 60.0 < result.mean_temperature_K < 110.0
    assert result.mean_net_force_eV_per_A < 1e-12
    assert result.path is None


class Nothing(Potential):
    """No forces, for next to no time."""

    def __init__(self) -> None:
        super().__init__()
        self.request = lennard_jones().request

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        return Prediction(forces=torch.zeros_like(system.positions), conservative=False)


def test_the_loop_costs_little_beside_the_smallest_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against as many evaluations of a pair potential in its plain form, on the same machine and in turn."""
    monkeypatch.setattr("kinetograph.models.classical.library", lambda: None)
    system, potential = argon(4), lennard_jones()
    neighbors = neighbors_for(system, potential.request, skin=1.0)

    def seconds_of_the_loop() -> float:
        started = time.process_time()
        simulate(
            Nothing(), system, NoseHoover(1.0, 90.0), n_steps=100, initial_temperature_K=0.0, status=False
        )
        return time.process_time() - started

    def seconds_of_the_forces() -> float:
        started = time.process_time()
        for _ in range(100):
            potential(system, neighbors)
        return time.process_time() - started

    # the least of several in turn: what else the machine does can only add
    loop, forces = [], []
    for _ in range(5):
        loop.append(seconds_of_the_loop())
        forces.append(seconds_of_the_forces())
    assert min(loop) < min(forces)


def test_frames_hold_stress_and_pressure_of_what_is_periodic(tmp_path: Path) -> None:
    """The pressure is that of the frame's own velocities and stress: (2K + W)/(3V)."""
    from kinetograph import units

    simulate(lennard_jones(), argon(), VelocityVerlet(4.0), n_steps=10, path=tmp_path / "a.h5", **SETTINGS)
    with Trajectory.open(tmp_path / "a.h5") as trajectory:
        values = trajectory.observables
        atoms = trajectory.frame(-1)
        virial = -atoms.get_stress(voigt=False).trace() * atoms.get_volume()
        inner = (2.0 * values["kinetic_energy_eV"][-1] + virial) / (3.0 * atoms.get_volume())
        assert values["pressure_bar"][-1] == pytest.approx(inner * units.EV_PER_A3_IN_BAR, rel=1e-9)
    cluster = argon().to_ase()[0]
    cluster.pbc = False
    simulate(
        lennard_jones(),
        System.from_ase(cluster),
        VelocityVerlet(4.0),
        n_steps=5,
        path=tmp_path / "b.h5",
        **SETTINGS,
    )
    with Trajectory.open(tmp_path / "b.h5") as trajectory:
        assert "pressure_bar" not in trajectory.observables


def test_a_guard_that_is_switched_on_when_resuming_watches_from_then_on(tmp_path: Path) -> None:
    run: dict[str, Any] = {
        "system": argon(),
        "integrator": VelocityVerlet(4.0),
        "path": tmp_path / "a.h5",
        **SETTINGS,
    }
    simulate(lennard_jones(), n_steps=10, guards=[], **run)
    hot = [TemperatureGuard(), TemperatureGuard(max_temperature_K=1.0)]
    with pytest.raises(SimulationFailed, match="above the limit of 1 K"):
        simulate(lennard_jones(), n_steps=20, guards=hot, resume=True, **run)


def test_an_overwriting_run_takes_out_the_replicas_of_the_earlier_one(tmp_path: Path) -> None:
    run: dict[str, Any] = {"n_steps": 5, "path": tmp_path / "a.h5", **SETTINGS}
    simulate(lennard_jones(), batch([argon(1)] * 4), VelocityVerlet(4.0), **run)
    (tmp_path / "a-3.failed.extxyz").write_text("old")
    (tmp_path / "a-b.h5").write_text("somebody else's")
    simulate(lennard_jones(), batch([argon(1)] * 2), VelocityVerlet(4.0), overwrite=True, **run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-0.h5", "a-1.h5", "a-b.h5", "a.restart"]


def test_settings_may_be_numpy_numbers_and_the_drift_is_told_without_its_guard(tmp_path: Path) -> None:
    two = batch([argon(1), argon(1)])
    integrator = Langevin(4.0, np.array([60.0, 90.0]))
    result = simulate(lennard_jones(), two, integrator, n_steps=3, seed=np.int64(3), guards=[], status=False)
    assert result.drift_K is not None
    assert [stream.seed for stream in result.state.streams] == [3, 3]
