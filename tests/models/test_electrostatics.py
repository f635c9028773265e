"""Fixed charges against Madelung's constants and an Ewald sum in NumPy with another split."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from itertools import product

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from scipy.special import erf

from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import LennardJones
from kinetograph.models.electrostatics import COULOMB_EV_A, FixedCharges
from kinetograph.potential import Potential, Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System, batch

pytest.importorskip("torchpme")

WATER = {"O": -0.834, "H": 0.417}
SALT = {"Na": 1.0, "Cl": -1.0, "Cs": 1.0, "Zn": 2.0, "S": -2.0}


def predict(potential: Potential, system: System) -> Prediction:
    return potential(system, neighbors_for(system, potential.request))


def energy(potential: Potential, system: System) -> float:
    value = predict(potential, system).energy
    assert value is not None
    return float(value.sum())


def water_cell(seed: int = 1) -> ase.Atoms:
    """Three water molecules in a skewed cell."""
    rng = np.random.default_rng(seed)
    atoms = ase.Atoms(cell=[[5.1, 0, 0], [0.9, 4.6, 0], [-0.7, 0.8, 4.9]], pbc=True)
    for fraction in ([0.1, 0.1, 0.2], [0.6, 0.5, 0.3], [0.2, 0.6, 0.8]):
        one = molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.translate(np.array(fraction) @ atoms.cell.array)
        atoms += one
    return atoms


def ewald(atoms: ase.Atoms, charges: dict[str, float], smearing: float, split: float) -> float:
    """½ Σ q q u over all images, converged to 1e-12: pairs within 7.5 splits, waves up to 7.5 over it."""
    q = np.array([charges[symbol] for symbol in atoms.symbols])
    cell, volume = atoms.cell.array, atoms.get_volume()
    total = 0.0
    heights = volume / np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    repeats = [range(-n, n + 1) for n in np.ceil(7.5 * split / heights).astype(int) + 1]
    for shift in product(*repeats):
        vectors = atoms.positions[None] - atoms.positions[:, None] + np.array(shift) @ cell
        r = np.linalg.norm(vectors, axis=2)
        real = r > 0
        r = np.where(real, r, 1.0)
        whole = erf(r / (math.sqrt(2) * smearing)) if smearing else 1.0
        u = (whole - erf(r / (math.sqrt(2) * split))) / r
        total += 0.5 * (q[:, None] * q * u * real).sum()
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    n_waves = [
        range(-n, n + 1)
        for n in np.ceil(7.5 / split * np.linalg.norm(cell, axis=1) / (2 * np.pi)).astype(int)
    ]
    for index in product(*n_waves):
        k = np.array(index) @ reciprocal
        square = k @ k
        if square > 0:
            structure = abs((q * np.exp(1j * atoms.positions @ k)).sum()) ** 2
            total += 2 * np.pi / volume * math.exp(-0.5 * split**2 * square) / square * structure
    total -= (q**2).sum() / (math.sqrt(2 * math.pi) * split)
    return COULOMB_EV_A * total


@pytest.mark.parametrize(
    ("crystal", "madelung"),
    [
        (("NaCl", "rocksalt", 5.64, 5.64 / 2), 1.7475645946331822),
        (("CsCl", "cesiumchloride", 4.12, 4.12 * math.sqrt(3) / 2), 1.7626747730709885),
        (("ZnS", "zincblende", 5.41, 5.41 * math.sqrt(3) / 4), 1.6380550533889423),
    ],
)
@pytest.mark.parametrize("cubic", [False, True])
def test_point_charges_have_the_madelung_constant(
    crystal: tuple[str, str, float, float], madelung: float, cubic: bool
) -> None:
    name, structure, length, nearest = crystal
    atoms = bulk(name, structure, a=length, cubic=cubic and structure != "cesiumchloride")
    per_pair = -madelung * COULOMB_EV_A * abs(SALT[atoms.symbols[0]]) ** 2 / nearest * len(atoms) / 2
    for accuracy in (1e-6, 1e-10):
        potential = FixedCharges(charges=SALT, smearing=0.0, cutoff=8.0, accuracy=accuracy)
        assert energy(potential, System.from_ase(atoms)) == pytest.approx(
            per_pair, rel=5 * accuracy
        )  # waves add up


def test_the_coulomb_constant_is_that_of_codata() -> None:
    from scipy import constants

    expected = constants.e / (4 * math.pi * constants.epsilon_0) * 1e10
    assert pytest.approx(expected, rel=2e-9) == COULOMB_EV_A  # two adjustments differ by 1e-9


@pytest.mark.parametrize("smearing", [0.0, 0.7, 1.0])
def test_a_crystal_equals_an_ewald_sum_with_another_split(smearing: float) -> None:
    atoms = water_cell()
    expected = ewald(atoms, WATER, smearing, 1.5)
    assert ewald(atoms, WATER, smearing, 1.2) == pytest.approx(expected, rel=1e-11)
    for accuracy in (1e-6, 1e-10):
        potential = FixedCharges(charges=WATER, smearing=smearing, accuracy=accuracy, method="ewald")
        assert energy(potential, System.from_ase(atoms)) == pytest.approx(expected, rel=accuracy)
    mesh = FixedCharges(charges=WATER, smearing=smearing, method="pme")
    assert energy(mesh, System.from_ase(atoms)) == pytest.approx(expected, rel=2e-6)


def test_excluded_pairs_leave_the_energy_between_molecules() -> None:
    atoms = water_cell()
    inside = 0.0
    for first in range(0, 9, 3):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            r = atoms.get_distance(first + i, first + j)
            u = COULOMB_EV_A * erf(r / math.sqrt(2)) / r
            inside += WATER[atoms.symbols[first + i]] * WATER[atoms.symbols[first + j]] * u
    expected = ewald(atoms, WATER, 1.0, 1.5)
    crystal = FixedCharges(charges=WATER, exclude_bonds=2)
    assert energy(crystal, System.from_ase(atoms)) == pytest.approx(expected - inside, rel=1e-5)
    assert energy(crystal, System.from_ase(molecule("H2O"))) == pytest.approx(0.0, abs=1e-14)
    # Only the ends of bonds: what is left of a molecule is its two hydrogens.
    bonds_only = FixedCharges(charges=WATER, exclude_bonds=1, smearing=0.0)
    r = molecule("H2O").get_distance(1, 2)
    assert energy(bonds_only, System.from_ase(molecule("H2O"))) == pytest.approx(
        COULOMB_EV_A * 0.417**2 / r, rel=1e-12
    )


@pytest.mark.parametrize("smearing", [0.0, 1.0])
def test_a_molecule_is_summed_over_all_its_pairs(smearing: float) -> None:
    atoms = water_cell()
    atoms.pbc = False
    atoms.positions[3:] += 30.0  # beyond any neighbour list
    q = [WATER[symbol] for symbol in atoms.symbols]
    expected = 0.0
    for i in range(9):
        for j in range(i):
            r = atoms.get_distance(i, j)
            expected += (
                COULOMB_EV_A * q[i] * q[j] * (erf(r / (math.sqrt(2) * smearing)) if smearing else 1.0) / r
            )
    potential = FixedCharges(charges=WATER, smearing=smearing)
    assert energy(potential, System.from_ase(atoms)) == pytest.approx(expected, rel=1e-12)


def test_smeared_charges_are_coulombs_law_from_five_angstrom_on_and_finite_below() -> None:
    potential = FixedCharges(charges=WATER)
    r = torch.tensor([0.0, 1e-9, 3.0, 4.0, 5.0], dtype=torch.float64, requires_grad=True)
    u = potential.pair_energy(r)
    (slope,) = torch.autograd.grad(u.sum(), r)
    limit = COULOMB_EV_A * math.sqrt(2 / math.pi)
    np.testing.assert_allclose(u[:2].detach(), [limit, limit], rtol=1e-12)
    assert slope.isfinite().all()
    missing = (1 - u * r / COULOMB_EV_A)[2:]
    np.testing.assert_allclose(missing.detach(), [2.7e-3, 6.3e-5, 5.7e-7], rtol=0.02)
    on_top = ase.Atoms("OH", positions=[[1.0, 2.0, 3.0]] * 2)
    prediction = predict(potential, System.from_ase(on_top))
    assert prediction.energy is not None
    assert float(prediction.energy) == pytest.approx(-0.834 * 0.417 * limit, rel=1e-12)
    assert (prediction.forces == 0).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "ewald"},
        {"method": "pme"},
        {"smearing": 0.0, "cutoff": 7.0, "accuracy": 1e-10},
        {"smearing": 0.0, "method": "pme", "accuracy": 1e-10},
        {"exclude_bonds": 2},
    ],
)
def test_forces_and_stress_are_derivatives(arguments: dict[str, object]) -> None:
    potential = FixedCharges(charges=WATER, **arguments)  # type: ignore[arg-type]
    system = System.from_ase(water_cell())
    prediction = predict(potential, system)
    assert prediction.conservative
    assert prediction.stress is not None
    # The step is so small that nothing is assigned to other points of the mesh.
    h = 1e-5
    for atom, axis in [(0, 0), (4, 1), (8, 2)]:
        step = torch.zeros_like(system.positions)
        step[atom, axis] = h
        up, down = (energy(potential, replace(system, positions=system.positions + s)) for s in (step, -step))
        assert float(prediction.forces[atom, axis]) == pytest.approx(-(up - down) / (2 * h), abs=1e-7)
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]:
        values = []
        for sign in (1, -1):
            strain = torch.eye(3, dtype=torch.float64)
            strain[a, b] += sign * h / 2
            strain[b, a] += sign * h / 2
            values.append(
                energy(
                    potential, replace(system, positions=system.positions @ strain, cell=system.cell @ strain)
                )
            )
        expected = (values[0] - values[1]) / (2 * h) / float(system.volume)
        assert float(prediction.stress[0, a, b]) == pytest.approx(expected, abs=1e-8)


def test_the_mesh_agrees_with_the_sum() -> None:
    atoms = water_cell() * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    system = System.from_ase(atoms)
    exact = predict(FixedCharges(charges=WATER, method="ewald", accuracy=1e-10), system)
    mesh = predict(FixedCharges(charges=WATER), system)  # 72 atoms: a sum
    np.testing.assert_allclose(mesh.forces, exact.forces, atol=1e-5)
    mesh = predict(FixedCharges(charges=WATER, method="pme"), system)
    np.testing.assert_allclose(mesh.forces, exact.forces, atol=1e-4)
    np.testing.assert_allclose(mesh.stress, exact.stress, atol=1e-6)


def test_the_larger_structure_goes_to_the_mesh() -> None:
    system = System.from_ase(water_cell() * (3, 2, 2))  # 108 atoms
    auto, mesh = (predict(FixedCharges(charges=WATER, method=m), system) for m in ("auto", "pme"))
    assert torch.equal(auto.forces, mesh.forces)


@pytest.mark.parametrize("arguments", [{}, {"smearing": 0.0}, {"exclude_bonds": 2}])
def test_a_batch_gives_each_structure_its_own_numbers(arguments: dict[str, object]) -> None:
    potential = FixedCharges(charges=WATER, **arguments)  # type: ignore[arg-type]
    frames = [water_cell(1), molecule("H2O"), ase.Atoms("O"), water_cell(2), molecule("OH")]
    systems = [System.from_ase(frame) for frame in frames]
    together = predict(potential, batch(systems))
    alone = [predict(potential, system) for system in systems]
    assert together.energy is not None
    assert together.stress is not None
    np.testing.assert_allclose(together.energy, torch.cat([p.energy for p in alone]), atol=1e-13)
    np.testing.assert_allclose(together.forces, torch.cat([p.forces for p in alone]), atol=1e-13)
    assert alone[1].stress is None
    assert torch.isnan(together.stress[[1, 2, 4]]).all()
    np.testing.assert_allclose(together.stress[3], alone[3].stress[0], atol=1e-15)
    assert float(together.energy[2]) == 0.0
    assert (alone[2].forces == 0).all()
    single = predict(potential, batch(systems).to(dtype=torch.float32))
    assert single.forces.dtype == torch.float32
    # Phases k·r of a few dozen radians, right within 4e-6.
    np.testing.assert_allclose(single.forces, together.forces, atol=1e-4)


def test_a_sum_adds_up_and_can_be_copied_after_use() -> None:
    other = LennardJones(epsilon=0.01, sigma=3.0, cutoff=4.0)
    system = System.from_ase(water_cell())
    for charges in (FixedCharges(charges=WATER), FixedCharges(charges=WATER, exclude_bonds=2, method="pme")):
        total = SumPotential(other, charges)
        neighbors = neighbors_for(system, total.request)
        whole = total(system, neighbors)
        again = copy.deepcopy(total)(system, neighbors)
        assert torch.equal(whole.forces, again.forces)
        expected = other(system, neighbors).forces + charges(system, neighbors).forces
        np.testing.assert_allclose(whole.forces, expected, atol=1e-14)
        assert total.state_dict() == {}  # its arguments say everything
    assert SumPotential(other, FixedCharges(charges=WATER)).request.cutoff == 4.0


def test_what_cannot_be_summed_is_refused() -> None:
    atoms = water_cell()
    atoms.pbc = [True, True, False]
    with pytest.raises(UserError, match=r"periodic in some directions only \(structure 1\)"):
        predict(FixedCharges(charges=WATER), batch([System.from_ase(a) for a in (molecule("H2O"), atoms)]))
    with pytest.raises(UserError, match=r"add up to -0\.417, but a periodic structure must be neutral"):
        predict(FixedCharges(charges=WATER), System.from_ase(water_cell()[:-1]))
    with pytest.raises(UserError, match="no charge is given for N"):
        predict(FixedCharges(charges=WATER), System.from_ase(molecule("NH3")))
    with pytest.raises(UserError, match="no charge is given for N"):
        FixedCharges(charges=WATER).check_elements([1, 7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"charges": {}}, "no charges are given"),
        ({"charges": [0.4, -0.8]}, "no charges are given"),
        ({"charges": {"Xy": 1.0}}, "'Xy' is no element"),
        ({"charges": {"O": "minus"}}, "the charge of O is 'minus', not a number"),
        ({"charges": {"O": math.nan}}, "the charge of O is nan, not a number"),
    ],
)
def test_charges_that_are_none_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FixedCharges(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments", [{"smearing": -1.0}, {"exclude_bonds": -1}, {"accuracy": 1.0}, {"method": "p3m"}]
)
def test_impossible_options_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        FixedCharges(charges=WATER, **arguments)  # type: ignore[arg-type]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchpme", None)
    with pytest.raises(UserError, match="this needs torchpme, which is not installed"):
        FixedCharges(charges=WATER)
