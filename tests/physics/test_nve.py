"""Laws of constant-energy dynamics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from kinetograph.dynamics import State, VelocityVerlet
from kinetograph.dynamics.state import moving, total_energy
from kinetograph.models.classical import LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Prediction
from kinetograph.system import System


def run(integrator, state: State, potential, n_steps: int) -> State:
    for _ in range(n_steps):
        state = integrator.step(state, potential)
    return state


def energy_error(fluid, timestep_fs: float, duration_fs: float) -> float:
    """Root mean square deviation of the total energy from its start."""
    potential, integrator = fluid.potential(1.6), VelocityVerlet(timestep_fs)
    state = integrator.init(fluid.system(2), potential, 0)
    first = total_energy(state).item()
    squares = []
    for _ in range(round(duration_fs / timestep_fs)):
        state = integrator.step(state, potential)
        squares.append((total_energy(state).item() - first) ** 2)
    return float(np.sqrt(np.mean(squares)))


def test_energy_error_scales_as_the_square_of_the_time_step(fluid) -> None:
    steps = np.array([2.0, 4.0, 8.0])
    errors = [energy_error(fluid, step, 800.0) for step in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - 2.0) < 0.1


def test_dynamics_is_reversible_in_time(fluid) -> None:
    potential, integrator = fluid.potential(1.6), VelocityVerlet(4.0)
    start = integrator.init(fluid.system(2), potential, 0)
    there = run(integrator, start, potential, 150)
    back = run(integrator, moving(there, -there.velocities), potential, 150)
    assert (there.positions - start.positions).abs().max() > 0.3
    # Rounding (1e-16 of 30 Å) grows by e^(λt), λ ≈ 1/ps per Lyapunov time: far below 1e-9 after 1.2 ps.
    torch.testing.assert_close(back.positions, start.positions, rtol=0, atol=1e-9)
    torch.testing.assert_close(-back.velocities, start.velocities, rtol=0, atol=1e-11)


class Pushing(LennardJones):
    """Forces with a net force, as direct models have."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        prediction = super().forward(system, neighbors)
        return replace(prediction, forces=prediction.forces + 0.01)


def test_momentum_is_conserved(fluid) -> None:
    potential, integrator = fluid.potential(1.6), VelocityVerlet(4.0, remove_com=False)
    start = integrator.init(fluid.system(2), potential, 0)
    start = moving(start, start.velocities + 0.003)
    momentum = (start.inertia.mass * start.velocities).sum(dim=0)
    end = run(integrator, start, potential, 100)
    torch.testing.assert_close((end.inertia.mass * end.velocities).sum(dim=0), momentum, rtol=1e-11, atol=0)


def test_a_net_force_moves_nothing_where_the_centre_of_mass_is_held_and_is_measured(fluid) -> None:
    potential = Pushing(
        epsilon=fluid.epsilon, sigma=fluid.sigma, cutoff=5.4, truncation="switch", switch_start=4.5
    ).eval()
    system = fluid.system(2)
    masses = torch.where(torch.arange(system.n_atoms) % 2 == 0, 40.0, 80.0).double()
    system = replace(system, masses=masses)
    integrator = VelocityVerlet(4.0)
    start = integrator.init(system, potential, 0)
    end = run(integrator, start, potential, 100)
    centre = (end.inertia.mass * (end.positions - start.positions)).sum(dim=0) / masses.sum()
    assert centre.abs().max() < 1e-12
    expected = torch.full((1, 3), 0.01 * system.n_atoms, dtype=torch.float64)
    torch.testing.assert_close(end.net_force, expected, rtol=1e-9, atol=0)
    free = VelocityVerlet(4.0, remove_com=False)
    drifted = run(free, free.init(system, potential, 0), potential, 100)
    centre = (end.inertia.mass * (drifted.positions - start.positions)).sum(dim=0) / masses.sum()
    assert centre.abs().min() > 0.1


def test_the_total_energy_does_not_drift(fluid) -> None:
    potential, integrator = fluid.potential(1.6), VelocityVerlet(4.0)
    state = integrator.init(fluid.system(2), potential, 0)
    energies = []
    for _ in range(4000):
        state = integrator.step(state, potential)
        energies.append(total_energy(state).item())
    values = np.array(energies) / state.system.n_atoms
    drift = np.polyfit(np.arange(len(values)) * 0.004, values, 1)[0]  # eV per atom and ps
    # 1e-5 kT per atom and ps; the energy itself fluctuates by more than that within a picosecond
    assert abs(drift) < 1e-5 * 0.0103
    assert values.std() < 0.002 * 0.0103


def test_fixed_atoms_stay_and_the_others_have_three_degrees_each(fluid) -> None:
    system = fluid.system(2)
    fixed = torch.zeros(system.n_atoms, dtype=torch.bool)
    fixed[:5] = True
    potential, integrator = fluid.potential(1.6), VelocityVerlet(4.0)
    start = integrator.init(replace(system, fixed=fixed), potential, 0)
    assert start.inertia.degrees.item() == 3 * (system.n_atoms - 5)
    end = run(integrator, start, potential, 50)
    assert torch.equal(end.positions[:5], start.positions[:5])
    assert (end.positions[5:] != start.positions[5:]).all()
    assert abs(total_energy(end) - total_energy(start)) < 1e-3


def test_a_skinned_list_gives_the_trajectory_of_a_list_rebuilt_at_every_step(fluid) -> None:
    potential, integrator = fluid.potential(1.6), VelocityVerlet(8.0)
    system = fluid.system(2, temperature_K=400.0)
    fresh = skinned = None
    n_lists = 1
    fresh = integrator.init(system, potential, 0, skin_A=0.0)
    skinned = integrator.init(system, potential, 0, skin_A=0.8)
    for _ in range(150):
        fresh = integrator.step(fresh, potential)
        before = skinned.neighbors
        skinned = integrator.step(skinned, potential)
        n_lists += skinned.neighbors is not before
        assert torch.equal(fresh.positions, skinned.positions)
    assert 4 < n_lists < 75  # it was used for more than one step, and it was renewed


def test_a_batch_moves_as_its_structures_do_one_by_one(fluid) -> None:
    potential, integrator = fluid.potential(1.6), VelocityVerlet(4.0)
    together = integrator.init(fluid.system(2, n_copies=2), potential, 0)
    end = run(integrator, together, potential, 30)
    for index in range(2):
        mask = together.system.system_index == index
        (atoms,) = (together.system.to_ase()[index],)
        alone = integrator.init(System.from_ase(atoms), potential, 0)
        alone = run(integrator, alone, potential, 30)
        torch.testing.assert_close(alone.positions, end.positions[mask], rtol=0, atol=1e-11)
