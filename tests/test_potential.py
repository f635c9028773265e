"""Forces and stress are derivatives of the energy; sums of potentials add up."""

from __future__ import annotations

from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones

from kinetograph.graph import neighbors_for
from kinetograph.models.classical import Harmonic, LennardJones
from kinetograph.potential import EnergyPotential, SumPotential
from kinetograph.system import System, batch


def triclinic(seed: int = 3) -> ase.Atoms:
    """Eleven atoms in a skewed cell that is narrower than the cutoff."""
    atoms = bulk("Ar", "fcc", 5.0) * (2, 2, 3)
    atoms.set_cell(
        atoms.cell @ (np.eye(3) + 0.1 * np.array([[0, 1, -1], [0.5, 0, 1], [0, 0, 0.3]])), scale_atoms=True
    )
    atoms.rattle(0.15, seed=seed)
    return atoms[:11]


def lennard_jones(truncation: str = "switch") -> LennardJones:
    return LennardJones(epsilon=0.0104, sigma=3.4, cutoff=7.0, truncation=truncation, switch_start=6.0)


def energy(potential: EnergyPotential, system: System) -> float:
    prediction = potential(system, neighbors_for(system, potential.request))
    assert prediction.energy is not None
    return float(prediction.energy.sum())


@pytest.mark.parametrize("truncation", ["shift", "switch"])  # "cut" jumps at the cutoff
def test_forces_are_the_negative_gradient(truncation: str) -> None:
    potential = lennard_jones(truncation)
    system = System.from_ase(triclinic())
    forces = potential(system, neighbors_for(system, potential.request)).forces
    h = 1e-4  # central differences: error h²F'''/6 ~ 1e-9 eV/Å, far above rounding 1e-16·E/h
    for atom, axis in [(0, 0), (3, 1), (10, 2)]:
        step = torch.zeros_like(system.positions)
        step[atom, axis] = h
        up = energy(potential, replace(system, positions=system.positions + step))
        down = energy(potential, replace(system, positions=system.positions - step))
        assert float(forces[atom, axis]) == pytest.approx(-(up - down) / (2 * h), abs=2e-8)


def test_stress_is_the_strain_derivative_in_a_triclinic_cell() -> None:
    potential = lennard_jones()
    system = System.from_ase(triclinic())
    stress = potential(system, neighbors_for(system, potential.request)).stress
    assert stress is not None
    h = 1e-5
    for a in range(3):
        for b in range(3):
            difference = 0.0
            for sign in (1, -1):
                strain = torch.eye(3, dtype=torch.float64)
                strain[a, b] += sign * h / 2
                strain[b, a] += sign * h / 2
                strained = replace(system, positions=system.positions @ strain, cell=system.cell @ strain)
                difference += sign * energy(potential, strained) / (2 * h)
            expected = difference / float(system.volume)
            assert float(stress[0, a, b]) == pytest.approx(expected, abs=1e-9)


def test_lennard_jones_equals_that_of_ase() -> None:
    atoms = triclinic()
    atoms.calc = AseLennardJones(epsilon=0.0104, sigma=3.4, rc=7.0, smooth=False)
    system = System.from_ase(atoms)
    potential = lennard_jones("shift")
    prediction = potential(system, neighbors_for(system, potential.request))
    assert prediction.energy is not None
    assert prediction.stress is not None
    assert float(prediction.energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(prediction.forces, atoms.get_forces(), atol=1e-14)
    np.testing.assert_allclose(prediction.stress[0], atoms.get_stress(voigt=False), atol=1e-15)


def test_harmonic_acts_on_bonds_only() -> None:
    atoms = ase.Atoms("N2Ar", positions=[[0, 0, 0], [1.2, 0, 0], [0, 2.5, 0]])
    potential = Harmonic(stiffness=10.0, length=1.1, cutoff=4.0)
    system = System.from_ase(atoms)
    prediction = potential(system, neighbors_for(system, potential.request))
    np.testing.assert_allclose(prediction.forces, [[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 0]], atol=1e-12)


def test_a_batch_gives_each_structure_its_own_numbers() -> None:
    potential = lennard_jones()
    frames = [triclinic(1), ase.Atoms("Ar2", positions=[[0, 0, 0], [3.6, 0, 0]]), ase.Atoms("Ar")]
    systems = [System.from_ase(frame) for frame in frames]
    together = batch(systems)
    all_at_once = potential(together, neighbors_for(together, potential.request))
    alone = [potential(s, neighbors_for(s, potential.request)) for s in systems]
    assert all_at_once.energy is not None
    assert all_at_once.stress is not None
    np.testing.assert_allclose(all_at_once.forces, torch.cat([p.forces for p in alone]), atol=1e-15)
    np.testing.assert_allclose(all_at_once.energy, torch.cat([p.energy for p in alone]), atol=1e-15)
    assert alone[1].stress is None  # not periodic: there is none, rather than zero
    assert torch.isnan(all_at_once.stress[1:]).all()
    assert not torch.isnan(all_at_once.stress[0]).any()
    assert (all_at_once.forces[-1] == 0).all()


def test_a_sum_adds_forces_energies_and_stress() -> None:
    first, second = lennard_jones("shift"), LennardJones(epsilon=0.02, sigma=3.0, cutoff=5.0)
    total = SumPotential(first, second)
    assert total.request.cutoff == 7.0
    system = System.from_ase(triclinic())
    neighbors = neighbors_for(system, total.request)
    p, q, s = first(system, neighbors), second(system, neighbors), total(system, neighbors)
    assert s.conservative
    assert torch.equal(s.forces, p.forces + q.forces)
    assert torch.equal(s.energy, p.energy + q.energy)
    assert torch.equal(s.stress, p.stress + q.stress)
