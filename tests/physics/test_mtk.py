"""MTK dynamics: what it conserves, that it can be run backwards, and what it refuses.

What holds for both barostats is in ``test_barostats``, the distributions are in ``test_constant_pressure``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kinetograph import units
from kinetograph.dynamics import TwoForces
from kinetograph.dynamics.state import State, moving
from kinetograph.errors import UserError
from kinetograph.system import System

KT = units.BOLTZMANN_EV_PER_K * 120.0
MODES = ["isotropic", "semi-isotropic", "full"]


def triclinic(fluid) -> System:
    """A fluid in a cell without right angles: nothing is special about its axes."""
    atoms = fluid.atoms(2)
    atoms.set_cell(
        atoms.cell.array @ np.array([[1.0, 0.05, 0.0], [0.1, 1.0, 0.0], [0.05, -0.08, 1.05]]), True
    )
    rng = np.random.default_rng(5)
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(KT * atoms.get_masses())[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return System.from_ase(atoms)


def reversed_in_time(state: State) -> State:
    """All that is a rate with the other sign."""
    kept = state.of_systems
    return moving(state, -state.velocities).keeping(
        cell_rate=-kept["cell_rate"], chain_velocities=-kept["chain_velocities"]
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_conserved_quantity_errs_as_the_square_of_the_time_step(fluid, mode: str) -> None:
    potential, system = fluid.potential(1.6), triclinic(fluid)
    steps, errors = np.array([2.0, 4.0, 8.0]), []
    for timestep in steps:
        integrator = fluid.mtk(timestep, mode=mode)
        state = integrator.init(system, potential, 0)
        first, squares, energies = integrator.conserved_quantity(state).item(), [], []
        for _ in range(round(400 / timestep)):
            state = integrator.step(state, potential)
            squares.append((integrator.conserved_quantity(state).item() - first) ** 2)
            energies.append(state.prediction.energy.item() + state.kinetic_energy.item())
        errors.append(np.sqrt(np.mean(squares)))
        assert errors[-1] < 0.01 * np.ptp(energies)  # energy is exchanged, its account is kept
        assert abs(state.system.volume.item() / system.volume.item() - 1.0) > 0.01
    assert abs(np.polyfit(np.log(steps), np.log(errors), 1)[0] - 2.0) < 0.1


def test_the_conserved_quantity_does_not_drift(fluid) -> None:
    """Eight structures for 3 ps; the energy itself varies by 20 kT."""
    potential, integrator = fluid.potential(1.6), fluid.mtk(6.0, mode="full")
    state = integrator.init(fluid.system(2, n_copies=8), potential, 0)
    conserved = []
    for _ in range(500):
        state = integrator.step(state, potential)
        conserved.append(integrator.conserved_quantity(state).numpy() / KT)
    values = np.array(conserved)
    assert values.std(axis=0).max() < 0.1  # kT
    gain = values[-150:].mean(axis=0) - values[100:250].mean(axis=0)
    assert abs(gain.mean()) < 4.0 * gain.std(ddof=1) / np.sqrt(8) < 0.2


@pytest.mark.parametrize("mode", MODES)
def test_a_run_can_be_reversed(fluid, mode: str) -> None:
    potential, integrator = fluid.potential(1.6), fluid.mtk(mode=mode, yoshida_suzuki=1)
    first = integrator.init(triclinic(fluid), potential, 0)
    state = first
    for _ in range(50):
        state = integrator.step(state, potential)
    assert (state.system.cell - first.system.cell).abs().max() > 0.01
    state = reversed_in_time(state)
    for _ in range(50):
        state = integrator.step(state, potential)
    # Rounding grows by collisions: a thousandfold in 400 fs.
    torch.testing.assert_close(state.positions, first.positions, rtol=0, atol=1e-9)
    torch.testing.assert_close(state.system.cell, first.system.cell, rtol=0, atol=1e-9)
    torch.testing.assert_close(state.velocities, -first.velocities, rtol=0, atol=1e-11)
    assert state.of_systems["cell_rate"].abs().max() < 1e-12


def test_modes_keep_what_they_promise(fluid) -> None:
    potential, system = fluid.potential(1.6), triclinic(fluid)
    for mode in MODES:
        integrator = fluid.mtk(mode=mode)
        state = integrator.init(system, potential, 0)
        for _ in range(20):
            state = integrator.step(state, potential)
        deformation = torch.linalg.solve(system.cell[0], state.system.cell[0])
        diagonal = deformation.diagonal()
        if mode != "full":
            torch.testing.assert_close(deformation, torch.diag(diagonal), rtol=0, atol=1e-12)
            assert abs(diagonal[0] - diagonal[1]) < 1e-12
        assert (abs(diagonal[1] - diagonal[2]) < 1e-12) == (mode == "isotropic")
        rate = state.of_systems["cell_rate"][0]
        torch.testing.assert_close(rate, rate.T, rtol=0, atol=1e-15)


def test_two_forces_conserve_as_well_as_one(fluid) -> None:
    """With a cheap force of shorter reach. The cell damps velocities once, however many kicks there are."""
    outer, system = fluid.potential(1.6), fluid.system(2, n_copies=4)
    errors = []
    for potential in (outer, TwoForces(fluid.inner(), outer, 4)):
        integrator = fluid.mtk(8.0, mode="full", pressure_time_constant_fs=3000.0)
        state = integrator.init(system, potential, 0)
        conserved = []
        for _ in range(60):
            state = integrator.step(state, potential)
            conserved.append(integrator.conserved_quantity(state).numpy() / KT)
        errors.append(np.std(conserved, axis=0).mean())
    assert errors[1] < 0.6 * errors[0] < 0.02


def test_what_it_cannot_do_is_refused(fluid) -> None:
    system = fluid.system(2)
    rigid = replace(system, rigid=torch.tensor([[0, 1]]), rigid_lengths=torch.tensor([3.8]))
    with pytest.raises(UserError, match="rigid bonds") as caught:
        fluid.mtk().init(rigid, fluid.potential(1.6), 0)
    assert "cell rescaling" in str(caught.value)
    with pytest.raises(UserError, match="pressure_time_constant_fs"):
        fluid.mtk(pressure_time_constant_fs=0.0)
