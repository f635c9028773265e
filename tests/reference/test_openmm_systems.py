"""The reference force fields against independent forms of themselves."""

from __future__ import annotations

import math
import sys
from typing import Any

import ase
import numpy as np
import pytest
from numpy.typing import NDArray

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import ARGON_EPSILON_K, ARGON_SIGMA_A, LennardJones
from kinetograph.reference.openmm_systems import (
    ARGON_CUTOFF_A,
    WATER_CUTOFF_A,
    WATER_MASS_AMU,
    WATER_PME_TOLERANCE,
    WATER_SWITCH_A,
    argon_box,
    argon_system,
    import_openmm,
    openmm_platform,
    water_bonds,
    water_box,
    water_numbers,
    water_system,
)
from kinetograph.reference.starts import argon_start, tiled_water, tiles_per_side, water_start
from kinetograph.system import System

openmm = pytest.importorskip("openmm")
app = pytest.importorskip("openmm.app")
Array = NDArray[np.float64]


def energy_and_forces(system: Any, positions: Array, platform: str = "Reference") -> tuple[float, Array]:
    """eV and eV/Å, from positions in Å."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), *openmm_platform(platform, 1))
    context.setPositions(positions / units.NM_IN_A)
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True)._value * units.KJ_PER_MOL_NM_IN_EV_PER_A
    return state.getPotentialEnergy()._value * units.KJ_PER_MOL_IN_EV, forces


# OpenMM's Reference platform computes in double precision with constants of its own for nothing that
# matters here; its CPU platform computes pairs in single precision (6e-8, times a few hundred terms).
@pytest.mark.parametrize(("platform", "tolerance"), [("Reference", 1e-9), ("CPU", 1e-5)])
def test_argon_labels_are_the_shifted_lennard_jones(
    rng: np.random.Generator, platform: str, tolerance: float
) -> None:
    box = 27.27
    positions = argon_start(258, box, rng)
    energy, forces = energy_and_forces(argon_system(258, box), positions, platform)
    potential = LennardJones(
        epsilon=ARGON_EPSILON_K * units.BOLTZMANN_EV_PER_K,
        sigma=ARGON_SIGMA_A,
        cutoff=ARGON_CUTOFF_A,
        truncation="shift",
    )
    system = System.from_ase(ase.Atoms("Ar258", positions=positions, cell=np.eye(3) * box, pbc=True))
    expected = potential(system, neighbors_for(system, potential.request))
    assert expected.energy is not None
    assert expected.forces is not None
    truth = expected.forces.numpy()
    assert energy == pytest.approx(float(expected.energy[0]), rel=tolerance)
    assert np.abs(forces - truth).max() < tolerance * np.abs(truth).max()


def warm_water(n_molecules: int, rng: np.random.Generator) -> Array:
    """Turned molecules on a lattice, every atom moved a little: no bond at its rest length."""
    positions = water_start(n_molecules, water_box(n_molecules), rng)
    return positions + rng.normal(scale=0.03, size=positions.shape)


def test_water_forces_are_the_slope_of_the_energy(rng: np.random.Generator) -> None:
    n_molecules = 64
    system = water_system(n_molecules, water_box(n_molecules))
    positions = warm_water(n_molecules, rng)
    _, forces = energy_and_forces(system, positions)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), *openmm_platform("Reference", 1))

    def energy(moved: Array) -> float:
        context.setPositions(moved / units.NM_IN_A)
        return float(context.getState(getEnergy=True).getPotentialEnergy()._value * units.KJ_PER_MOL_IN_EV)

    # The sum in real space is cut at 6 Å, where a pair still has 1e-5 eV: an energy with steps that no force
    # shows. So only displacements are compared with which no pair crosses the cutoff.
    step = 5e-4
    checked = 0
    for atom in (0, 1, 52, 100, 101, 190):
        separation = positions - positions[atom]
        separation -= water_box(n_molecules) * np.round(separation / water_box(n_molecules))
        if np.abs(np.linalg.norm(separation, axis=1) - WATER_CUTOFF_A).min() < 2 * step:
            continue
        checked += 1
        for axis in range(3):
            moved = np.zeros_like(positions)
            moved[atom, axis] = step
            slope = -(energy(positions + moved) - energy(positions - moved)) / (2 * step)
            # step²/6 times the third derivative (of hydrogens 1.1 Å apart: 100 eV/Å³), and rounding.
            assert slope == pytest.approx(forces[atom, axis], abs=2e-5)
    assert checked >= 2


@pytest.mark.parametrize("rigid", [False, True])
def test_water_is_the_tip3p_that_openmm_builds_itself(rng: np.random.Generator, rigid: bool) -> None:
    n_molecules = 64
    box = water_box(n_molecules)
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(n_molecules):
        residue = topology.addResidue("HOH", chain)
        oxygen, first, second = (
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2")
        )
        topology.addBond(oxygen, first)
        topology.addBond(oxygen, second)
    edge = box / units.NM_IN_A
    topology.setPeriodicBoxVectors(np.eye(3) * edge * openmm.unit.nanometer)
    theirs = app.ForceField("tip3p.xml").createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=WATER_CUTOFF_A / units.NM_IN_A,
        switchDistance=WATER_SWITCH_A / units.NM_IN_A,
        ewaldErrorTolerance=WATER_PME_TOLERANCE,
        useDispersionCorrection=False,
        rigidWater=rigid,
    )
    ours = water_system(n_molecules, box, rigid)
    positions = warm_water(n_molecules, rng)
    energy, forces = energy_and_forces(ours, positions)
    their_energy, their_forces = energy_and_forces(theirs, positions)
    assert energy == pytest.approx(their_energy, rel=1e-9)
    assert np.allclose(forces, their_forces, atol=1e-8)
    assert ours.getNumConstraints() == theirs.getNumConstraints() == (3 * n_molecules if rigid else 0)


def test_the_net_force_is_zero_but_for_the_mesh(rng: np.random.Generator) -> None:
    _, argon = energy_and_forces(argon_system(258, 27.27), argon_start(258, 27.27, rng))
    assert np.abs(argon.sum(axis=0)).max() < 1e-10 * np.abs(argon).max() * len(argon)
    _, water = energy_and_forces(water_system(64, water_box(64)), warm_water(64, rng), "CPU")
    # Ewald sums on a mesh do not conserve momentum; the error of each force is 1e-4 of its size.
    assert np.abs(water.sum(axis=0)).max() < 1e-4 * np.sqrt((water**2).mean()) * math.sqrt(len(water))


def test_boxes_of_every_size_have_one_density() -> None:
    densities = {n: n * WATER_MASS_AMU / water_box(n) ** 3 for n in (64, 125, 24093)}
    assert max(densities.values()) == pytest.approx(min(densities.values()), rel=1e-12)
    assert argon_box(258, 0.5) ** 3 / 258 == pytest.approx(argon_box(6000, 0.5) ** 3 / 6000)


def test_the_smallest_water_box_is_wider_than_twice_the_cutoff() -> None:
    assert water_box(64) > 2 * WATER_CUTOFF_A


@pytest.mark.parametrize("build", [lambda: argon_system(258, 20.4), lambda: water_system(30, water_box(30))])
def test_a_box_that_is_too_small_is_refused(build: Any) -> None:
    with pytest.raises(UserError, match="twice the cutoff"):
        build()


def test_an_unknown_platform_is_refused() -> None:
    with pytest.raises(UserError, match="Reference"):
        openmm_platform("Abacus", 1)


def test_without_openmm_the_install_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(UserError, match=r"pip install 'kinetograph\[reference\]'"):
        import_openmm()


def oxygen_distances(positions: Array, box: float) -> Array:
    oxygens = positions[::3]
    separation = oxygens[:, None] - oxygens[None]
    separation -= box * np.round(separation / box)
    distance: Array = np.linalg.norm(separation, axis=-1)
    return distance[np.triu_indices(len(oxygens), 1)]


def test_molecules_of_a_start_are_whole_and_apart(rng: np.random.Generator) -> None:
    positions = water_start(100, water_box(100), rng)
    bonds = water_bonds(100)
    assert (water_numbers(100)[bonds] == [8, 1]).all()
    lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
    assert np.allclose(lengths, 0.9572)
    assert oxygen_distances(positions, water_box(100)).min() > 2.6


def test_a_tiled_box_has_exactly_the_molecules_asked_for(rng: np.random.Generator) -> None:
    n_molecules = 1049
    per_side = tiles_per_side(n_molecules)
    assert per_side == 2
    n_tile = -(-n_molecules // per_side**3)
    tile = water_start(n_tile, water_box(n_tile), rng)
    box = water_box(n_molecules)
    positions = tiled_water(tile, water_box(n_tile), per_side, n_molecules, box, rng)
    assert positions.shape == (3 * n_molecules, 3)
    bonds = water_bonds(n_molecules)
    lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
    assert np.allclose(lengths, 0.9572)
    assert oxygen_distances(positions, box).min() > 2.6  # Å: the spacing of the lattice
