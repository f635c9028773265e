"""D3 and D4: conversions, derivatives and batches; and what the libraries' own documentation prints."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import LennardJones
from kinetograph.models.dispersion import D3, D4
from kinetograph.potential import Potential, Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System, batch

pytest.importorskip("dftd3.interface")
pytest.importorskip("dftd4.interface")

CODATA = 1e-8
"""ASE's bohr and hartree are those of CODATA 2014: numbers converted with them differ so much, relatively."""


def predict(potential: Potential, system: System) -> Prediction:
    return potential(system, neighbors_for(system, potential.request))


def energy(potential: Potential, system: System) -> float:
    value = predict(potential, system).energy
    assert value is not None
    return float(value.sum())


def triclinic(seed: int = 4) -> ase.Atoms:
    """Eight atoms of five elements in a skewed cell, none nearer than 1.6 Å to another."""
    rng = np.random.default_rng(seed)
    cell = np.array([[4.4, 0, 0], [0.9, 4.7, 0], [-0.7, 0.6, 5.1]])
    fractions = np.array(np.meshgrid([0.1, 0.6], [0.2, 0.7], [0.15, 0.65])).reshape(3, -1).T
    positions = (fractions + rng.normal(0, 0.03, (8, 3))) @ cell
    return ase.Atoms(numbers=[1, 6, 8, 29, 17, 6, 8, 1], positions=positions, cell=cell, pbc=True)


POTENTIALS: dict[str, Potential] = {
    "d3": D3(functional="pbe"),
    "d3-zero": D3(functional="b3lyp", damping="zero"),
    "d3-short": D3(functional="pbe", three_body=True, cutoff=9.0, three_body_cutoff=6.0),
    "d4": D4(functional="pbe", three_body_cutoff=6.0),
    "d4-pairs": D4(functional="wb97x", three_body=False),
}


@pytest.mark.parametrize(
    ("potential", "expected"),
    [
        (D3(functional="TPSS"), -0.011441640787279111),
        (D3(functional="PBE"), -0.009781920198843976),
        (D4(functional="TPSS"), -0.007310393443152083),
        (D4(functional="PBE"), -0.005358475432239303),
    ],
)
def test_water_has_the_energy_that_the_libraries_print(potential: Potential, expected: float) -> None:
    # dftd3.ase and dftd4.ase, module documentation, eV.
    assert energy(potential, System.from_ase(molecule("H2O"))) == pytest.approx(expected, rel=2 * CODATA)


@pytest.mark.parametrize("name", POTENTIALS)
def test_forces_are_the_negative_gradient(name: str) -> None:
    potential = POTENTIALS[name]
    for atoms in (triclinic(), triclinic()[:5]):
        if len(atoms) == 5:
            atoms.pbc = False
        system = System.from_ase(atoms)
        forces = predict(potential, system).forces
        scale = float(forces.abs().max())
        h = 1e-4  # rounding 1e-14 eV/h is 1e-10 eV/Å; the forces are of the order of 1e-2
        for atom, axis in [(0, 0), (1, 2), (3, 1), (4, 0)]:
            step = torch.zeros_like(system.positions)
            step[atom, axis] = h
            up = energy(potential, replace(system, positions=system.positions + step))
            down = energy(potential, replace(system, positions=system.positions - step))
            assert float(forces[atom, axis]) == pytest.approx(-(up - down) / (2 * h), abs=1e-5 * scale)
        assert float(forces.sum(dim=0).abs().max()) < 1e-10


@pytest.mark.parametrize("name", POTENTIALS)
def test_stress_is_the_strain_derivative_in_a_triclinic_cell(name: str) -> None:
    potential = POTENTIALS[name]
    system = System.from_ase(triclinic())
    stress = predict(potential, system).stress
    assert stress is not None
    assert torch.equal(stress, stress.transpose(1, 2))
    h = 1e-6  # so small that no atom crosses the sphere of 21 Å in which the library counts neighbours
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]:
        values = []
        for sign in (1, -1):
            strain = torch.eye(3, dtype=torch.float64)
            strain[a, b] += sign * h / 2
            strain[b, a] += sign * h / 2
            values.append(
                energy(
                    potential,
                    replace(system, positions=system.positions @ strain, cell=system.cell @ strain),
                )
            )
        expected = (values[0] - values[1]) / (2 * h) / float(system.volume)
        assert float(stress[0, a, b]) == pytest.approx(expected, abs=1e-5 * float(stress.abs().max()))


