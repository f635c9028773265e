"""The reference force fields as OpenMM systems: Lennard-Jones argon and TIP3P water.

Every size of one material has the same density, the same cutoff and the same parameters, so that
a model trained on a small box can be judged, and timed, on a large one.

OpenMM counts in nm, ps, kJ/mol and amu; lengths that this module takes and gives are in Å.
OpenMM itself is imported when a system is built, not when this module is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import NDArray

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.models.classical import ARGON_EPSILON_K, ARGON_SIGMA_A

ARGON_CUTOFF_A = 3.0 * ARGON_SIGMA_A
"""Å: 3 σ, truncated and shifted, as in GAMD (Li et al. 2022)."""
ARGON_REDUCED_DENSITY = 258 * ARGON_SIGMA_A**3 / 27.27**3
"""ρ* = N σ³/V = 0.50 of GAMD's argon, 258 atoms in 27.27 Å."""
ARGON_MASS_AMU = float(atomic_masses[18])

WATER_DENSITY_G_PER_CM3 = 0.977
"""g/cm³ of every water box: that of flexible TIP3P at 300 K and 1 bar with the cutoff and mesh below.

Measured by ``water_density.measure_water_density`` with its default settings: 216 molecules, Monte Carlo
barostat, 400 ps after 50 ps, OpenMM 8.6.1: 0.9772 ± 0.0012 (standard error, ten blocks). The short
Lennard-Jones cutoff without a long-range correction makes it less than the model's own, about 1.0.
"""
WATER_CUTOFF_A = 6.0
"""Å: one real-space cutoff for every box; the smallest, 64 molecules, is about 12.4 Å wide."""
WATER_SWITCH_A = 5.0
"""Å: from here to the cutoff OpenMM's switching function takes Lennard-Jones smoothly to zero."""
WATER_PME_TOLERANCE = 5e-5
"""OpenMM's error tolerance for PME: with the short cutoff it chooses a fine mesh. Forces then differ from
converged ones (tolerance 1e-8) by 0.011 % root mean square; 1e-5 gives 0.002 % and takes twice the time."""

# TIP3P (Jorgensen et al. 1983) with the flexible constants of OpenMM's tip3p.xml, which are Amber's.
OXYGEN_CHARGE = -0.834
HYDROGEN_CHARGE = 0.417
OXYGEN_SIGMA_A = 3.1507524065751241
OXYGEN_EPSILON_KJ_PER_MOL = 0.635968
BOND_LENGTH_A = 0.9572
BOND_STIFFNESS_KJ_PER_MOL_NM2 = 462750.4
ANGLE_RAD = 1.82421813418
ANGLE_STIFFNESS_KJ_PER_MOL_RAD2 = 836.8
OXYGEN_MASS_AMU = float(atomic_masses[8])
HYDROGEN_MASS_AMU = float(atomic_masses[1])
WATER_MASS_AMU = OXYGEN_MASS_AMU + 2.0 * HYDROGEN_MASS_AMU


def import_openmm() -> Any:
    """OpenMM, or a ``UserError`` that says how to install it."""
    try:
        import openmm
    except ImportError as error:
        raise UserError(
            "OpenMM is not installed, and the reference data are made with it",
            mend="Install it with: pip install 'kinetograph[reference]'",
        ) from error
    return openmm


def argon_box(n_atoms: int, reduced_density: float) -> float:
    """Edge in Å of the cube that holds ``n_atoms`` at the reduced density ρ* = N σ³/V."""
    return ARGON_SIGMA_A * math.cbrt(n_atoms / reduced_density)


def water_box(n_molecules: int) -> float:
    """Edge in Å of the cube that holds ``n_molecules`` at ``WATER_DENSITY_G_PER_CM3``."""
    density = WATER_DENSITY_G_PER_CM3 / units.AMU_PER_A3_IN_G_PER_CM3
    return math.cbrt(n_molecules * WATER_MASS_AMU / density)


def argon_system(n_atoms: int, box_A: float) -> Any:
    """Lennard-Jones argon (ε/k = 120 K, σ = 3.4 Å), truncated and shifted at 3 σ.

    The shift is a force of its own, in force group 1: it changes the energy and no force, and
    integrators are told to leave it out, which makes a step 1.6 times faster.

    Args:
        box_A: edge of the cubic periodic cell, Å.

    Returns:
        an ``openmm.System``.

    Raises:
        UserError: the box is not wider than twice the cutoff.
    """
    _check_box(box_A, ARGON_CUTOFF_A)
    openmm = import_openmm()
    epsilon = ARGON_EPSILON_K * units.BOLTZMANN_EV_PER_K * units.EV_IN_KJ_PER_MOL
    sixth = (ARGON_SIGMA_A / ARGON_CUTOFF_A) ** 6
    at_cutoff = 4.0 * epsilon * (sixth * sixth - sixth)

    system = openmm.System()
    _set_cube(system, box_A)
    pairs = openmm.NonbondedForce()
    pairs.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    pairs.setCutoffDistance(ARGON_CUTOFF_A / units.NM_IN_A)
    pairs.setUseDispersionCorrection(False)
    shift = openmm.CustomNonbondedForce(f"{-at_cutoff!r} + 0*r")
    shift.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    shift.setCutoffDistance(ARGON_CUTOFF_A / units.NM_IN_A)
    shift.setForceGroup(1)
    for _ in range(n_atoms):
        system.addParticle(ARGON_MASS_AMU)
        pairs.addParticle(0.0, ARGON_SIGMA_A / units.NM_IN_A, epsilon)
        shift.addParticle([])
    system.addForce(pairs)
    system.addForce(shift)
    system.addForce(openmm.CMMotionRemover(1))
    return system


