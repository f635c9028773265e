"""OpenMM: steps of rigid TIP3P water with PME, or of Lennard-Jones argon, on its CPU platform."""

from __future__ import annotations

import math
from typing import Any

import turns

EV_IN_KJ_PER_MOL = 96.48533212331
MINIMISE_AT_MOST = 20
"""Iterations from the lattice of molecules on which the water starts."""
EQUILIBRATION_STEPS = 100


def water(openmm: Any, task: dict[str, Any]) -> Any:
    """The package's reference, rigid and without a switch."""
    system, given = openmm.System(), task["tip3p"]
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setEwaldErrorTolerance(given["pme_tolerance"])
    force.setCutoffDistance(0.1 * task["cutoff_A"])
    force.setUseSwitchingFunction(False)
    force.setUseDispersionCorrection(False)
    bond = 0.1 * given["bond_A"]
    across = 2.0 * bond * math.sin(0.5 * given["angle_rad"])
    for mass in task["masses"]:
        system.addParticle(mass)
    for oxygen in range(0, len(task["masses"]), 3):
        epsilon = given["epsilon_eV"] * EV_IN_KJ_PER_MOL
        force.addParticle(given["charges"][0], 0.1 * given["sigma_A"], epsilon)
        for _ in range(2):
            force.addParticle(given["charges"][1], 0.1, 0.0)
        for one, other, length in ((0, 1, bond), (0, 2, bond), (1, 2, across)):
            force.addException(oxygen + one, oxygen + other, 0.0, 0.1, 0.0)
            system.addConstraint(oxygen + one, oxygen + other, length)
    system.addForce(force)
    return system


def argon(openmm: Any, task: dict[str, Any]) -> Any:
    """Pairs within the cutoff, cut off there."""
    system, given = openmm.System(), task["lennard_jones"]
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.1 * task["cutoff_A"])
    force.setUseDispersionCorrection(False)
    for mass in task["masses"]:
        system.addParticle(mass)
        force.addParticle(0.0, 0.1 * given["sigma_A"], given["epsilon_eV"] * EV_IN_KJ_PER_MOL)
    system.addForce(force)
    return system


def prepare(task: dict[str, Any]) -> turns.Ready:
    """Velocity Verlet's trajectory by OpenMM's leapfrog."""
    import numpy as np
    import openmm

    of_water = task["task"] == "water step"
    system = water(openmm, task) if of_water else argon(openmm, task)
    system.setDefaultPeriodicBoxVectors(*(0.1 * np.array(task["cell"])))
    integrator = openmm.VerletIntegrator(1e-3 * task["timestep_fs"])
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, integrator, platform, {"Threads": str(task["threads"])})
    context.setPositions(0.1 * np.array(task["positions"]))
    energy = context.getState(getEnergy=True).getPotentialEnergy()._value / EV_IN_KJ_PER_MOL
    if of_water:
        openmm.LocalEnergyMinimizer.minimize(context, 100.0, MINIMISE_AT_MOST)
        for seed in range(EQUILIBRATION_STEPS // 5):
            context.setVelocitiesToTemperature(task["kelvin"], seed + 2)
            integrator.step(5)
    context.setVelocitiesToTemperature(task["kelvin"], 1)

    def steps(n_steps: int) -> None:
        integrator.step(n_steps)
        context.getState(getEnergy=True).getPotentialEnergy()  # wait for the steps

    fs = task["timestep_fs"]
    return turns.Ready(
        title="OpenMM",
        distributions=("openmm",),
        computes=f"rigid TIP3P, PME, {fs:g} fs" if of_water else f"Lennard-Jones, {fs:g} fs",
        precision="mixed",
        calls=steps,
        energy_eV=energy,
    )


if __name__ == "__main__":
    turns.serve(prepare)
