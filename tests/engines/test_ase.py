"""The ASE calculator: the same numbers, and ASE's dynamics and optimisers run with it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE

from kinetograph import units
from kinetograph.engines.ase import KinetographCalculator
from kinetograph.errors import UserError
from kinetograph.models.classical import Harmonic, LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System
from kinetograph.training_domain import TrainingDomain


def lennard_jones(truncation: str = "switch") -> LennardJones:
    return LennardJones(epsilon=0.0103, sigma=3.4, cutoff=8.0, truncation=truncation, switch_start=6.5)


def argon() -> ase.Atoms:
    atoms = bulk("Ar", "fcc", 5.3, cubic=True) * (2, 2, 2)
    atoms.rattle(0.15, seed=2)
    return atoms


class ForcesOnly(Potential):
    """The forces of Lennard-Jones, without their energy."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = lennard_jones()
        self.request = self.inner.request

    gives_energy = False

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        return Prediction(forces=self.inner(system, neighbors).forces, conservative=False)


def test_energy_forces_and_stress_are_those_of_ase_on_a_triclinic_cell() -> None:
    atoms = argon()
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0.1, 0], [0, 1, 0.05], [-0.05, 0, 1.02]]), True)
    atoms.calc = AseLennardJones(epsilon=0.0103, sigma=3.4, rc=8.0, smooth=False)
    expected = {
        "energy": atoms.get_potential_energy(),
        "energies": atoms.get_potential_energies(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = KinetographCalculator(lennard_jones("shift"))
    assert atoms.get_potential_energy() == pytest.approx(expected["energy"], rel=1e-12)
    np.testing.assert_allclose(atoms.get_potential_energies(), expected["energies"], rtol=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"], atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(), expected["stress"], atol=1e-13)
    atoms.pbc = (True, True, False)
    with pytest.raises(PropertyNotImplementedError, match="periodic in three directions has a stress"):
        atoms.get_stress()


def test_velocity_verlet_of_ase_conserves_energy_and_reuses_the_list() -> None:
    atoms = argon()
    atoms.calc = KinetographCalculator(lennard_jones(), skin_A=1.0)
    start = atoms.get_potential_energy()
    lists = set()
    dynamics = VelocityVerlet(atoms, timestep=4.0 * ase.units.fs)
    dynamics.attach(lambda: lists.add(id(atoms.calc._neighbors.center)), 1)
    kept = [atoms.calc._neighbors]
    dynamics.attach(lambda: kept.append(atoms.calc._neighbors), 1)  # keeps ids from being used again
    dynamics.run(60)
    assert atoms.get_kinetic_energy() > 0.1 * 32 * 0.0103 * 0.1
    assert abs(atoms.get_total_energy() - start) < 1e-4
    assert len(lists) < 10


@pytest.mark.parametrize("optimiser", [FIRE, BFGS])
def test_optimisers_relax_with_an_energy(optimiser: type) -> None:
    atoms = argon()
    atoms.calc = KinetographCalculator(lennard_jones())
    assert optimiser(atoms, logfile=None).run(fmax=1e-3, steps=300)
    assert np.abs(atoms.get_forces()).max() < 1e-3


@pytest.mark.parametrize("optimiser", [FIRE, BFGS])
def test_optimisers_relax_with_forces_alone_and_the_missing_energy_is_nan(optimiser: type) -> None:
    atoms = argon()
    atoms.calc = KinetographCalculator(ForcesOnly())
    with pytest.warns(UserWarning, match="gives forces only"):
        assert optimiser(atoms, logfile=None).run(fmax=1e-3, steps=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(atoms.get_potential_energy())


def test_what_a_potential_does_not_give_is_said() -> None:
    atoms = argon()
    atoms.calc = KinetographCalculator(ForcesOnly(), missing_energy="error")
    assert atoms.calc.implemented_properties == ["forces"]
    assert atoms.get_forces().shape == (32, 3)
    with pytest.raises(PropertyNotImplementedError, match="gives forces only, no energy"):
        atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="gives forces only, no stress"):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError, match="no dipole"):
        atoms.get_dipole_moment()


class WholeEnergy(Potential):
    """Lennard-Jones, whose energy is known of whole structures only, as that of D3."""

    gives_energy = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = lennard_jones()
        self.request = self.inner.request

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        return replace(self.inner(system, neighbors), atomic_energies=None)


class EnergyBeside(ForcesOnly):
    """Forces and an energy that they are no gradient of."""

    gives_energy = True
    gives_atomic_energies = True
    gives_stress = False

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        return replace(self.inner(system, neighbors), stress=None, conservative=False)


ALL = {"energy", "free_energy", "energies", "forces", "stress"}


@pytest.mark.parametrize(
    ("potential", "given", "says"),
    [
        (lennard_jones(), ALL, ""),
        (WholeEnergy(), ALL - {"energies"}, "no energies of its atoms"),
        (SumPotential(lennard_jones(), WholeEnergy()), ALL - {"energies"}, "no energies of its atoms"),
        (SumPotential(lennard_jones(), lennard_jones()), ALL, ""),
        (SumPotential(lennard_jones(), ForcesOnly()), {"forces"}, "gives forces only, no "),
        (EnergyBeside(), ALL - {"stress"}, "not the gradient of its energy"),
    ],
    ids=["lennard-jones", "whole energy", "sum with it", "sum", "sum without energy", "energy beside forces"],
)
def test_what_is_listed_is_what_is_given(potential: Potential, given: set[str], says: str) -> None:
    atoms = argon()
    atoms.calc = KinetographCalculator(potential, missing_energy="error")
    assert set(atoms.calc.implemented_properties) == given
    atoms.get_forces()
    assert set(atoms.calc.results) == given
    for name in ALL - given:
        with pytest.raises(PropertyNotImplementedError, match=says):
            atoms.calc.get_property(name, atoms)


def test_bonds_stay_while_the_atoms_move_and_are_found_anew_in_another_structure() -> None:
    atoms = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    atoms.calc = KinetographCalculator(Harmonic(stiffness=10.0, length=0.75, cutoff=4.0))
    assert np.abs(atoms.get_forces()).max() < 1e-12
    for length in (1.25, 1.75):  # far beyond a bond, in steps: the spring still pulls
        atoms.positions[1, 2] = length
        np.testing.assert_allclose(atoms.get_forces()[1, 2], -10.0 * (length - 0.75))
    atoms.positions[1, 2] = 0.70  # a jump: two atoms that are near each other
    np.testing.assert_allclose(atoms.get_forces()[1, 2], 0.5)
    atoms.positions[1, 2] = 1.75  # a jump: two atoms that are not
    assert np.abs(atoms.get_forces()).max() == 0.0


def test_wrapping_atoms_into_the_cell_is_no_jump() -> None:
    atoms = ase.Atoms("H2", [[0, 0, 9.0], [0, 0, 9.75]], cell=[10.0, 10.0, 10.0], pbc=True)
    atoms.calc = KinetographCalculator(Harmonic(stiffness=10.0, length=0.75, cutoff=4.0))
    atoms.get_forces()
    atoms.positions[1, 2] = 10.5  # 1.5 Å apart: no longer a bond by the radii
    before = atoms.get_forces()
    atoms.wrap()
    assert atoms.positions[1, 2] == pytest.approx(0.5)
    np.testing.assert_allclose(atoms.get_forces(), before)
    assert before[1, 2] == pytest.approx(-7.5)


def test_bonds_that_are_given_hold_even_where_the_neighbour_list_does() -> None:
    atoms = ase.Atoms("H2", [[0, 0, 0], [0, 0, 1.75]])
    atoms.calc = KinetographCalculator(Harmonic(stiffness=10.0, length=0.75, cutoff=4.0))
    assert np.abs(atoms.get_forces()).max() == 0.0
    atoms.info["bonds"] = [[0, 1]]
    atoms.positions[1, 2] += 1e-3
    np.testing.assert_allclose(atoms.get_forces()[1, 2], -10.01)


def test_other_atoms_get_a_list_of_their_own() -> None:
    calculator = KinetographCalculator(lennard_jones())
    small, large = bulk("Ar", "fcc", 5.3, cubic=True), argon()
    alone = KinetographCalculator(lennard_jones())
    for atoms in (small, large, small):
        expected = atoms.copy()
        expected.calc = alone
        alone.reset()
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), rel=1e-12)