def water_system(n_molecules: int, box_A: float, rigid: bool = False) -> Any:
    """TIP3P water with particle mesh Ewald; atoms in the order O, H, H molecule by molecule.

    Flexible: harmonic O-H bonds and H-O-H angles. Rigid: three constraints per molecule instead.
    Inside a molecule nothing else acts. Lennard-Jones (between oxygens only) is switched off between
    5 and 6 Å, with no long-range correction; so the density at 1 bar belongs to this cutoff.

    Args:
        box_A: edge of the cubic periodic cell, Å.

    Returns:
        an ``openmm.System``.

    Raises:
        UserError: the box is not wider than twice the cutoff.
    """
    _check_box(box_A, WATER_CUTOFF_A)
    openmm = import_openmm()
    system = openmm.System()
    _set_cube(system, box_A)
    bond_length = BOND_LENGTH_A / units.NM_IN_A
    bonds = openmm.HarmonicBondForce()
    angles = openmm.HarmonicAngleForce()
    nonbonded = openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.PME)
    nonbonded.setCutoffDistance(WATER_CUTOFF_A / units.NM_IN_A)
    nonbonded.setEwaldErrorTolerance(WATER_PME_TOLERANCE)
    nonbonded.setUseDispersionCorrection(False)
    nonbonded.setUseSwitchingFunction(True)
    nonbonded.setSwitchingDistance(WATER_SWITCH_A / units.NM_IN_A)
    for molecule in range(n_molecules):
        oxygen, first, second = 3 * molecule, 3 * molecule + 1, 3 * molecule + 2
        system.addParticle(OXYGEN_MASS_AMU)
        system.addParticle(HYDROGEN_MASS_AMU)
        system.addParticle(HYDROGEN_MASS_AMU)
        nonbonded.addParticle(OXYGEN_CHARGE, OXYGEN_SIGMA_A / units.NM_IN_A, OXYGEN_EPSILON_KJ_PER_MOL)
        nonbonded.addParticle(HYDROGEN_CHARGE, 0.1, 0.0)
        nonbonded.addParticle(HYDROGEN_CHARGE, 0.1, 0.0)
        for one, other in ((oxygen, first), (oxygen, second), (first, second)):
            nonbonded.addException(one, other, 0.0, 0.1, 0.0)
        if rigid:
            system.addConstraint(oxygen, first, bond_length)
            system.addConstraint(oxygen, second, bond_length)
            system.addConstraint(first, second, 2.0 * bond_length * math.sin(0.5 * ANGLE_RAD))
        else:
            bonds.addBond(oxygen, first, bond_length, BOND_STIFFNESS_KJ_PER_MOL_NM2)
            bonds.addBond(oxygen, second, bond_length, BOND_STIFFNESS_KJ_PER_MOL_NM2)
            angles.addAngle(first, oxygen, second, ANGLE_RAD, ANGLE_STIFFNESS_KJ_PER_MOL_RAD2)
    if not rigid:
        system.addForce(bonds)
        system.addForce(angles)
    system.addForce(nonbonded)
    system.addForce(openmm.CMMotionRemover(1))
    return system


def water_bonds(n_molecules: int) -> NDArray[np.int64]:
    """(2 n_molecules, 2) the O-H pairs, for atoms in the order O, H, H."""
    oxygen = 3 * np.arange(n_molecules)
    return np.stack([np.repeat(oxygen, 2), np.stack([oxygen + 1, oxygen + 2], axis=1).ravel()], axis=1)


def argon_numbers(n_atoms: int) -> NDArray[np.int64]:
    """(n_atoms,) atomic numbers."""
    return np.full(n_atoms, atomic_numbers["Ar"], dtype=np.int64)


def water_numbers(n_molecules: int) -> NDArray[np.int64]:
    """(3 n_molecules,) atomic numbers, O, H, H molecule by molecule."""
    return np.tile(np.array([8, 1, 1], dtype=np.int64), n_molecules)


def openmm_platform(name: str, threads: int) -> tuple[Any, dict[str, str]]:
    """The platform and its properties, as ``openmm.Context`` takes them.

    On the CPU platform forces are asked to be the same in every run.

    Raises:
        UserError: OpenMM has no platform of this name here.
    """
    openmm = import_openmm()
    count = openmm.Platform.getNumPlatforms()
    known = [openmm.Platform.getPlatform(index).getName() for index in range(count)]
    if name not in known:
        raise UserError(
            f"OpenMM has no platform {name!r} on this machine",
            where="platform",
            mend=f"Use one of: {', '.join(known)}.",
        )
    properties = {"Threads": str(threads), "DeterministicForces": "true"} if name == "CPU" else {}
    return openmm.Platform.getPlatformByName(name), properties


def _check_box(box_A: float, cutoff_A: float) -> None:
    if not box_A > 2.0 * cutoff_A:
        raise UserError(
            f"the box is {box_A:.2f} Å wide, but must be wider than twice the cutoff, {2.0 * cutoff_A:.2f} Å",
            where="box",
            mend="Take more atoms or a lower density.",
        )


def _set_cube(system: Any, box_A: float) -> None:
    edge = box_A / units.NM_IN_A
    system.setDefaultPeriodicBoxVectors((edge, 0.0, 0.0), (0.0, edge, 0.0), (0.0, 0.0, edge))
