"""Batches of replicas: each with a fate of its own, and none that another's changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk

from kinetograph.dynamics import (
    Integrator,
    Langevin,
    NoseHoover,
    SimulationFailed,
    State,
    TemperatureGuard,
    VelocityVerlet,
    simulate,
    trajectory_paths,
)
from kinetograph.dynamics.noise import Stream
from kinetograph.errors import UserError
from kinetograph.models import build
from kinetograph.models.classical import LennardJones
from kinetograph.potential import Potential
from kinetograph.system import System, batch
from kinetograph.trajectory import Trajectory

KELVIN = [60.0, 90.0, 120.0, 150.0]
INTEGRATORS = {
    "verlet": lambda kelvin: VelocityVerlet(4.0),
    "langevin": lambda kelvin: Langevin(4.0, kelvin, friction_per_ps=2.0),
    "nose-hoover": lambda kelvin: NoseHoover(4.0, kelvin),
    "massive": lambda kelvin: NoseHoover(4.0, kelvin, massive=True),
}


def lennard_jones() -> LennardJones:
    return LennardJones(epsilon=0.0103, sigma=3.4, cutoff=5.6, truncation="switch", switch_start=4.5)


def fluids() -> System:
    """Four boxes of argon of different sizes, at different temperatures."""
    parts = []
    for index, (n_side, kelvin) in enumerate(zip((2, 1, 2, 1), KELVIN, strict=True)):
        atoms = bulk("Ar", "fcc", 5.6, cubic=True) * n_side
        atoms.rattle(0.1, seed=index)
        system = System.from_ase(atoms)
        noise = np.random.default_rng(index).standard_normal(system.positions.shape)
        parts.append(replace(system, velocities=torch.as_tensor(noise * 1e-3 * (kelvin / 50.0) ** 0.5)))
    return batch(parts)


@dataclass(frozen=True)
class Unlucky:
    """A guard that stops one replica at a step."""

    replica: int
    step: int
    every: int = 1

    def prepare(self, state: State, integrator: Integrator) -> State:
        return state

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        replicas = [stream.replica for stream in state.streams]
        if state.step < self.step or self.replica not in replicas:
            return {}
        return {replicas.index(self.replica): "it had no luck"}


def network() -> Potential:
    """A small random model in double precision; its forces are of argon's size."""
    torch.manual_seed(3)
    model = build("painn", [18], {"cutoff": 5.0, "forces": "conservative", "width": 16, "n_layers": 2})
    model.force_scale.fill_(0.02)
    return model.double().eval()


