"""Nosé–Hoover chains: the conserved quantity and the canonical distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from kinetograph import units
from kinetograph.dynamics import NoseHoover
from kinetograph.dynamics.nose_hoover import YOSHIDA_SUZUKI, propagate_chain
from kinetograph.dynamics.velocities import kinetic_energy
from kinetograph.system import System


@pytest.mark.parametrize("massive", [False, True])
def test_the_conserved_quantity_errs_as_the_square_of_the_time_step(fluid, massive: bool) -> None:
    potential, system = fluid.potential(1.6), fluid.system(2)
    steps, errors = np.array([2.0, 4.0, 8.0]), []
    for timestep in steps:
        integrator = NoseHoover(timestep, 120.0, massive=massive)
        state = integrator.init(system, potential, 0)
        first, squares, energies = integrator.conserved_quantity(state).item(), [], []
        for _ in range(round(800 / timestep)):
            state = integrator.step(state, potential)
            squares.append((integrator.conserved_quantity(state).item() - first) ** 2)
            energies.append(state.prediction.energy.item() + kinetic_energy(state.system).item())
        errors.append(np.sqrt(np.mean(squares)))
        assert errors[-1] < 0.02 * np.ptp(energies)  # energy is exchanged, its account is kept
    assert abs(np.polyfit(np.log(steps), np.log(errors), 1)[0] - 2.0) < 0.15


@pytest.mark.parametrize("factors", [1, 3, 5, 7])
def test_the_factors_of_the_chain_sum_to_one_and_higher_orders_are_more_exact(factors: int) -> None:
    assert sum(YOSHIDA_SUZUKI[factors]) == pytest.approx(1.0, abs=1e-12)

    def chain(times: list[float]) -> np.ndarray:
        scale, xi, v = propagate_chain(
            2.0, [0.0, 0.0], [0.02, -0.01], 1.0, 3.0, [3.0 * 400.0, 400.0], times, np.exp
        )
        return np.array([scale, *xi, *v])

    exact = chain([4.0 / 4096] * 4096)
    error = np.abs(chain([4.0 * w for w in YOSHIDA_SUZUKI[factors]]) - exact).max()
    halved = np.abs(chain([2.0 * w for w in YOSHIDA_SUZUKI[factors]] * 2) - exact).max()
    order = {1: 2, 3: 4, 5: 4, 7: 6}[factors]
    if halved > 1e-11:  # below, the reference itself is no better
        assert np.log2(error / halved) == pytest.approx(order, abs=0.5)
    assert error < {1: 2e-3, 3: 2e-4, 5: 1e-5, 7: 1e-6}[factors]


@pytest.mark.parametrize("massive", [False, True])
def test_kinetic_energy_has_the_canonical_distribution(fluid, massive: bool) -> None:
    """χ² with 3N − 3 degrees of freedom. Samples 240 fs apart, 48 structures: nearly independent."""
    n_copies, timestep = 16, 6.0
    potential = fluid.potential(1.6)
    temperatures = [90.0, 180.0] * (n_copies // 2)
    integrator = NoseHoover(timestep, temperatures, time_constant_fs=60.0, massive=massive, yoshida_suzuki=1)
    state = integrator.init(fluid.system(2, n_copies=n_copies), potential, 0)
    samples = []
    for step in range(1600):
        state = integrator.step(state, potential)
        if step >= 400 and step % 40 == 0:
            kt = units.BOLTZMANN_EV_PER_K * torch.tensor(temperatures)
            samples.append((2.0 * kinetic_energy(state.system) / kt).numpy())
    values = np.concatenate(samples)
    degrees = 3 * 32 - 3
    n = len(values)
    # Four standard errors of independent samples; what correlation is left widens that of the variance.
    assert abs(values.mean() - degrees) < 4.0 * np.sqrt(2.0 * degrees / n)
    assert abs(values.var() / (2.0 * degrees) - 1.0) < 4.0 * np.sqrt(2.0 / n) * 1.3
    assert scipy.stats.kstest(values, "chi2", args=(degrees,)).pvalue > 1e-3
    # 3N degrees would be told apart: their mean is 3 away
    assert abs(values.mean() - degrees) < 1.5


@pytest.mark.parametrize("massive", [False, True])
def test_total_momentum_stays_zero(fluid, massive: bool) -> None:
    system = fluid.system(2)
    system = replace(system, masses=torch.linspace(10.0, 90.0, system.n_atoms, dtype=torch.float64))
    potential, integrator = fluid.potential(1.6), NoseHoover(4.0, 120.0, massive=massive)
    state = integrator.init(system, potential, 0)
    for _ in range(100):
        state = integrator.step(state, potential)
    assert (state.inertia.mass * state.velocities).sum(dim=0).abs().max() < 1e-11


def test_massive_chains_hold_every_degree_of_freedom_once(fluid) -> None:
    system = fluid.system(2, n_copies=2)
    fixed = torch.zeros(system.n_atoms, dtype=torch.bool)
    fixed[:4] = True
    integrator, potential = NoseHoover(4.0, 120.0, massive=True), fluid.potential(1.6)
    state = integrator.step(integrator.init(replace(system, fixed=fixed), potential, 0), potential)
    n_chains = int((state.of_atoms["chain_velocities"] != 0).all(dim=2).sum())
    assert n_chains == 3 * 28 + (3 * 32 - 3) == int(state.inertia.degrees.sum())


def test_chains_of_a_batch_are_those_of_its_structures(fluid) -> None:
    potential, integrator = fluid.potential(1.6), NoseHoover(4.0, 120.0)
    together = integrator.init(fluid.system(2, n_copies=2), potential, 0)
    singles = [integrator.init(System.from_ase(a), potential, 0) for a in together.system.to_ase()]
    for _ in range(30):
        together = integrator.step(together, potential)
        singles = [integrator.step(state, potential) for state in singles]
    for index, alone in enumerate(singles):
        mask = together.system.system_index == index
        torch.testing.assert_close(alone.positions, together.positions[mask], rtol=0, atol=1e-10)
        torch.testing.assert_close(
            alone.of_systems["chain_velocities"][0],
            together.of_systems["chain_velocities"][index],
            rtol=1e-8,
            atol=0,
        )
