"""Morse and the ZBL core against their formulas, summed in plain loops over periodic images."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.data import covalent_radii

from kinetograph.errors import UserError
from kinetograph.graph import Graph, neighbors_for
from kinetograph.models.classical import ZBL, LennardJones, Morse
from kinetograph.potential import EnergyPotential, PairEnergyPotential, Potential, Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System, batch


def predict(potential: Potential, system: System) -> Prediction:
    return potential(system, neighbors_for(system, potential.request))


def energy(potential: Potential, system: System) -> float:
    value = predict(potential, system).energy
    assert value is not None
    return float(value.sum())


def crushed_cell(rng: np.random.Generator) -> ase.Atoms:
    """Seven atoms of four elements in a skewed cell that is narrower than 2.5 Å, some of them very close."""
    cell = np.array([[2.2, 0, 0], [0.5, 2.3, 0], [-0.4, 0.3, 2.1]])
    return ase.Atoms(
        numbers=[1, 8, 29, 79, 1, 6, 8], positions=rng.uniform(0, 1, (7, 3)) @ cell, cell=cell, pbc=True
    )


def zbl_by_hand(z1: float, z2: float, r: float, inner: float, outer: float) -> float:
    """LAMMPS, pair_style zbl, with derivatives at the outer radius by the chain rule term by term."""
    weights = np.array([0.18175, 0.50986, 0.28022, 0.02817])
    rates = np.array([3.19980, 0.94229, 0.40290, 0.20162]) * (z1**0.23 + z2**0.23) / 0.46850

    def bare(x: float) -> np.ndarray:
        f = weights * np.exp(-rates * x)
        e = f.sum() / x
        e1 = (-rates * f).sum() / x - f.sum() / x**2
        e2 = (rates**2 * f).sum() / x + 2 * (rates * f).sum() / x**2 + 2 * f.sum() / x**3
        return 14.399645478 * z1 * z2 * np.array([e, e1, e2])

    if r >= outer:
        return 0.0
    e, e1, e2 = bare(outer)
    width = outer - inner
    a = (-3 * e1 + width * e2) / width**2
    b = (2 * e1 - width * e2) / width**3
    c = -e + width * e1 / 2 - width**2 * e2 / 12
    t = max(r - inner, 0.0)
    return float(bare(r)[0] + a / 3 * t**3 + b / 4 * t**4 + c)


def pair_sum(atoms: ase.Atoms, pair) -> float:
    total = 0.0
    images = range(-3, 4) if atoms.pbc.all() else range(1)
    for i, j in product(range(len(atoms)), repeat=2):
        for shift in product(images, repeat=3):
            if i == j and shift == (0, 0, 0):
                continue
            r = np.linalg.norm(atoms.positions[j] + np.array(shift) @ atoms.cell.array - atoms.positions[i])
            total += 0.5 * pair(atoms.numbers[i], atoms.numbers[j], r)
    return total


def own_radii(z1: int, z2: int) -> tuple[float, float]:
    outer = 0.65 * (covalent_radii[z1] + covalent_radii[z2])
    return outer / 2, outer


def test_zbl_equals_the_formula_with_one_radius_for_all(rng: np.random.Generator) -> None:
    atoms = crushed_cell(rng)
    expected = pair_sum(atoms, lambda z1, z2, r: zbl_by_hand(z1, z2, r, 1.0, 2.5))
    assert energy(ZBL(inner=1.0, outer=2.5), System.from_ase(atoms)) == pytest.approx(expected, rel=1e-12)


def test_zbl_equals_the_formula_with_radii_of_each_pair(rng: np.random.Generator) -> None:
    for atoms in (crushed_cell(rng), ase.Atoms("OHHC", positions=rng.uniform(0, 0.6, (4, 3)))):
        expected = pair_sum(atoms, lambda z1, z2, r: zbl_by_hand(z1, z2, r, *own_radii(z1, z2)))
        assert expected > 0.1
        assert energy(ZBL(), System.from_ase(atoms)) == pytest.approx(expected, rel=1e-12)


def test_zbl_ends_with_energy_force_and_curvature_zero() -> None:
    potential = ZBL()
    for z1, z2 in [(1, 1), (1, 8), (6, 6), (29, 79), (55, 9)]:
        first, second = torch.tensor([z1]), torch.tensor([z2])
        outer = torch.tensor([own_radii(z1, z2)[1]], dtype=torch.float64, requires_grad=True)
        u = potential.pair_energy(outer, first, second)
        # The radii of the pair are constants here: what is differentiated is the distance.
        (slope,) = torch.autograd.grad(u, outer, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, outer)
        scale = float(potential.bare(outer.detach(), first, second)[2])
        assert abs(float(u.detach())) < 1e-13 * scale
        assert abs(float(slope.detach())) < 1e-12 * scale
        assert abs(float(curvature)) < 1e-12 * scale


def test_zbl_repels_at_every_distance_and_has_no_kink_at_the_inner_radius() -> None:
    potential = ZBL()
    for z1, z2 in [(1, 1), (1, 8), (7, 7), (1, 92), (29, 79), (55, 9), (96, 96)]:
        inner, outer = own_radii(z1, z2)
        r = torch.linspace(0.02, 0.999, 500, dtype=torch.float64).mul(outer).requires_grad_(True)
        numbers = torch.full((500,), z1), torch.full((500,), z2)
        u = potential.pair_energy(r, *numbers)
        (slope,) = torch.autograd.grad(u.sum(), r)
        assert (u > 0).all()
        assert (slope < 0).all()
        around = torch.tensor([inner - 1e-9, inner + 1e-9], dtype=torch.float64, requires_grad=True)
        (ends,) = torch.autograd.grad(
            potential.pair_energy(around, numbers[0][:2], numbers[1][:2]).sum(), around
        )
        # The second derivative is finite, so two slopes 2e-9 Å apart agree to 1e-7 or so.
        assert float(ends[0]) == pytest.approx(float(ends[1]), rel=1e-6)


@pytest.mark.parametrize("name", ["N2", "H2", "CO", "HF", "C6H6", "H2O", "LiF", "O2", "SO2", "SiH4"])
def test_zbl_leaves_molecules_as_they_are(name: str) -> None:
    prediction = predict(ZBL(), System.from_ase(molecule(name)))
    assert prediction.energy is not None
    assert float(prediction.energy) == 0.0
    assert (prediction.forces == 0).all()


def test_zbl_sees_only_its_radius_in_the_longer_list_of_a_sum(rng: np.random.Generator) -> None:
    system = System.from_ase(crushed_cell(rng))
    core, long = ZBL(), LennardJones(epsilon=1e-9, sigma=1.0, cutoff=5.0)
    total = SumPotential(core, long)
    expected = predict(core, system).forces + predict(long, system).forces
    np.testing.assert_allclose(
        total(system, neighbors_for(system, total.request)).forces, expected, rtol=1e-12, atol=1e-10
    )


@pytest.mark.parametrize(
    "potential",
    [
        ZBL(),
        ZBL(outer=2.5),
        Morse(depth=4.0, steepness=1.7, length=1.1, cutoff=2.9),
        Morse(depth=4.0, steepness=1.7, length=1.1, cutoff=2.9, truncation="switch", switch_start=2.0),
    ],
)
def test_forces_and_stress_are_derivatives(potential: EnergyPotential, rng: np.random.Generator) -> None:
    atoms = crushed_cell(rng)
    atoms.set_cell(atoms.cell * 1.4, scale_atoms=True)
    system = System.from_ase(atoms)
    prediction = predict(potential, system)
    assert prediction.stress is not None
    assert prediction.conservative
    h = 1e-5  # error h² u''': relative 1e-8 where u changes over 0.1 Å
    scale = float(prediction.forces.abs().max())
    for atom, axis in [(0, 0), (3, 1), (6, 2)]:
        step = torch.zeros_like(system.positions)
        step[atom, axis] = h
        up, down = (energy(potential, replace(system, positions=system.positions + s)) for s in (step, -step))
        assert float(prediction.forces[atom, axis]) == pytest.approx(-(up - down) / (2 * h), abs=1e-6 * scale)
    largest = float(prediction.stress.abs().max())
    for a, b in [(0, 0), (0, 1), (2, 1), (2, 2)]:
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
        assert float(prediction.stress[0, a, b]) == pytest.approx(expected, abs=1e-6 * largest)


def test_morse_has_its_depth_its_length_and_its_frequency() -> None:
    potential = Morse(depth=4.5, steepness=1.9, length=0.74, cutoff=20.0, truncation="cut")
    r = torch.tensor([0.74], dtype=torch.float64, requires_grad=True)
    u = potential.pair_energy(r)
    (slope,) = torch.autograd.grad(u, r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, r)
    assert float(u.detach()) == pytest.approx(-4.5, abs=1e-14)
    assert float(slope.detach()) == pytest.approx(0.0, abs=1e-13)
    assert float(curvature) == pytest.approx(2 * 4.5 * 1.9**2, rel=1e-13)


@pytest.mark.parametrize("truncation", ["cut", "shift", "switch"])
def test_morse_equals_the_formula(truncation: str, rng: np.random.Generator) -> None:
    def whole(r: float) -> float:
        return 1.3 * ((1 - np.exp(-1.7 * (r - 1.2))) ** 2 - 1)

    def pair(z1: int, z2: int, r: float) -> float:
        if r >= 2.7:
            return 0.0
        x = max((r - 2.0) / 0.7, 0.0)
        switch = 1 - 6 * x**5 + 15 * x**4 - 10 * x**3
        return {"cut": whole(r), "shift": whole(r) - whole(2.7), "switch": whole(r) * switch}[truncation]

    potential = Morse(
        depth=1.3, steepness=1.7, length=1.2, cutoff=2.7, truncation=truncation, switch_start=2.0
    )
    for atoms in (crushed_cell(rng), ase.Atoms("OHHC", positions=rng.uniform(0, 2, (4, 3)))):
        assert energy(potential, System.from_ase(atoms)) == pytest.approx(pair_sum(atoms, pair), rel=1e-12)


@pytest.mark.parametrize("potential", [ZBL(), Morse(depth=1.0, steepness=1.7, length=1.2, cutoff=2.7)])
def test_batches_single_precision_and_isolated_atoms(
    potential: EnergyPotential, rng: np.random.Generator
) -> None:
    frames = [crushed_cell(rng), ase.Atoms("He"), ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.5]])]
    systems = [System.from_ase(frame) for frame in frames]
    alone = [predict(potential, system) for system in systems]
    together = predict(potential, batch(systems))
    np.testing.assert_allclose(together.forces, torch.cat([p.forces for p in alone]), rtol=1e-13)
    np.testing.assert_allclose(together.energy, torch.cat([p.energy for p in alone]), rtol=1e-13)
    assert together.stress is not None
    assert torch.isnan(together.stress[1:]).all()
    np.testing.assert_allclose(together.stress[0], alone[0].stress[0], rtol=1e-12)
    assert (alone[1].forces == 0).all()
    single = predict(potential, batch(systems).to(dtype=torch.float32))
    assert single.forces.dtype == torch.float32
    largest = float(together.forces.abs().max())
    # Distances in single precision are right within 2e-7 Å, and forces change by their tenfold per 0.1 Å.
    np.testing.assert_allclose(single.forces, together.forces, atol=1e-4 * largest)


def test_impossible_radii_and_unknown_elements_are_refused() -> None:
    for arguments in ({"inner": 1.0}, {"inner": 2.0, "outer": 1.0}, {"outer": -1.0}, {"bond_fraction": 0.0}):
        with pytest.raises(ValueError, match=r"inner|bond_fraction"):
            ZBL(**arguments)
    with pytest.raises(UserError, match="no covalent radius of Es is known"):
        ZBL().check_elements([1, 99])
    ZBL(outer=2.0).check_elements([1, 99])
    with pytest.raises(ValueError, match="switch_start"):
        Morse(depth=1.0, steepness=1.0, length=1.0, cutoff=3.0, truncation="switch")


class ThroughGraph(EnergyPotential):
    """A pair potential as an energy of edges, differentiated along them: every pair is looked at twice."""

    def __init__(self, pairs: PairEnergyPotential) -> None:
        super().__init__()
        self.pairs = pairs
        self.request = pairs.request

    def graph_energies(self, graph: Graph) -> torch.Tensor:
        halves = 0.5 * self.pairs.pair_energy(graph.distances)
        return torch.zeros(graph.n_atoms, dtype=halves.dtype).index_add(0, graph.center, halves)


@pytest.mark.parametrize("truncation", ["cut", "shift", "switch"])
def test_each_pair_looked_at_once_gives_what_edges_give(truncation: str) -> None:
    """A molecule, a slab, a skewed cell, and one smaller than the cutoff: its atoms meet their images."""
    options = {"cutoff": 5.0, "truncation": truncation}
    if truncation == "switch":
        options["switch_start"] = 4.0
    small = bulk("Ar", "fcc", 5.3)  # one atom; images at 3.7 Å
    skewed = bulk("Ar", "fcc", 5.3, cubic=True)
    skewed.set_cell(skewed.cell[:] @ (np.eye(3) + 0.1 * np.arange(9).reshape(3, 3) / 9.0), scale_atoms=True)
    skewed.rattle(0.2, seed=1)
    slab = bulk("Ar", "fcc", 5.3, cubic=True)
    slab.pbc = [True, True, False]
    slab.rattle(0.2, seed=2)
    cluster = ase.Atoms("Ar4", positions=[[0, 0, 0], [3.6, 0, 0], [0, 3.7, 0], [0.2, 0.1, 3.5]])
    for atoms in ([small], [skewed], [cluster], [small, slab, cluster, skewed]):
        system = batch([System.from_ase(one) for one in atoms])
        potential = LennardJones(epsilon=0.0103, sigma=3.4, **options)
        neighbors = neighbors_for(system, potential.request, skin=0.7)
        found, expected = potential(system, neighbors), ThroughGraph(potential)(system, neighbors)
        for name in ("forces", "energy", "atomic_energies"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-14)
        assert (found.stress is None) == (expected.stress is None)
        if found.stress is not None:
            torch.testing.assert_close(found.stress, expected.stress, rtol=1e-12, atol=1e-16, equal_nan=True)