@pytest.mark.parametrize("kind", ["d3", "d4"])
def test_a_crystal_equals_that_of_the_calculator_for_ase(kind: str) -> None:
    from dftd3.ase import DFTD3
    from dftd4.ase import DFTD4

    atoms = triclinic()
    # No three-body term: the calculators have no switch for it but s9, and no name goes with that in D4.
    parameters = {"s8": 0.78981345, "a1": 0.42896, "a2": 4.4407, "s9": 0.0}
    atoms.calc = (
        DFTD3(damping="d3bj", params_tweaks=parameters) if kind == "d3" else DFTD4(params_tweaks=parameters)
    )
    ours: type[D3] | type[D4] = D3 if kind == "d3" else D4
    potential = ours(parameters=parameters, smoothing=0.0)
    prediction = predict(potential, System.from_ase(atoms))
    assert prediction.energy is not None
    assert prediction.stress is not None
    assert float(prediction.energy) == pytest.approx(atoms.get_potential_energy(), rel=5 * CODATA)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    np.testing.assert_allclose(prediction.forces, forces, atol=5 * CODATA * np.abs(forces).max())
    np.testing.assert_allclose(prediction.stress[0], stress, atol=5 * CODATA * np.abs(stress).max())


def test_pairs_and_triples_go_to_zero_smoothly_at_their_cutoffs() -> None:
    def force(distance: float, smoothing: float) -> float:
        atoms = ase.Atoms("Ar2", positions=[[0, 0, 0], [distance, 0, 0]])
        return float(
            predict(D3(functional="pbe", cutoff=8.0, smoothing=smoothing), System.from_ase(atoms)).forces[
                0, 0
            ]
        )

    assert force(6.9, 1.0) == force(6.9, 0.0)
    jump = abs(force(8.0 + 1e-6, 0.0) - force(8.0 - 1e-6, 0.0))
    assert jump > 1e-5
    assert abs(force(8.0 + 1e-6, 1.0) - force(8.0 - 1e-6, 1.0)) < 1e-6 * jump


def test_a_slab_is_not_repeated_across_its_surface() -> None:
    potential = POTENTIALS["d3"]
    atoms = triclinic()
    atoms.cell[2] = [0.0, 0.0, 80.0]  # images are beyond the cutoff of 31.75 Å
    crystal = energy(potential, System.from_ase(atoms))
    atoms.pbc = [True, True, False]
    # Nothing is read of the third vector: it may be short, or slanted, or missing.
    for vector in ([0.0, 0.0, 80.0], [0.0, 0.0, 3.0], [9.0, -7.0, 40.0], [0.0, 0.0, 0.0]):
        atoms.cell[2] = vector
        assert energy(potential, System.from_ase(atoms)) == pytest.approx(crystal, rel=1e-12)
    assert predict(potential, System.from_ase(atoms)).stress is None
    atoms.translate([0.3, -0.7, -2.5])
    assert energy(potential, System.from_ase(atoms)) == pytest.approx(crystal, rel=1e-12)


def test_a_wire_is_the_middle_of_a_long_chain() -> None:
    potential = D3(functional="pbe", cutoff=8.0)
    atoms = triclinic()[:4]
    atoms.pbc = [False, True, False]
    wire = predict(potential, System.from_ase(atoms))
    chain = atoms.copy()
    chain.pbc = False
    # Pairs reach 8 Å, and a few Å more count as neighbours of their ends: eleven cells of 4.8 Å are enough.
    for number in range(-5, 6):
        if number:
            moved = atoms.copy()
            moved.translate(number * atoms.cell[1])
            chain += moved
    middle = predict(potential, System.from_ase(chain)).forces[:4]
    np.testing.assert_allclose(wire.forces, middle, atol=1e-6 * float(wire.forces.abs().max()))


@pytest.mark.parametrize("name", ["d3", "d4-pairs"])
def test_any_cell_of_one_lattice_gives_the_same(name: str) -> None:
    atoms = triclinic()
    one = energy(POTENTIALS[name], System.from_ase(atoms))
    two = energy(POTENTIALS[name], System.from_ase(atoms * (2, 1, 1)))
    assert two == pytest.approx(2 * one, rel=1e-7)  # D4's charges converge to so much
    for rows in ([[1, 0, 0], [4, 1, 0], [0, 0, 1]], [[1, 0, 0], [2, 1, 0], [-3, 1, 1]]):
        skewed = atoms.copy()
        skewed.cell = np.array(rows) @ atoms.cell.array
        assert energy(POTENTIALS[name], System.from_ase(skewed)) == pytest.approx(one, rel=1e-7)


def test_d4_refuses_a_slab_which_its_library_would_repeat_throughout() -> None:
    atoms = triclinic()
    atoms.pbc = [True, True, False]
    with pytest.raises(UserError, match="periodic in some directions only"):
        predict(POTENTIALS["d4"], System.from_ase(atoms))


