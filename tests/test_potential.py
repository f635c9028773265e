"""Forces and stress are derivatives of the energy; sums of potentials add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as AseLennardJones

from kinetograph.dynamics import VelocityVerlet, simulate
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.classical import Harmonic, LennardJones
from kinetograph.models.electrostatics import FixedCharges
from kinetograph.models.gemnet import GemNet
from kinetograph.models.painn import PaiNN
from kinetograph.nn.model import HEADS
from kinetograph.potential import EnergyPotential
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System, batch
from kinetograph.trajectory import Trajectory

TINY = {
    "width": 8,
    "edge_width": 8,
    "n_layers": 1,
    "triplet_width": 4,
    "triplet_bilinear": 4,
    "n_spherical": 2,
    "n_radial": 2,
}


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


@pytest.mark.parametrize("training", [False, True])
def test_a_learned_potential_answers_in_units_whichever_head_is_asked(training: bool) -> None:
    potential = LearnedPotential(PaiNN([1, 8], cutoff=4.0, forces="both", width=8, n_layers=1)).double()
    potential.force_scale.fill_(1.7)
    potential.reference_energies[torch.tensor([1, 8])] = torch.tensor([-13.6, -2041.0], dtype=torch.float64)
    potential.train(training)
    system = batch([System.from_ase(molecule(name)) for name in ("H2O", "H2O2")])
    neighbors = neighbors_for(system, potential.request)
    graph = build_graph(system, neighbors, potential.request, differentiable=True)
    plain = potential.model(graph, HEADS)
    energies = 1.7 * plain.energies + potential.reference_energies[system.atomic_numbers]

    prediction = potential(system, neighbors)
    torch.testing.assert_close(prediction.atomic_energies, energies)
    torch.testing.assert_close(prediction.energy, torch.stack([energies[:3].sum(), energies[3:].sum()]))
    if training:  # both at once
        torch.testing.assert_close(prediction.direct_forces, 1.7 * plain.forces)
    else:
        potential.use_forces("direct")
        torch.testing.assert_close(potential(system, neighbors).forces, 1.7 * plain.forces.detach())


def test_a_separate_energy_comes_with_direct_forces_that_are_not_its_gradient() -> None:
    potential = LearnedPotential(GemNet([1, 8], cutoff=4.0, forces="direct", separate_energy=True, **TINY))
    potential = potential.double().eval()
    potential.reference_energies[8] = -2041.0
    system = System.from_ase(molecule("H2O"))
    prediction = potential(system, neighbors_for(system, potential.request))
    assert potential.gives_energy
    assert not potential.gives_stress
    assert not prediction.conservative
    assert prediction.stress is None
    assert prediction.energy is not None
    assert abs(prediction.energy.item() + 2041.0) < 20.0


def test_bond_types_of_a_wider_rule_count_for_none_in_a_part_with_a_narrower_one() -> None:
    ethane = System.from_ase(molecule("C2H6"))
    narrow = LearnedPotential(PaiNN([1, 6], cutoff=4.0, max_bond_separation=1, width=8, n_layers=1)).eval()
    wide = LearnedPotential(PaiNN([1, 6], cutoff=4.0, max_bond_separation=3, width=8, n_layers=1)).eval()
    both = SumPotential(narrow, wide)
    alone = [part(ethane, neighbors_for(ethane, part.request)).forces for part in (narrow, wide)]
    together = both(ethane, neighbors_for(ethane, both.request)).forces
    torch.testing.assert_close(together, alone[0] + alone[1])


def large_argon(dtype: torch.dtype, rattle_A: float = 0.1) -> System:
    """1000 atoms."""
    atoms = bulk("Ar", "sc", 3.7) * (10, 10, 10)
    atoms.rattle(rattle_A, seed=1)
    return System.from_ase(atoms, dtype=dtype)


def heavy(element_energy_eV: float) -> LearnedPotential:
    """A network in single precision whose element has that energy."""
    torch.manual_seed(0)
    potential = LearnedPotential(PaiNN([18], cutoff=4.5, forces="conservative", width=8, n_layers=1)).eval()
    potential.reference_energies[18] = element_energy_eV
    return potential


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_of_large_total_energies_are_right_in_single_precision(dtype: torch.dtype) -> None:
    potential, exact = heavy(-1e4), heavy(0.0).double()
    first, second = large_argon(dtype, 0.1), large_argon(dtype, 0.3)
    difference = energy(potential, second) - energy(potential, first)
    expected = energy(exact, second.to(dtype=torch.float64)) - energy(exact, first.to(dtype=torch.float64))
    assert abs(expected) > 0.01
    # Single precision rounds -1e7 eV to whole electronvolts. The network's own rounding is 1e-7 eV an atom.
    assert difference == pytest.approx(expected, abs=1e-3)


def test_energies_are_in_double_precision_in_every_potential_and_forces_in_the_type_of_the_system() -> None:
    system = System.from_ase(triclinic(), dtype=torch.float32)
    network, charges = heavy(-1e4), FixedCharges(charges={"Ar": 0.0})
    for potential in (network, lennard_jones(), charges, SumPotential(network, charges)):
        prediction = potential(system, neighbors_for(system, potential.request))
        assert prediction.energy is not None
        assert prediction.energy.dtype == torch.float64
        assert prediction.atomic_energies is None or prediction.atomic_energies.dtype == torch.float64
        assert prediction.forces.dtype == torch.float32
        assert prediction.stress is not None
        assert prediction.stress.dtype == torch.float32


def test_a_large_energy_of_the_elements_leaves_no_steps_in_the_energy_of_a_run(tmp_path: Path) -> None:
    runs = {}
    for element_energy in (0.0, -1e4):
        path = tmp_path / f"{element_energy:g}.h5"
        simulate(
            heavy(element_energy),
            large_argon(torch.float32),
            VelocityVerlet(2.0),
            n_steps=20,
            every=1,
            initial_temperature_K=60.0,
            path=path,
            status=False,
        )
        with Trajectory.open(path) as run:
            runs[element_energy] = run.positions(), run.observables["potential_energy_eV"]
    np.testing.assert_array_equal(runs[0.0][0], runs[-1e4][0])
    assert np.abs(np.diff(runs[0.0][1])).max() > 1e-3  # the energy moves
    # Double precision holds -1e7 eV to 2e-9, and 1000 additions may round a few times that.
    np.testing.assert_allclose(runs[-1e4][1] + 1e7, runs[0.0][1], rtol=0, atol=1e-6)
