"""MTK dynamics: what it conserves, that it can be run backwards, and what it refuses.

The distributions are in ``test_constant_pressure``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kinetograph import units
from kinetograph.dynamics import TwoForces
from kinetograph.dynamics.mtk import MTK
from kinetograph.dynamics.settings import Ramp
from kinetograph.dynamics.state import State, moving
from kinetograph.errors import UserError
from kinetograph.models.classical import LennardJones
from kinetograph.system import System

KT = units.BOLTZMANN_EV_PER_K * 120.0
MODES = ["isotropic", "semi-isotropic", "full"]


def barostat(timestep_fs: float = 4.0, **settings) -> MTK:
    """A fast one, at a pressure at which the fluid stays near its density."""
    given = {"pressure_bar": 600.0, "time_constant_fs": 60.0, "pressure_time_constant_fs": 300.0, **settings}
    return MTK(timestep_fs, 120.0, **given)


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
        integrator = barostat(timestep, mode=mode)
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
    potential, integrator = fluid.potential(1.6), barostat(6.0, mode="full")
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
    potential, integrator = fluid.potential(1.6), barostat(mode=mode, yoshida_suzuki=1)
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
        integrator = barostat(mode=mode)
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
    inner = LennardJones(
        epsilon=fluid.epsilon,
        sigma=fluid.sigma,
        cutoff=1.4 * fluid.sigma,
        truncation="switch",
        switch_start=1.1 * fluid.sigma,
    ).eval()
    errors = []
    for potential in (outer, TwoForces(inner, outer, 4)):
        integrator = barostat(8.0, mode="full", pressure_time_constant_fs=3000.0)
        state = integrator.init(system, potential, 0)
        conserved = []
        for _ in range(60):
            state = integrator.step(state, potential)
            conserved.append(integrator.conserved_quantity(state).numpy() / KT)
        errors.append(np.std(conserved, axis=0).mean())
    assert errors[1] < 0.6 * errors[0] < 0.02


def test_a_structure_moves_as_it_would_alone(fluid) -> None:
    """At a pressure of its own."""
    potential, pressures = fluid.potential(1.6), [300.0, 600.0, 900.0]
    together = barostat(pressure_bar=pressures, mode="full")
    state = together.init(fluid.system(2, n_copies=3), potential, 0)
    alone = [barostat(pressure_bar=pressure, mode="full") for pressure in pressures]
    singles = [
        integrator.init(System.from_ase(atoms), potential, 0)
        for integrator, atoms in zip(alone, state.system.to_ase(), strict=True)
    ]
    for _ in range(20):
        state = together.step(state, potential)
        singles = [
            integrator.step(single, potential) for integrator, single in zip(alone, singles, strict=True)
        ]
    for index, single in enumerate(singles):
        mask = state.system.system_index == index
        torch.testing.assert_close(single.positions, state.positions[mask], rtol=0, atol=1e-10)
        torch.testing.assert_close(single.system.cell[0], state.system.cell[index], rtol=0, atol=1e-10)


def test_a_ramp_has_no_conserved_quantity(fluid) -> None:
    integrator = replace(barostat(), temperature_K=Ramp((0.0, 1.0), (100.0, 200.0)))
    state = integrator.init(fluid.system(2), fluid.potential(1.6), 0)
    assert integrator.conserved_quantity(integrator.step(state, fluid.potential(1.6))) is None


def test_what_it_cannot_do_is_refused(fluid) -> None:
    potential, system = fluid.potential(1.6), fluid.system(2)
    rigid = replace(system, rigid=torch.tensor([[0, 1]]), rigid_lengths=torch.tensor([3.8]))
    with pytest.raises(UserError, match="rigid bonds") as caught:
        barostat().init(rigid, potential, 0)
    assert "cell rescaling" in str(caught.value)
    with pytest.raises(UserError, match="periodic in three directions"):
        barostat().init(replace(system, pbc=torch.zeros(1, 3, dtype=torch.bool)), potential, 0)
    with pytest.raises(UserError, match="2 values of pressure_bar for 1 structures"):
        barostat(pressure_bar=[1.0, 2.0]).init(system, potential, 0)
    for wrong in ({"mode": "cubic"}, {"pressure_bar": float("nan")}, {"pressure_time_constant_fs": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            barostat(**wrong)
