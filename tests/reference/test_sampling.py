"""What the frames of a run mean."""

from __future__ import annotations

import numpy as np
import pytest

from kinetograph.reference.openmm_systems import water_bonds, water_box, water_numbers, water_system
from kinetograph.reference.sampling import Material, Sampler
from kinetograph.reference.starts import water_start
from kinetograph.reference.water_density import block_average

pytest.importorskip("openmm")


def water_sampler(*, rigid: bool, timestep_fs: float, platform: str = "CPU") -> Sampler:
    box = water_box(64)
    material = Material(
        name="water",
        system=water_system(64, box, rigid),
        box_A=box,
        atomic_numbers=water_numbers(64),
        bonds=water_bonds(64),
        start=lambda rng: water_start(64, box, rng),
        collisions_per_ps=1.0,
        equilibration_timestep_fs=1.0,
    )
    return Sampler(material, temperature_K=300.0, timestep_fs=timestep_fs, platform=platform)


@pytest.mark.parametrize("rigid", [False, True])
def test_velocities_belong_to_the_time_of_the_positions(rng: np.random.Generator, rigid: bool) -> None:
    """The central difference of the positions is the velocity at their time, not half a step before."""
    timestep_fs = 0.1
    sampler = water_sampler(rigid=rigid, timestep_fs=timestep_fs)
    frames = list(sampler.run(sampler.equilibrate(rng, 0.2), 10, 1))
    for before, now, after in zip(frames, frames[1:], frames[2:], strict=False):
        assert now.velocities is not None
        assert now.forces is not None
        difference = (after.positions - before.positions) / (2 * timestep_fs)
        one_sided = (now.positions - before.positions) / timestep_fs
        error = np.linalg.norm(now.velocities - difference)
        # What is left is of second order in the time step, and the coupling to the thermostat.
        assert error < 0.1 * np.linalg.norm(one_sided - difference)


@pytest.mark.parametrize("rigid", [False, True])
def test_a_run_begins_at_the_phase_it_was_given(rng: np.random.Generator, rigid: bool) -> None:
    sampler = water_sampler(rigid=rigid, timestep_fs=1.0)
    start = sampler.equilibrate(rng, 0.1)
    first = next(sampler.run(start, 1, 1))
    assert first.velocities is not None
    assert np.allclose(first.positions, start.positions, atol=1e-6)
    # Constraints are met to 1e-6 of a bond length on the way in.
    assert np.abs(first.velocities - start.velocities).max() < 1e-5 * np.abs(start.velocities).max()


def test_block_average_gives_the_standard_error_of_independent_samples(rng: np.random.Generator) -> None:
    samples = 3.0 + rng.normal(size=40_000)
    mean, error = block_average(samples, 40)
    assert mean == pytest.approx(3.0, abs=5 / 200)
    # The error of an error from 40 blocks is 1/sqrt(2 * 39) = 11 %.
    assert error == pytest.approx(1 / 200, rel=0.4)
