"""The Lennard-Jones fluid at ρ* = 0.8, T* = 1.0 in Kinetograph and in OpenMM."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import pytest

from kinetograph import units
from kinetograph.dynamics import NoseHoover
from kinetograph.dynamics.velocities import temperature
from kinetograph.graph import neighbors_for
from kinetograph.system import System

openmm = pytest.importorskip("openmm")


def openmm_context(fluid, atoms: ase.Atoms, potential, integrator: Any, platform: str) -> Any:
    system = openmm.System()
    force = openmm.NonbondedForce()
    for mass in atoms.get_masses():
        system.addParticle(mass)
        force.addParticle(0.0, fluid.sigma / units.NM_IN_A, fluid.epsilon / units.KJ_PER_MOL_IN_EV)
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(potential.request.cutoff / units.NM_IN_A)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(potential.switch_start / units.NM_IN_A)
    force.setUseDispersionCorrection(False)
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / units.NM_IN_A))
    system.addForce(openmm.CMMotionRemover(1000000))
    properties = {"Threads": "1"} if platform == "CPU" else {}
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)
    context.setPositions(atoms.positions / units.NM_IN_A)
    return context


def openmm_energy(context: Any) -> float:
    energy = context.getState(getEnergy=True).getPotentialEnergy()
    return float(energy.value_in_unit(openmm.unit.kilojoule_per_mole)) * units.KJ_PER_MOL_IN_EV


def openmm_pressure(context: Any, kt: float) -> float:
    """eV/Å³: the ideal part and −dU/dV by scaling box and positions together."""
    state = context.getState(getPositions=True)
    positions = state.getPositions(asNumpy=True)._value
    box = np.array(state.getPeriodicBoxVectors()._value)
    energies, volumes = [], []
    for factor in (1.0 + 1e-5, 1.0 - 1e-5):
        context.setPeriodicBoxVectors(*(box * factor))
        context.setPositions(positions * factor)
        energies.append(openmm_energy(context))
        volumes.append(np.linalg.det(box * factor) * units.NM_IN_A**3)
    context.setPeriodicBoxVectors(*box)
    context.setPositions(positions)
    virial = -(energies[0] - energies[1]) / (volumes[0] - volumes[1])
    return float(len(positions) * kt / np.mean(volumes) + virial)


@pytest.mark.parametrize("shear", [0.0, 0.15])
def test_energy_forces_and_pressure_of_one_configuration_agree(fluid, shear: float) -> None:
    atoms = fluid.atoms(3, rattle=0.3)
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0, 0], [shear, 1, 0], [-shear, shear, 1]]), True)
    potential = fluid.potential(2.4)
    context = openmm_context(fluid, atoms, potential, openmm.VerletIntegrator(0.001), "Reference")
    state = context.getState(getForces=True)
    expected = state.getForces(asNumpy=True)._value * units.KJ_PER_MOL_NM_IN_EV_PER_A
    system = System.from_ase(atoms)
    ours = potential(system, neighbors_for(system, potential.request))
    # OpenMM's reference platform computes in double precision, with constants of CODATA 2018
    assert ours.energy.item() == pytest.approx(openmm_energy(context), rel=1e-6)
    assert np.abs(ours.forces.numpy() - expected).max() < 1e-6 * np.abs(expected).max()
    pressure = -np.trace(ours.stress[0].numpy()) / 3.0
    assert pressure == pytest.approx(openmm_pressure(context, 0.0), rel=1e-5)  # central difference


def radial_distribution(frames: list[np.ndarray], length: float, edges: np.ndarray) -> np.ndarray:
    """g(r) for each frame, (n_frames, n_bins), in a cubic cell."""
    values = []
    for positions in frames:
        first, second = np.triu_indices(len(positions), 1)
        apart = positions[first] - positions[second]
        apart -= length * np.round(apart / length)
        counts, _ = np.histogram(np.sqrt((apart**2).sum(axis=1)), edges)
        shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
        values.append(counts / (shells * len(positions) * (len(positions) - 1) / 2.0 / length**3))
    return np.array(values)


def compare_runs(fluid, block_error, *, n_side: int, n_steps: int, equilibration: int) -> None:
    """Temperature, pressure and g(r) of the same fluid, by both, within four standard errors."""
    timestep, every, kelvin = 8.0, 20, fluid.temperature_K
    kt = units.BOLTZMANN_EV_PER_K * kelvin
    atoms = fluid.atoms(n_side)
    length, potential = float(atoms.cell[0, 0]), fluid.potential(2.4)
    edges = np.linspace(0.85 * fluid.sigma, min(0.5 * length, 3.0 * fluid.sigma), 31)

    integrator = NoseHoover(timestep, kelvin, time_constant_fs=200.0)
    system = fluid.system(n_side)
    state = integrator.init(system, potential, 0)
    ours: dict[str, list[Any]] = {"T": [], "P": [], "frames": []}
    for step in range(n_steps + equilibration):
        state = integrator.step(state, potential)
        if step >= equilibration and step % every == 0:
            ours["T"].append(temperature(state.system, state.inertia).item())
            virial = -state.prediction.stress[0].trace().item() / 3.0
            ours["P"].append(system.n_atoms * kt / system.volume.item() + virial)
            ours["frames"].append(state.positions.numpy())

    thermostat = openmm.LangevinMiddleIntegrator(kelvin, 2.0, timestep / units.PS_IN_FS)
    thermostat.setRandomNumberSeed(1)
    context = openmm_context(fluid, atoms, potential, thermostat, "CPU")
    context.setVelocitiesToTemperature(kelvin, 1)
    thermostat.step(equilibration)
    theirs: dict[str, list[Any]] = {"P": [], "frames": []}
    for _ in range(n_steps // every):
        thermostat.step(every)
        theirs["P"].append(openmm_pressure(context, kt))
        positions = context.getState(getPositions=True).getPositions(asNumpy=True)
        theirs["frames"].append(positions._value * units.NM_IN_A)

    temperatures = np.array(ours["T"])
    assert abs(temperatures.mean() - kelvin) < 4.0 * max(block_error(temperatures), 1e-3 * kelvin)
    p_ours, p_theirs = np.array(ours["P"]), np.array(theirs["P"])
    error = np.hypot(block_error(p_ours), block_error(p_theirs))
    assert error < 0.15 * p_theirs.mean()  # the comparison means something
    assert abs(p_ours.mean() - p_theirs.mean()) < 4.0 * error
    g_ours = radial_distribution(ours["frames"], length, edges)
    g_theirs = radial_distribution(theirs["frames"], length, edges)
    errors = np.array(
        [np.hypot(block_error(a), block_error(b)) for a, b in zip(g_ours.T, g_theirs.T, strict=True)]
    )
    difference = np.abs(g_ours.mean(axis=0) - g_theirs.mean(axis=0))
    assert (difference < 4.0 * errors + 0.005).all()
    assert difference.mean() < 0.03
    assert g_ours.mean(axis=0).max() > 2.0  # a liquid


def test_a_short_run_has_the_temperature_pressure_and_structure_of_openmm(fluid, block_error) -> None:
    compare_runs(fluid, block_error, n_side=3, n_steps=3200, equilibration=600)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_long_run_has_the_temperature_pressure_and_structure_of_openmm(fluid, block_error) -> None:
    compare_runs(fluid, block_error, n_side=4, n_steps=20000, equilibration=2000)
