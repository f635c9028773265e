"""Stochastic velocity rescaling against closed forms, then in the fluid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from kinetograph import units
from kinetograph.dynamics.bussi import Bussi, rescaling_factor
from kinetograph.dynamics.state import total_energy
from kinetograph.dynamics.velocities import inertia_of, maxwell_boltzmann
from kinetograph.graph import GraphRequest
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System

KELVIN = 300.0


class NoForces(Potential):
    def __init__(self) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=0.1)

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        energy = system.positions.new_zeros(system.n_systems)
        return Prediction(forces=torch.zeros_like(system.positions), conservative=True, energy=energy)


def particles(n_systems: int, n_atoms: int) -> System:
    n = n_systems * n_atoms
    return System(
        positions=1000.0 * torch.arange(3.0 * n, dtype=torch.float64).reshape(n, 3),
        atomic_numbers=torch.full((n,), 18),
        masses=torch.full((n,), 40.0, dtype=torch.float64),
        cell=torch.zeros(n_systems, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(n_systems, 3, dtype=torch.bool),
        system_index=torch.arange(n_systems).repeat_interleave(n_atoms),
    )


@pytest.mark.parametrize("degrees", [1, 2, 7])
def test_one_move_is_that_of_all_velocities_in_a_bath(degrees: int) -> None:
    """K is that of N_f components that each follow v ← c^½ v + (1 − c)^½ (kT/m)^½ R: a noncentral χ².

    The factor is negative as often as the component along the old velocities changes its sign.
    """
    n, decay, kinetic = 20000, 0.6, 0.7  # kT = 1
    rng = np.random.default_rng(degrees)
    one = torch.ones(n, dtype=torch.float64)
    normal = torch.from_numpy(rng.standard_normal(n))
    squares = torch.from_numpy((rng.standard_normal((n, degrees - 1)) ** 2).sum(axis=1))
    factor = rescaling_factor(kinetic * one, 0.5 * one, decay, normal, squares).numpy()
    new = 2.0 * kinetic * factor**2 / (1.0 - decay)
    away = 2.0 * kinetic * decay / (1.0 - decay)
    assert scipy.stats.kstest(new, "ncx2", args=(degrees, away)).pvalue > 1e-3
    turned = scipy.stats.norm.cdf(-np.sqrt(away))
    assert abs((factor < 0).mean() - turned) < 4.0 * np.sqrt(turned / n)


def test_what_is_at_rest_stays_there() -> None:
    nothing = torch.zeros(2, dtype=torch.float64)
    factor = rescaling_factor(nothing, nothing + 1.0, 0.5, nothing + 1.0, nothing + 3.0)
    assert torch.equal(factor, torch.ones_like(factor))


def test_kinetic_energy_forgets_where_it_was_within_the_time_constant() -> None:
    """⟨δK(t) δK(0)⟩ = ⟨δK²⟩ e^(−t/τ) without forces; the distribution is χ², at a temperature for each."""
    n_systems, n_atoms = 60, 3
    system = particles(n_systems, n_atoms)
    kelvin = np.where(np.arange(n_systems) % 2, 400.0, 200.0)
    inertia = inertia_of(system, remove_com=True)
    velocities = maxwell_boltzmann(system, torch.from_numpy(kelvin), 1, inertia)
    integrator = Bussi(5.0, kelvin.tolist(), time_constant_fs=20.0)
    state = integrator.init(replace(system, velocities=velocities), NoForces(), 2, skin_A=400.0)
    samples = []
    for _ in range(400):
        state = integrator.step(state, NoForces())
        samples.append(2.0 * state.kinetic_energy.numpy() / (units.BOLTZMANN_EV_PER_K * kelvin))
    values, degrees = np.array(samples), 3 * n_atoms - 3
    away = values - degrees
    variance = (away**2).mean()
    effective = values.size / 8.0  # (1 + c)/(1 − c) with c = e^(−5/20)
    assert abs(variance / (2.0 * degrees) - 1.0) < 4.0 * np.sqrt((2.0 + 12.0 / degrees) / effective)
    for steps in (2, 4, 8):
        correlation = (away[steps:] * away[:-steps]).mean() / variance
        assert abs(correlation - np.exp(-5.0 * steps / 20.0)) < 4.0 / np.sqrt(effective)
    independent = values[::16].ravel()
    assert scipy.stats.kstest(independent, "chi2", args=(degrees,)).pvalue > 1e-3


def test_kinetic_energy_of_the_fluid_has_the_canonical_distribution_and_heat_is_accounted(fluid) -> None:
    """χ² with 3N − 3 degrees of freedom, samples two time constants apart, in 12 structures."""
    n_copies = 12
    potential = fluid.potential(1.6)
    integrator = Bussi(4.0, 120.0, time_constant_fs=50.0)
    state = integrator.init(fluid.system(2, n_copies=n_copies), potential, 0)
    conserved, energy, samples = [], [], []
    for step in range(800):
        state = integrator.step(state, potential)
        if step >= 100:
            conserved.append(integrator.conserved_quantity(state).mean().item())
            energy.append(total_energy(state).mean().item())
            if step % 25 == 0:
                samples.append(2.0 * state.kinetic_energy.numpy() / (units.BOLTZMANN_EV_PER_K * 120.0))
    values, degrees = np.concatenate(samples), 3 * 32 - 3
    n = len(values) / 2.0  # potential energy returns what the bath took: correlated for longer than τ
    assert abs(values.mean() - degrees) < 4.0 * np.sqrt(2.0 * degrees / n)
    assert abs(values.var() / (2.0 * degrees) - 1.0) < 4.0 * np.sqrt(2.0 / n)
    assert scipy.stats.kstest(values, "chi2", args=(degrees,)).pvalue > 1e-3
    assert np.std(conserved) < 0.05 * np.std(energy)
    momentum = torch.zeros(n_copies, 3, dtype=torch.float64).index_add(
        0, state.system.system_index, state.inertia.mass * state.velocities
    )
    assert momentum.abs().max() < 1e-11


def test_a_structure_moves_as_it_would_alone(fluid) -> None:
    potential, integrator = fluid.potential(1.6), Bussi(4.0, 120.0)
    together = integrator.init(fluid.system(2, n_copies=3), potential, [5, 5, 5])
    singles = []
    for index, atoms in enumerate(together.system.to_ase()):
        alone = integrator.init(System.from_ase(atoms), potential, 5)
        singles.append(replace(alone, streams=(together.streams[index],)))
    for _ in range(20):
        together = integrator.step(together, potential)
        singles = [integrator.step(state, potential) for state in singles]
    assert len(set(together.of_systems["heat"].tolist())) == 3
    for index, alone in enumerate(singles):
        mask = together.system.system_index == index
        torch.testing.assert_close(alone.positions, together.positions[mask], rtol=0, atol=1e-10)
        torch.testing.assert_close(alone.velocities, together.velocities[mask], rtol=0, atol=1e-12)