@pytest.mark.parametrize("name", INTEGRATORS)
@pytest.mark.parametrize("potential", [lennard_jones(), network()], ids=["classical", "learned"])
def test_a_replica_that_fails_changes_no_other_to_the_bit(
    tmp_path: Path, name: str, potential: Potential
) -> None:
    settings: dict[str, Any] = {"every": 5, "status": False}
    integrator: Integrator = INTEGRATORS[name](KELVIN)
    run = simulate(
        potential,
        fluids(),
        integrator,
        n_steps=40,
        path=tmp_path / "hot.h5",
        guards=[Unlucky(2, 12)],
        **settings,
    )
    (failure,) = run.failures
    assert (failure.replica, failure.step, failure.reason) == (2, 12, "it had no luck")
    assert [stream.replica for stream in run.state.streams] == [0, 1, 3]
    well = simulate(
        potential, fluids(), integrator, n_steps=40, path=tmp_path / "well.h5", guards=[], **settings
    )
    assert well.failures == []
    hot_paths, well_paths = (trajectory_paths(tmp_path / f"{kind}.h5", 4) for kind in ("hot", "well"))
    for index in (0, 1, 3):
        with Trajectory.open(hot_paths[index]) as a, Trajectory.open(well_paths[index]) as b:
            assert a.n_frames == b.n_frames == 9
            np.testing.assert_array_equal(a.positions(), b.positions())
            for key, values in a.observables.items():
                np.testing.assert_array_equal(values, b.observables[key])
    rest = torch.isin(well.state.system.system_index, torch.tensor([0, 1, 3]))
    assert torch.equal(run.state.velocities, well.state.velocities[rest])
    assert (tmp_path / "hot-2.failed.extxyz").is_file()
    assert run.temperatures_K[0] == well.temperatures_K[0]


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_replica_of_a_batch_is_the_structure_alone_to_the_bit(name: str) -> None:
    """Alone with the same stream of random numbers."""
    potential, system = lennard_jones(), fluids()
    together = INTEGRATORS[name](KELVIN).init(system, potential, 7)
    own = system.system_index == 2
    single = System.from_ase(system.to_ase()[2])
    assert system.velocities is not None
    single = replace(single, positions=system.positions[own], velocities=system.velocities[own])
    integrator = INTEGRATORS[name](KELVIN[2])
    alone = replace(integrator.init(single, potential, 7), streams=(Stream(7, 2),))
    whole = INTEGRATORS[name](KELVIN)
    for _ in range(20):
        together, alone = whole.step(together, potential), integrator.step(alone, potential)
    assert torch.equal(together.positions[own], alone.positions)
    assert torch.equal(together.velocities[own], alone.velocities)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_batch_that_lost_a_replica_is_resumed_to_the_bit(tmp_path: Path, name: str) -> None:
    integrator, system = INTEGRATORS[name](KELVIN), fluids()
    settings: dict[str, Any] = {"every": 5, "status": False, "guards": [Unlucky(0, 20)], "seed": 4}
    whole = simulate(lennard_jones(), system, integrator, n_steps=60, path=tmp_path / "a.h5", **settings)
    simulate(lennard_jones(), system, integrator, n_steps=33, path=tmp_path / "b.h5", **settings)
    part = simulate(
        lennard_jones(), system, integrator, n_steps=60, path=tmp_path / "b.h5", resume=True, **settings
    )
    assert torch.equal(whole.state.positions, part.state.positions)
    assert [f.replica for f in part.failures] == [f.replica for f in whole.failures] == [0]
    for a, b in zip(*(trajectory_paths(tmp_path / f"{x}.h5", 4)[1:] for x in "ab"), strict=True):
        with Trajectory.open(a) as first, Trajectory.open(b) as second:
            np.testing.assert_array_equal(first.steps, second.steps)
            np.testing.assert_array_equal(first.velocities(), second.velocities())


def test_a_structure_that_the_model_refuses_leaves_alone() -> None:
    """Two atoms of it are shot at each other; the others have no part in that."""
    system = fluids()
    own = torch.nonzero(system.system_index == 1)[:, 0]
    assert system.velocities is not None
    velocities = system.velocities.clone()
    line = system.positions[own[1]] - system.positions[own[0]]
    velocities[own[0]] = line / 4.0  # it arrives in one step
    velocities[own[1]] = 0.0
    integrator = VelocityVerlet(4.0, remove_com=False)

    class Free(LennardJones):
        """No forces: atoms pass."""

        def pair_energy(self, distances: torch.Tensor) -> torch.Tensor:
            return 0.0 * super().pair_energy(distances)

    free = Free(epsilon=0.0103, sigma=3.4, cutoff=5.6, truncation="switch", switch_start=4.5)
    run = simulate(
        free, replace(system, velocities=velocities), integrator, n_steps=3, status=False, guards=[]
    )
    assert [failure.replica for failure in run.failures] == [1]
    assert "in one place" in run.failures[0].reason
    assert run.state.step == 3


def test_when_all_fail_the_run_fails() -> None:
    guards = [TemperatureGuard(max_temperature_K=1.0)]
    with pytest.raises(UserError, match="the start is refused"):
        simulate(lennard_jones(), fluids(), VelocityVerlet(4.0), n_steps=3, status=False, guards=guards)
    system = fluids()
    assert system.velocities is not None
    at_rest = replace(system, velocities=0.0 * system.velocities)
    with pytest.raises(SimulationFailed, match="replica 3 went wrong at step"):
        simulate(lennard_jones(), at_rest, VelocityVerlet(4.0), n_steps=300, status=False, guards=guards)


def test_seeds_and_settings_are_one_or_one_for_each() -> None:
    run: dict[str, Any] = {"n_steps": 2, "status": False}
    result = simulate(lennard_jones(), fluids(), Langevin(4.0, KELVIN), seed=[5, 6, 7, 8], **run)
    assert [stream.seed for stream in result.state.streams] == [5, 6, 7, 8]
    with pytest.raises(UserError, match="3 seeds for 4 structures"):
        simulate(lennard_jones(), fluids(), Langevin(4.0, KELVIN), seed=[5, 6, 7], **run)
    with pytest.raises(UserError, match="2 values of temperature_K for 4 structures"):
        simulate(lennard_jones(), fluids(), Langevin(4.0, [1.0, 2.0]), **run)
