"""Restraints against their formulas in plain loops, finite differences, and what they do in a run."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import ase
import numpy as np
import pytest
import torch

from kinetograph import units
from kinetograph.dynamics import VelocityVerlet
from kinetograph.dynamics.checkpoint import describe_potential
from kinetograph.dynamics.restraints import (
    DistanceRestraint,
    FlatWall,
    PositionRestraint,
    Restraint,
    SphericalWall,
)
from kinetograph.dynamics.state import total_energy
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import LennardJones
from kinetograph.potential import Potential, Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System, batch

CELL = np.array([[7.0, 0.0, 0.0], [2.5, 6.0, 0.0], [-1.5, 2.0, 8.0]])


def predict(potential: Potential, system: System) -> Prediction:
    return potential(system, neighbors_for(system, potential.request))


def energies(potential: Potential, system: System) -> np.ndarray:
    value = predict(potential, system).energy
    assert value is not None
    return value.numpy()


def atoms_of(rng: np.random.Generator, n: int, pbc: object = True) -> ase.Atoms:
    return ase.Atoms(f"Ar{n}", positions=rng.uniform(0, 1, (n, 3)) @ CELL, cell=CELL, pbc=pbc)


def shortest(vector: np.ndarray, pbc: tuple[bool, bool, bool]) -> np.ndarray:
    """By trying all images."""
    images = [np.array(s) @ CELL for s in product(*(range(-3, 4) if p else [0] for p in pbc))]
    return min((vector + image for image in images), key=lambda v: float(v @ v))


PLACES = np.array([[0.3, 0.2, 0.1], [6.0, 5.0, 4.0], [-9.0, 1.0, 12.0]])
PBC = [(True, True, True), (True, False, True), (False, False, False)]


@pytest.mark.parametrize("pbc", PBC)
def test_position_restraints_pull_to_the_nearest_image_of_their_places(
    rng: np.random.Generator, pbc: tuple[bool, bool, bool]
) -> None:
    atoms = atoms_of(rng, 5, pbc)
    potential = PositionRestraint(atoms=[4, 0, 2], positions=PLACES, stiffness=[0.5, 1.0, 2.0])
    found = predict(potential, System.from_ase(atoms))
    energy, forces = 0.0, np.zeros((5, 3))
    for atom, place, k in zip([4, 0, 2], PLACES, [0.5, 1.0, 2.0], strict=True):
        away = shortest(atoms.positions[atom] - place, pbc)
        energy += 0.5 * k * away @ away
        forces[atom] = -k * away
    assert found.energy.item() == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(found.forces.numpy(), forces, atol=1e-12)


def test_the_nearest_image_is_found_in_a_skewed_cell(rng: np.random.Generator) -> None:
    """Where rounding to the nearest whole numbers of cell vectors is not enough."""
    cell = np.array([[6.0, 0.0, 0.0], [2.9, 5.0, 0.0], [-2.8, 2.4, 4.0]])
    vectors = rng.uniform(-2, 2, (200, 3)) @ cell
    system = batch([System.from_ase(ase.Atoms("Ar", positions=[v], cell=cell, pbc=True)) for v in vectors])
    images = np.array(list(product(range(-4, 5), repeat=3))) @ cell
    expected = (np.linalg.norm(vectors[:, None] + images, axis=2) ** 2).min(axis=1)
    rounded = vectors - np.round(vectors @ np.linalg.inv(cell)) @ cell
    assert ((rounded**2).sum(axis=1) > expected + 0.1).any()
    tie = PositionRestraint(atoms=[0], positions=[[0, 0, 0]], stiffness=2.0)
    np.testing.assert_allclose(energies(tie, system), expected, rtol=1e-12)


@pytest.mark.parametrize("pbc", PBC)
def test_distance_restraints_are_springs_to_the_nearest_image(
    rng: np.random.Generator, pbc: tuple[bool, bool, bool]
) -> None:
    atoms = atoms_of(rng, 5, pbc)
    potential = DistanceRestraint(pairs=[[0, 3], [4, 1]], distances=[2.0, 3.0], stiffness=1.5)
    found = predict(potential, System.from_ase(atoms))
    energy, forces = 0.0, np.zeros((5, 3))
    for (a, b), length in (((0, 3), 2.0), ((4, 1), 3.0)):
        vector = shortest(atoms.positions[b] - atoms.positions[a], pbc)
        distance = np.linalg.norm(vector)
        energy += 0.75 * (distance - length) ** 2
        pull = -1.5 * (distance - length) * vector / distance
        forces[b] += pull
        forces[a] -= pull
    assert found.energy.item() == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(found.forces.numpy(), forces, atol=1e-12)


def test_flat_walls_push_back_what_is_beyond_them_and_nothing_else() -> None:
    atoms = ase.Atoms("Ar4", positions=[[9, 9, -1.5], [0, 0, 1.0], [0, 0, 5.2], [0, 0, 9.0]])
    system = System.from_ase(atoms)
    both = predict(FlatWall(axis="z", lower=0.0, upper=5.0, stiffness=2.0), system)
    np.testing.assert_allclose(both.forces[:, 2].numpy(), [3.0, 0.0, -0.4, -8.0], atol=1e-12)
    assert not both.forces[:, :2].any()
    assert both.energy.item() == pytest.approx(1.5**2 + 0.2**2 + 4.0**2)
    upper = predict(FlatWall(axis="z", upper=5.0, stiffness=2.0, atoms=[0, 2]), system)
    np.testing.assert_allclose(upper.forces[:, 2].numpy(), [0.0, 0.0, -0.4, 0.0], atol=1e-12)
    lower = predict(FlatWall(axis="x", lower=10.0, stiffness=2.0), system)
    np.testing.assert_allclose(lower.forces[:, 0].numpy(), [2.0, 20.0, 20.0, 20.0], atol=1e-12)


def test_a_sphere_pushes_back_what_is_outside_and_nothing_else() -> None:
    center = np.array([1.0, 2.0, 3.0])
    directions = np.array([[1, 0, 0], [0, 0.6, -0.8], [0, 1, 0]])
    radii = np.array([1.0, 5.0, 4.5])
    atoms = ase.Atoms("Ar4", positions=[*(center + radii[:, None] * directions), center])
    found = predict(SphericalWall(center=center, radius=4.0, stiffness=3.0), System.from_ase(atoms))
    expected = -3.0 * np.array([0.0, 1.0, 0.5])[:, None] * directions
    np.testing.assert_allclose(found.forces.numpy(), [*expected, [0, 0, 0]], atol=1e-12)
    assert found.energy.item() == pytest.approx(1.5 * (1.0 + 0.25))
    one = SphericalWall(center=center, radius=4.0, stiffness=3.0, atoms=[2])
    assert energies(one, System.from_ase(atoms))[0] == pytest.approx(1.5 * 0.25)


RESTRAINTS = [
    PositionRestraint(atoms=[0, 2], positions=PLACES[:2], stiffness=0.7),
    DistanceRestraint(pairs=[[0, 2], [1, 2]], distances=2.0, stiffness=[0.7, 0.2]),
    FlatWall(axis="y", lower=2.0, upper=4.0, stiffness=0.5),
    SphericalWall(center=[1.0, 2.0, 3.0], radius=2.0, stiffness=0.5, atoms=[0, 1]),
]


@pytest.mark.parametrize("potential", RESTRAINTS, ids=lambda p: type(p).__name__)
def test_forces_are_the_gradient_and_only_distances_have_a_stress(
    rng: np.random.Generator, potential: Restraint
) -> None:
    system = System.from_ase(atoms_of(rng, 4))
    found = predict(potential, system)
    step = 1e-5
    for atom, axis in product(range(4), range(3)):
        up, down = system.positions.clone(), system.positions.clone()
        up[atom, axis] += step
        down[atom, axis] -= step
        slope = energies(potential, replace(system, positions=up)) - energies(
            potential, replace(system, positions=down)
        )
        assert found.forces[atom, axis].item() == pytest.approx(-slope[0] / (2 * step), abs=1e-8)
    assert potential.gives_energy
    assert found.conservative
    if not isinstance(potential, DistanceRestraint):
        assert not potential.gives_stress
        assert found.stress is None
        return
    assert potential.gives_stress
    assert found.stress is not None
    for i, j in product(range(3), range(3)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[i, j] = 0.5 * step
        strain = strain + strain.T
        values = []
        for sign in (1.0, -1.0):
            deform = torch.eye(3, dtype=torch.float64) + sign * strain
            moved = replace(system, positions=system.positions @ deform, cell=system.cell @ deform)
            values.append(energies(potential, moved)[0])
        slope = (values[0] - values[1]) / (2 * step) / system.volume.item()
        assert found.stress[0, i, j].item() == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("potential", RESTRAINTS, ids=lambda p: type(p).__name__)
def test_every_structure_of_a_batch_has_the_restraints_of_its_own_atoms(
    rng: np.random.Generator, potential: Restraint
) -> None:
    parts = [System.from_ase(atoms_of(rng, n)) for n in (3, 5, 4)]
    together = predict(potential, batch(parts))
    alone = [predict(potential, part) for part in parts]
    torch.testing.assert_close(together.energy, torch.cat([a.energy for a in alone]), rtol=1e-14, atol=0)
    torch.testing.assert_close(together.forces, torch.cat([a.forces for a in alone]), rtol=0, atol=1e-14)


def test_a_sum_with_a_restraint_to_a_place_has_no_stress(rng: np.random.Generator) -> None:
    """So that a barostat refuses it."""
    pairs = LennardJones(epsilon=0.01, sigma=2.0, cutoff=5.0).eval()
    system = System.from_ase(atoms_of(rng, 4))
    for restraint in RESTRAINTS:
        both = SumPotential(pairs, restraint)
        found = predict(both, system)
        has_stress = isinstance(restraint, DistanceRestraint)
        assert both.gives_stress == has_stress
        assert (found.stress is not None) == has_stress
        expected = predict(pairs, system).forces + predict(restraint, system).forces
        torch.testing.assert_close(found.forces, expected)


def test_coincident_atoms_give_no_nan() -> None:
    system = System.from_ase(ase.Atoms("Ar2", positions=np.zeros((2, 3))))
    for potential in (
        DistanceRestraint(pairs=[[0, 1]], distances=1.0, stiffness=1.0),
        SphericalWall(center=[0, 0, 0], radius=1.0, stiffness=1.0),
    ):
        assert torch.equal(predict(potential, system).forces, torch.zeros(2, 3, dtype=torch.float64))


def test_atoms_bounce_off_walls_without_losing_energy(rng: np.random.Generator) -> None:
    """An ideal gas in a sphere cut off by a plane, over many collisions with both."""
    start = 3.0 * rng.uniform(-1, 1, (30, 3)) / np.sqrt(3.0)
    atoms = ase.Atoms("Ar30", positions=start)
    system = replace(System.from_ase(atoms), velocities=torch.tensor(rng.normal(scale=0.01, size=(30, 3))))
    walls = SumPotential(
        SphericalWall(center=[0, 0, 0], radius=3.0, stiffness=0.5),
        FlatWall(axis="x", upper=2.0, stiffness=0.5),
    ).eval()
    integrator = VelocityVerlet(2.0, remove_com=False)
    with torch.no_grad():
        state = integrator.init(system, walls, 0)
        first, farthest, bounces = total_energy(state).item(), 0.0, 0
        for _ in range(1500):
            state = integrator.step(state, walls)
            farthest = max(farthest, torch.linalg.norm(state.positions, dim=1).max().item())
            bounces += int((state.prediction.forces != 0).any())
    assert bounces > 1000
    # ½ k depth² is all of the energy of the fastest atom
    speed = system.velocities.square().sum(dim=1).max()
    depth = (speed * system.masses[0] * units.AMU_A2_PER_FS2_IN_EV / 0.5).sqrt().item()
    assert farthest < 3.0 + depth * 1.01
    assert state.positions[:, 0].max() < 2.0 + depth * 1.01
    # The force is continuous, its slope is not: an error of (ωΔt)² ≈ 0.5 % of what is in the walls.
    assert total_energy(state).item() == pytest.approx(first, rel=5e-3)


def test_a_run_with_other_restraints_is_another_run() -> None:
    """Checkpoints are compared by this description."""
    potentials = [
        PositionRestraint(atoms=[0], positions=[[0, 0, 0]], stiffness=1.0),
        PositionRestraint(atoms=[1], positions=[[0, 0, 0]], stiffness=1.0),
        PositionRestraint(atoms=[0], positions=[[0, 0, 1]], stiffness=1.0),
        PositionRestraint(atoms=[0], positions=[[0, 0, 0]], stiffness=2.0),
        DistanceRestraint(pairs=[[0, 1]], distances=1.0, stiffness=1.0),
        DistanceRestraint(pairs=[[0, 1]], distances=2.0, stiffness=1.0),
        FlatWall(axis="x", upper=1.0, stiffness=1.0),
        FlatWall(axis="y", upper=1.0, stiffness=1.0),
        FlatWall(axis="x", lower=1.0, stiffness=1.0),
        SphericalWall(center=[0, 0, 0], radius=1.0, stiffness=1.0),
        SphericalWall(center=[0, 0, 0], radius=2.0, stiffness=1.0),
        SphericalWall(center=[0, 1, 0], radius=2.0, stiffness=1.0),
    ]
    descriptions = [repr(describe_potential(potential)) for potential in potentials]
    assert len(set(descriptions)) == len(descriptions)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PositionRestraint(atoms=[0, 1], positions=[[0, 0, 0]], stiffness=1.0), r"shape \(2, 3\)"),
        (lambda: PositionRestraint(atoms=[0], positions=[[0, 0, np.nan]], stiffness=1.0), "not finite"),
        (lambda: PositionRestraint(atoms=[-1], positions=[[0, 0, 0]], stiffness=1.0), "whole numbers from 0"),
        (lambda: PositionRestraint(atoms=[], positions=np.zeros((0, 3)), stiffness=1.0), "whole numbers"),
        (lambda: PositionRestraint(atoms=[0], positions=[[0, 0, 0]], stiffness=0.0), "stiffness is 0.0"),
        (
            lambda: PositionRestraint(atoms=[0], positions=[[0, 0, 0]], stiffness=[1.0, 2.0]),
            "2 values of stiffness for 1",
        ),
        (lambda: DistanceRestraint(pairs=[[0, 0]], distances=1.0, stiffness=1.0), "not two atoms each"),
        (lambda: DistanceRestraint(pairs=[[0, 1, 2]], distances=1.0, stiffness=1.0), "not two atoms each"),
        (
            lambda: DistanceRestraint(pairs=[[0, 1]], distances=[1.0, 2.0], stiffness=1.0),
            "2 values of distances for 1",
        ),
        (lambda: DistanceRestraint(pairs=[[0, 1]], distances=-1.0, stiffness=1.0), "distances is -1.0"),
        (lambda: FlatWall(axis="w", upper=1.0, stiffness=1.0), "axis is 'w'"),
        (lambda: FlatWall(axis="x", stiffness=1.0), "walls at None and None"),
        (lambda: FlatWall(axis="x", lower=2.0, upper=1.0, stiffness=1.0), "walls at 2.0 and 1.0"),
        (lambda: SphericalWall(center=[0, 0], radius=1.0, stiffness=1.0), r"shape \(3,\)"),
        (lambda: SphericalWall(center=[0, 0, 0], radius=-1.0, stiffness=1.0), "radius is -1.0"),
    ],
)
def test_restraints_that_mean_nothing_are_refused(build: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_a_structure_without_the_restrained_atom_is_refused(rng: np.random.Generator) -> None:
    system = batch([System.from_ase(atoms_of(rng, n)) for n in (5, 3)])
    with pytest.raises(UserError, match="atom 3 is restrained, but a structure has 3 atoms"):
        predict(DistanceRestraint(pairs=[[0, 3]], distances=1.0, stiffness=1.0), system)