def test_an_element_that_the_model_never_saw_is_refused() -> None:
    potential = lennard_jones()
    potential.domain = TrainingDomain(elements=(18,), density=None, shortest_A={})
    neon = argon()
    neon.numbers[0] = 10
    neon.calc = KinetographCalculator(potential)
    with pytest.raises(UserError, match="Ne"):
        neon.get_forces()


def test_one_path_with_our_own_dynamics() -> None:
    """ASE's velocity Verlet and ours make the same trajectory."""
    from kinetograph.dynamics import VelocityVerlet as OurVerlet
    from kinetograph.dynamics import simulate
    from kinetograph.system import System

    atoms = argon()
    atoms.set_velocities(np.random.default_rng(1).normal(size=(32, 3)) * 0.01)
    momentum = atoms.get_momenta().sum(axis=0)
    atoms.set_momenta(atoms.get_momenta() - momentum / len(atoms))
    system = System.from_ase(atoms)
    ours = simulate(lennard_jones(), system, OurVerlet(2.0), n_steps=50, status=False)
    atoms.calc = KinetographCalculator(lennard_jones())
    # our femtosecond in ASE's units, by CODATA 2018 as ours (ASE's own table is older)
    VelocityVerlet(atoms, timestep=2.0 / units.ASE_TIME_IN_FS).run(50)
    np.testing.assert_allclose(atoms.positions, ours.state.positions.numpy(), atol=1e-9)
