"""Atoms that cross the cell again and again: lists with a skin, and positions that are not wrapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kinetograph import units
from kinetograph.dynamics import State, VelocityVerlet
from kinetograph.dynamics.simulate import simulate
from kinetograph.graph import neighbors_for
from kinetograph.potential import Potential
from kinetograph.trajectory import Trajectory
from kinetograph.trajectory.wrapping import wrapping


class Watch:
    """Looks at every step, and now and then at the forces."""

    every = 1

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.n_lists = 0
        self.longest_A = 0.0
        """The longest way along an axis that an atom went in one step."""
        self.n_compared = 0
        self._last: State | None = None

    def report(self, state: State) -> None:
        if self._last is not None:
            self.n_lists += state.neighbors is not self._last.neighbors
            self.longest_A = max(self.longest_A, float((state.positions - self._last.positions).abs().max()))
        self._last = state
        if state.step % 100 == 0:
            self.compare(state)

    def compare(self, state: State) -> None:
        """The state's energy and forces with those of fresh lists without skin, out of the cell and in it."""
        edge = state.system.cell[0, 0, 0]
        for positions in (state.positions, state.positions.remainder(edge)):
            there = replace(state.system, positions=positions)
            fresh = self.potential(there, neighbors_for(there, self.potential.request))
            # Rounding of coordinates of 1e2 Å (1e-14 Å) times a stiffness of some 10 eV/Å².
            torch.testing.assert_close(fresh.energy, state.prediction.energy, rtol=0, atol=1e-9)
            torch.testing.assert_close(fresh.forces, state.prediction.forces, rtol=0, atol=1e-9)
        self.n_compared += 1

    def close(self) -> None:
        pass


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fluid_that_crosses_its_cell_for_1e5_steps_has_the_forces_of_a_fresh_list(
    fluid, tmp_path: Path
) -> None:
    """32 hot atoms for 400 ps at constant energy."""
    n_steps, timestep, every, path = 100_000, 4.0, 25, tmp_path / "run.h5"
    potential, system = fluid.potential(1.6), fluid.system(2, temperature_K=1000.0)
    watch, edge = Watch(potential), float(system.cell[0, 0, 0])
    result = simulate(
        potential,
        system,
        VelocityVerlet(timestep),
        n_steps=n_steps,
        path=path,
        every=every,
        skin_A=0.8,
        reporters=[watch],
        status=False,
    )
    assert watch.n_compared == n_steps // 100 + 1
    # Ten times the thermal velocity of argon at 1000 K makes 0.18 Å a step; the cell is 12 Å wide.
    assert watch.longest_A < 0.2
    assert 1000 < watch.n_lists < n_steps / 4  # lists were renewed, and used for several steps

    with Trajectory.open(path) as trajectory:
        positions, seen = trajectory.positions(), trajectory.observables
        inside = np.array([wrapping(trajectory, "atoms")(r, system.cell[0].numpy()) for r in positions])
    assert np.abs(np.diff(positions, axis=0)).max() < 0.5 * edge  # a frame follows the one before it
    assert np.median(np.abs(positions[-1] - positions[0]).max(axis=1)) > 1.5 * edge  # cells were crossed
    # Files hold single precision.
    assert inside.min() > -1e-4
    assert inside.max() < edge + 1e-4
    cells = (positions - inside) / edge
    np.testing.assert_allclose(cells, cells.round(), rtol=0, atol=1e-4)

    total = seen["potential_energy_eV"] + seen["kinetic_energy_eV"]
    kt = units.BOLTZMANN_EV_PER_K * result.mean_temperature_K
    drift = np.polyfit(np.arange(len(total)) * every * timestep / units.PS_IN_FS, total, 1)[0]
    # The energy itself fluctuates by 5e-4 kT an atom, which leaves an error of 1e-7 kT/ps to the slope.
    assert abs(drift) < 5e-7 * kt * system.n_atoms
