"""Rigid TIP3P in a periodic box: Lennard-Jones between oxygens, and point charges without a cutoff."""

from __future__ import annotations

from dataclasses import replace

import ase
import numpy as np
import pytest

from kinetograph import units
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import LennardJones
from kinetograph.models.electrostatics import FixedCharges
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Prediction
from kinetograph.reference import openmm_systems as tip3p
from kinetograph.reference.starts import water_start
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System

openmm = pytest.importorskip("openmm")
pytest.importorskip("torchpme")

N_MOLECULES, CUTOFF_A = 64, 6.0
BOX_A = tip3p.water_box(N_MOLECULES)


class BetweenOxygens(LennardJones):
    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        oxygen = system.atomic_numbers == 8
        both = oxygen[neighbors.center] & oxygen[neighbors.neighbor]
        names = ("center", "neighbor", "shift")
        chosen = {name: getattr(neighbors, name)[both] for name in names}
        return super().forward(system, replace(neighbors, **chosen, bond_rule=None, edge_types=None))


def of_openmm(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy (eV) and forces (eV/Å) in double precision, by a plain Ewald sum of another splitting."""
    system = tip3p.water_system(N_MOLECULES, BOX_A, rigid=True)
    (force,) = (force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    force.setNonbondedMethod(openmm.NonbondedForce.Ewald)
    force.setEwaldErrorTolerance(1e-9)
    force.setUseSwitchingFunction(False)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions / units.NM_IN_A)
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True)._value * units.KJ_PER_MOL_NM_IN_EV_PER_A
    return state.getPotentialEnergy()._value * units.KJ_PER_MOL_IN_EV, forces


@pytest.mark.parametrize(("method", "tolerance"), [("ewald", 1e-7), ("pme", 1e-4)])
def test_energy_and_forces_of_a_box_of_water_are_those_of_openmm(method: str, tolerance: float) -> None:
    positions = water_start(N_MOLECULES, BOX_A, np.random.default_rng(0))
    atoms = ase.Atoms(tip3p.water_numbers(N_MOLECULES), positions=positions, cell=[BOX_A] * 3, pbc=True)
    atoms.info["bonds"] = tip3p.water_bonds(N_MOLECULES)
    lennard_jones = BetweenOxygens(
        epsilon=tip3p.OXYGEN_EPSILON_KJ_PER_MOL * units.KJ_PER_MOL_IN_EV,
        sigma=tip3p.OXYGEN_SIGMA_A,
        cutoff=CUTOFF_A,
        truncation="cut",
    )
    charges = FixedCharges(
        charges={"O": tip3p.OXYGEN_CHARGE, "H": tip3p.HYDROGEN_CHARGE},
        smearing=0.0,
        exclude_bonds=2,
        cutoff=CUTOFF_A,
        accuracy=1e-9,
        method=method,
    )
    potential, system = SumPotential(lennard_jones, charges).eval(), System.from_ase(atoms)
    ours = potential(system, neighbors_for(system, potential.request))
    energy, forces = of_openmm(positions)
    # Coulomb constants differ by 1e-9, of forces of some 10 eV/Å; the mesh is right within 1e-4 eV/Å.
    assert np.abs(forces).max() > 0.5
    assert ours.energy.item() == pytest.approx(energy, abs=tolerance * N_MOLECULES)
    assert np.abs(ours.forces.numpy() - forces).max() < tolerance
