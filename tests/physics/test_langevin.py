"""BAOAB against closed forms: harmonic wells and free particles; then the fluid."""

from __future__ import annotations

import numpy as np
import scipy.stats
import torch

from kinetograph import units
from kinetograph.dynamics import Langevin
from kinetograph.dynamics.state import total_energy
from kinetograph.dynamics.velocities import kinetic_energy
from kinetograph.graph import GraphRequest
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System

MASS = 40.0
N_SIDE = 11
N = N_SIDE**3


class Wells(Potential):
    """Each atom in a harmonic well around its own site: ½ k (r − r₀)²."""

    def __init__(self, sites: torch.Tensor, stiffness: float) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=1.0)
        self.sites = sites
        self.stiffness = stiffness

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        away = system.positions - self.sites
        energy = 0.5 * self.stiffness * away.square().sum().reshape(1)
        return Prediction(forces=-self.stiffness * away, conservative=True, energy=energy)


def particles() -> System:
    """Atoms 1000 Å apart: they never meet."""
    axis = 1000.0 * torch.arange(N_SIDE, dtype=torch.float64)
    positions = torch.cartesian_prod(axis, axis, axis)
    return System(
        positions=positions,
        atomic_numbers=torch.full((N,), 18),
        masses=torch.full((N,), MASS, dtype=torch.float64),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        system_index=torch.zeros(N, dtype=torch.int64),
    )


def test_variances_in_a_harmonic_well_are_the_closed_forms_at_a_large_time_step() -> None:
    """Positions: kT/k at any step; velocities: kT/m (1 − (ωΔt/2)²) (Leimkuhler and Matthews 2013)."""
    system, kelvin = particles(), 300.0
    timestep, omega_dt = 10.0, 1.0
    stiffness = MASS * units.AMU_A2_PER_FS2_IN_EV * (omega_dt / timestep) ** 2
    potential = Wells(system.positions, stiffness)
    integrator = Langevin(timestep, kelvin, friction_per_ps=30.0, remove_com=False)
    state = integrator.init(system, potential, 1, skin_A=400.0)
    away, speed = [], []
    for step in range(700):
        state = integrator.step(state, potential)
        if step >= 200 and step % 20 == 0:  # 6 relaxation times apart at γ Δt = 0.3
            away.append((state.positions - potential.sites).square().mean().item())
            speed.append(state.velocities.square().mean().item())
    kt = units.BOLTZMANN_EV_PER_K * kelvin
    error = 4.0 * np.sqrt(2.0 / (3 * N * len(away)))  # four standard errors: 1.7 %
    assert abs(np.mean(away) / (kt / stiffness) - 1.0) < error
    velocity = kt / (MASS * units.AMU_A2_PER_FS2_IN_EV)
    assert abs(np.mean(speed) / (velocity * (1.0 - 0.25 * omega_dt**2)) - 1.0) < error


def test_free_particles_diffuse_and_forget_their_velocity_as_they_must() -> None:
    """⟨v(t)v(0)⟩ = kT/m e^(−γt); MSD with the trapezoid of A: exact below for the splitting."""
    system, kelvin, timestep, friction = particles(), 300.0, 20.0, 10.0
    potential = Wells(system.positions, 0.0)
    integrator = Langevin(timestep, kelvin, friction_per_ps=friction, remove_com=False)
    state = integrator.init(system, potential, 2, skin_A=400.0)
    for _ in range(60):  # twelve relaxation times
        state = integrator.step(state, potential)
    first, n_steps = state, 40
    for _ in range(n_steps):
        state = integrator.step(state, potential)
    kt_over_m = units.BOLTZMANN_EV_PER_K * kelvin / (MASS * units.AMU_A2_PER_FS2_IN_EV)
    decay = np.exp(-friction * 1e-3 * timestep)
    correlation = (state.velocities * first.velocities).mean().item() / kt_over_m
    assert abs(correlation - decay**n_steps) < 4.0 / np.sqrt(3 * N)
    assert abs(state.velocities.square().mean().item() / kt_over_m - 1.0) < 4.0 * np.sqrt(2.0 / (3 * N))
    # r(n) − r(0) = Δt/2 Σ (v_k + v_(k+1)): its variance from the exact correlations of v
    k = np.arange(n_steps + 1)
    weights = np.ones(n_steps + 1)
    weights[[0, -1]] = 0.5
    expected = timestep**2 * kt_over_m * weights @ decay ** np.abs(k[:, None] - k) @ weights
    msd = (state.positions - first.positions).square().mean().item()
    assert abs(msd / expected - 1.0) < 4.0 * np.sqrt(2.0 / (3 * N))


def test_kinetic_energy_of_the_fluid_has_the_canonical_distribution_and_heat_is_accounted(fluid) -> None:
    """χ² with 3N − 3 degrees of freedom, samples two relaxation times apart, in 16 structures."""
    n_copies = 16
    potential = fluid.potential(1.6)
    integrator = Langevin(4.0, 120.0, friction_per_ps=8.0)
    state = integrator.init(fluid.system(2, n_copies=n_copies), potential, 0)
    conserved, energy, samples = [], [], []
    for step in range(1500):
        state = integrator.step(state, potential)
        if step >= 200:
            conserved.append(integrator.conserved_quantity(state).mean().item())
            energy.append(total_energy(state).mean().item())
            if step % 50 == 0:
                kinetic = kinetic_energy(state.system).numpy()
                samples.append(2.0 * kinetic / (units.BOLTZMANN_EV_PER_K * 120.0))
    values, degrees = np.concatenate(samples), 3 * 32 - 3
    n = len(values)
    # BAOAB's kinetic energy is low by O(Δt²): (ωΔt/2)²/… ≈ 0.1 % at 4 fs, inside the tolerance
    assert abs(values.mean() - degrees) < 4.0 * np.sqrt(2.0 * degrees / n)
    assert abs(values.var() / (2.0 * degrees) - 1.0) < 4.0 * np.sqrt(2.0 / n) * 1.2
    assert scipy.stats.kstest(values, "chi2", args=(degrees,)).pvalue > 1e-3
    assert np.std(conserved) < 0.1 * np.std(energy)
    momentum = torch.zeros(n_copies, 3, dtype=torch.float64).index_add(
        0, state.system.system_index, state.inertia.mass * state.velocities
    )
    assert momentum.abs().max() < 1e-11


def test_each_structure_and_each_step_has_noise_of_its_own(fluid) -> None:
    """A structure's noise does not depend on what else is in the batch after it."""
    potential, integrator = fluid.potential(1.6), Langevin(4.0, 120.0)
    two, one = fluid.system(2, n_copies=2), fluid.system(2)
    in_two = integrator.step(integrator.init(two, potential, 5), potential)
    alone = integrator.step(integrator.init(one, potential, 5), potential)
    first = two.system_index == 0
    torch.testing.assert_close(in_two.velocities[first], alone.velocities, rtol=0, atol=1e-12)
    other_seed = integrator.step(integrator.init(one, potential, 6), potential)
    assert (other_seed.velocities != alone.velocities).all()