@pytest.mark.parametrize("name", ["d3", "d4"])
def test_a_batch_gives_each_structure_its_own_numbers(name: str) -> None:
    potential = POTENTIALS[name]
    frames = [triclinic(1), molecule("C6H6"), ase.Atoms("Ar"), triclinic(2)]
    systems = [System.from_ase(frame) for frame in frames]
    together = predict(potential, batch(systems))
    alone = [predict(potential, system) for system in systems]
    assert together.conservative
    assert together.energy is not None
    assert together.stress is not None
    np.testing.assert_allclose(together.energy, torch.cat([p.energy for p in alone]), rtol=1e-13)
    np.testing.assert_allclose(together.forces, torch.cat([p.forces for p in alone]), atol=1e-15)
    assert alone[1].stress is None
    assert torch.isnan(together.stress[1:3]).all()
    np.testing.assert_allclose(together.stress[3], alone[3].stress[0], rtol=1e-12)
    assert float(together.energy[2]) == 0.0
    single = predict(potential, batch(systems).to(dtype=torch.float32))
    assert single.forces.dtype == torch.float32
    np.testing.assert_allclose(single.forces, together.forces, atol=1e-6)
    assert single.energy is not None
    assert single.energy.dtype == torch.float64


def test_d4_follows_the_total_charge() -> None:
    ion = System.from_ase(molecule("H2O"))
    cation = replace(ion, charge=torch.tensor([1.0], dtype=torch.float64))
    neutral = replace(ion, charge=torch.tensor([0.0], dtype=torch.float64))
    assert energy(POTENTIALS["d4"], neutral) == energy(POTENTIALS["d4"], ion)
    assert abs(energy(POTENTIALS["d4"], cation)) < 0.9 * abs(energy(POTENTIALS["d4"], ion))


def test_a_functional_and_its_parameters_are_the_same() -> None:
    system = System.from_ase(triclinic())
    by_hand = D3(parameters={"s8": 0.7875, "a1": 0.4289, "a2": 4.4407})  # PBE-D3(BJ), Grimme et al. 2011
    assert energy(by_hand, system) == pytest.approx(energy(POTENTIALS["d3"], system), rel=1e-12)
    three = D3(parameters={"s8": 0.7875, "a1": 0.4289, "a2": 4.4407}, three_body=True)
    assert energy(three, system) > energy(by_hand, system)  # repulsive in a dense crystal


def test_a_sum_keeps_the_neighbour_list_of_the_other_part_and_can_be_copied() -> None:
    other = LennardJones(epsilon=0.01, sigma=3.0, cutoff=5.0)
    total = copy.deepcopy(SumPotential(other, POTENTIALS["d3"], POTENTIALS["d4"]))
    assert total.request.cutoff == 5.0
    assert SumPotential(other, POTENTIALS["d3"]).request.receptive_field >= 100 * 0.529177
    system = System.from_ase(triclinic())
    neighbors = neighbors_for(system, total.request)
    parts = [part(system, neighbors) for part in (other, POTENTIALS["d3"], POTENTIALS["d4"])]
    whole = total(system, neighbors)
    assert whole.conservative
    np.testing.assert_allclose(whole.forces, sum(p.forces for p in parts), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(whole.stress, sum(p.stress for p in parts), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("method", [D3, D4])
def test_what_cannot_be_computed_is_refused(method: type[D3] | type[D4]) -> None:
    with pytest.raises(UserError, match="either a functional or damping parameters"):
        method()
    with pytest.raises(UserError, match="either a functional or damping parameters"):
        method(functional="pbe", parameters={"s8": 1.0, "a1": 0.4, "a2": 4.0})
    with pytest.raises(UserError, match="no damping parameters for the functional 'nonsense'"):
        method(functional="nonsense")
    with pytest.raises(UserError, match="a2"):
        method(parameters={"s8": 1.0, "a1": 0.4})
    with pytest.raises(UserError, match="a3"):
        method(parameters={"s8": 1.0, "a1": 0.4, "a2": 4.0, "a3": 1.0})
    with pytest.raises(ValueError, match="smoothing"):
        method(functional="pbe", cutoff=5.0, smoothing=6.0)
    heavy = ase.Atoms("Rf2", positions=[[0, 0, 0], [3, 0, 0]])  # the library of D3 would give zero
    with pytest.raises(UserError, match="no reference data for the element Rf"):
        predict(method(functional="pbe"), System.from_ase(heavy))
    with pytest.raises(UserError, match="no reference data for the element 119"):
        method(functional="pbe").check_elements([1, 119])
    with pytest.raises(ValueError, match="unknown damping 'bj2'"):
        D3(functional="pbe", damping="bj2")  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "module"), [(D3, "dftd3"), (D4, "dftd4")])
def test_a_missing_library_is_named(
    method: type[D3] | type[D4], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"{module}.interface", None)
    with pytest.raises(UserError, match=f"this needs {module}, which is not installed"):
        method(functional="pbe")
