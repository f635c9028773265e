"""Rigid bonds: SETTLE and Newton's form against each other, dense linear algebra and the laws they obey."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import root
from scipy.spatial.transform import Rotation
from torch import Tensor

from kinetograph.dynamics import VelocityVerlet, simulate
from kinetograph.dynamics.rigid import Clusters, RigidBonds, _clusters, rigid_bonds
from kinetograph.dynamics.settle import Triangles
from kinetograph.dynamics.velocities import inertia_of
from kinetograph.errors import UserError
from kinetograph.models.classical import LennardJones
from kinetograph.system import System, batch

LEG, BASE = 0.9572, 2.0 * 0.9572 * math.sin(math.radians(52.26))
WATER = np.array([[0.0, 0.0, 0.0], [BASE / 2, -math.sqrt(LEG**2 - BASE**2 / 4), 0.0]])
WATER = np.vstack([WATER, WATER[1] * [-1, 1, 1]])
TRIANGLE = [[0, 1], [0, 2], [1, 2]]


def structure(
    positions: np.ndarray,
    masses: list[float],
    pairs: list[list[int]],
    *,
    lengths: list[float] | None = None,
    cell: np.ndarray | None = None,
    fixed: list[int] | None = None,
    velocities: np.ndarray | None = None,
) -> System:
    positions = np.asarray(positions, dtype=float)
    rigid = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    first, second = rigid.numpy().T
    own = np.linalg.norm(positions[second] - positions[first], axis=1)
    mask = torch.zeros(len(masses), dtype=torch.bool)
    mask[fixed or []] = True
    return System(
        positions=torch.tensor(positions),
        atomic_numbers=torch.ones(len(masses), dtype=torch.int64),
        masses=torch.tensor(masses, dtype=torch.float64),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64) if cell is None else torch.tensor(cell)[None],
        pbc=torch.full((1, 3), cell is not None),
        system_index=torch.zeros(len(masses), dtype=torch.int64),
        velocities=None if velocities is None else torch.tensor(velocities),
        fixed=mask if fixed else None,
        rigid=rigid,
        rigid_lengths=torch.tensor(own if lengths is None else lengths, dtype=torch.float64),
    )


def triangles(rng: np.random.Generator, n: int, masses: list[float] | None = None) -> System:
    """Molecules of water's shape, turned and placed at random; their atoms come in any order."""
    parts = []
    for _ in range(n):
        order = rng.permutation(3)
        turned = WATER @ Rotation.random(rng=rng).as_matrix().T + rng.uniform(-20, 20, 3)
        own = np.array(masses or [15.999, 1.008, 1.008])[order]
        pairs = [rng.permutation(pair).tolist() for pair in rng.permutation(TRIANGLE).tolist()]
        # exactly equal, as hold_bonds makes them
        lengths = [BASE if order[a] and order[b] else LEG for a, b in pairs]
        parts.append(structure(turned[order], own.tolist(), pairs, lengths=lengths))
    return batch(parts)


def molecule(name: str, rng: np.random.Generator) -> System:
    """One of several kinds of clusters, not quite in its ideal shape."""
    methane = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.629
    ring = np.array(
        [[math.cos(a), math.sin(a), 0.1 * (-1) ** i] for i, a in enumerate(np.arange(5) * 1.2566)]
    )
    shapes = {
        "pair": (methane[:2], [12.0, 1.0], [[1, 0]]),
        "chain": (WATER, [16.0, 1.0, 1.0], [[0, 1], [0, 2]]),
        "star": (methane, [12.0, 1.0, 1.0, 1.0, 2.0], [[0, 1], [0, 2], [0, 3], [4, 0]]),
        "uneven triangle": (WATER, [16.0, 1.0, 2.0], TRIANGLE),
        "ring": (ring, [12.0, 13.0, 14.0, 15.0, 16.0], [[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]]),
        "tetrahedron": (methane[1:], [1.0, 2.0, 3.0, 4.0], [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]),
        "held at one end": (methane, [12.0, 1.0, 1.0, 1.0, 1.0], [[0, 1], [0, 2], [0, 3], [0, 4]]),
        "fixed pair": (WATER, [16.0, 1.0, 1.0], TRIANGLE),
    }
    positions, masses, pairs = shapes[name]
    positions = positions + rng.normal(scale=0.03, size=positions.shape)
    fixed = {"held at one end": [1], "fixed pair": [0, 2]}.get(name)
    return structure(
        positions + rng.uniform(-5, 5, 3),
        masses,
        pairs,
        fixed=fixed,
        velocities=rng.normal(size=positions.shape),
    )


KINDS = ["pair", "chain", "star", "uneven triangle", "ring", "tetrahedron", "held at one end", "fixed pair"]


def inverse_masses(system: System) -> np.ndarray:
    inverse = 1.0 / system.masses.numpy()
    return inverse if system.fixed is None else np.where(system.fixed, 0.0, inverse)


def by_newton(system: System) -> RigidBonds:
    """Without SETTLE."""
    assert system.rigid is not None
    assert system.rigid_lengths is not None
    return RigidBonds(tuple(_clusters(system.rigid, system.rigid_lengths, 1.0 / system.masses)))


def jacobian(system: System, positions: np.ndarray) -> np.ndarray:
    """(n_rigid, 3 n_atoms) of the squared lengths, over two."""
    rows = np.zeros((len(system.rigid), len(positions), 3))
    for row, (a, b) in zip(rows, system.rigid.tolist(), strict=True):
        row[b] += positions[b] - positions[a]
        row[a] -= positions[b] - positions[a]
    return rows.reshape(len(rows), -1)


def distances(system: System, positions: Tensor) -> Tensor:
    return torch.linalg.norm(positions[system.rigid[:, 1]] - positions[system.rigid[:, 0]], dim=1)


@pytest.mark.parametrize("masses", [[15.999, 1.008, 1.008], [1.0, 30.0, 30.0], [5.0, 5.0, 5.0]])
@pytest.mark.parametrize("amplitude", [1e-3, 0.03, 0.1])
def test_settle_gives_the_positions_and_velocities_of_newtons_form(
    rng: np.random.Generator, masses: list[float], amplitude: float
) -> None:
    system = triangles(rng, 60, masses)
    started, bonds = rigid_bonds(system)
    assert [type(group) for group in bonds.clusters] == [Triangles]
    old = started.positions
    new = old + amplitude * torch.tensor(rng.normal(size=old.shape))
    expected = by_newton(system).held_positions(old, new)
    held = bonds.held_positions(old, new)
    torch.testing.assert_close(held, expected, rtol=0, atol=1e-10)
    velocities = torch.tensor(rng.normal(size=old.shape))
    torch.testing.assert_close(
        bonds.held_velocities(held, velocities),
        by_newton(system).held_velocities(held, velocities),
        rtol=0,
        atol=1e-10,
    )


def test_settle_obeys_the_laws_of_constraint_forces(rng: np.random.Generator) -> None:
    """Lengths as given; no momentum and, about any point, no angular momentum: Σ m r_old × Δ = 0."""
    system, bonds = rigid_bonds(triangles(rng, 60))
    old = system.positions
    new = old + 0.1 * torch.tensor(rng.normal(size=old.shape))
    held = bonds.held_positions(old, new)
    assert (distances(system, held) - system.rigid_lengths).abs().max() < 1e-13
    moved = system.masses[:, None] * (held - new)
    assert moved.reshape(-1, 3, 3).sum(dim=1).abs().max() < 1e-12  # 16 amu of 20 Å, rounded
    assert torch.linalg.cross(old, moved).reshape(-1, 3, 3).sum(dim=1).abs().max() < 1e-11


@pytest.mark.parametrize("kind", KINDS)
def test_velocities_are_the_nearest_ones_that_stretch_no_bond(rng: np.random.Generator, kind: str) -> None:
    """Nearest by Σ m |Δv|²: the projection v − M⁻¹Jᵀ (J M⁻¹ Jᵀ)⁺ J v of dense linear algebra."""
    system = molecule(kind, rng)
    started, bonds = rigid_bonds(system)
    velocities = system.velocities.clone()
    if system.fixed is not None:
        velocities[system.fixed] = 0.0
    held = bonds.held_velocities(started.positions, velocities)
    j = jacobian(system, started.positions.numpy())
    weighted = np.repeat(inverse_masses(system), 3)[:, None] * j.T
    expected = (
        velocities.numpy().ravel() - weighted @ np.linalg.pinv(j @ weighted) @ j @ velocities.numpy().ravel()
    )
    np.testing.assert_allclose(held.numpy().ravel(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(bonds.held_velocities(started.positions, held), held, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_those_of_lagrange_multipliers(rng: np.random.Generator, kind: str) -> None:
    """r = r_new + M⁻¹ J(r_old)ᵀ λ with |d| = L, by SciPy's solver over all bonds at once."""
    system = molecule(kind, rng)
    started, bonds = rigid_bonds(system)
    old = started.positions
    new = old + 0.05 * torch.tensor(rng.normal(size=old.shape))
    if system.fixed is not None:
        new[system.fixed] = old[system.fixed]
    held = bonds.held_positions(old, new)
    pull = np.repeat(inverse_masses(system), 3)[:, None] * jacobian(system, old.numpy()).T

    def moved(multipliers: np.ndarray) -> Tensor:
        return new + torch.tensor((pull @ multipliers).reshape(-1, 3))

    def errors(multipliers: np.ndarray) -> np.ndarray:
        return (distances(system, moved(multipliers)).square() - system.rigid_lengths.square()).numpy()

    solution = root(errors, np.zeros(len(system.rigid)), method="lm", tol=1e-14)
    assert np.abs(errors(solution.x)).max() < 1e-12
    torch.testing.assert_close(held, moved(solution.x), rtol=0, atol=1e-10)
    if system.fixed is not None:
        assert torch.equal(held[system.fixed], old[system.fixed])


def test_a_batch_of_many_kinds_is_held_as_its_structures_one_by_one(rng: np.random.Generator) -> None:
    parts = [molecule(kind, rng) for kind in KINDS * 2]
    water = triangles(rng, 3)
    parts.append(replace(water, velocities=torch.zeros_like(water.positions)))
    system = batch(parts)
    together, bonds = rigid_bonds(system)
    assert len(bonds.clusters) > 4
    new = together.positions + 0.05 * torch.tensor(rng.normal(size=system.positions.shape))
    velocities = torch.tensor(rng.normal(size=system.positions.shape))
    held = bonds.held_positions(together.positions, new)
    held_velocities = bonds.held_velocities(held, velocities)
    first = 0
    for part in parts:
        atoms = slice(first, first + part.n_atoms)
        alone, own = rigid_bonds(part)
        torch.testing.assert_close(alone.positions, together.positions[atoms], rtol=0, atol=1e-13)
        torch.testing.assert_close(
            own.held_positions(alone.positions, new[atoms]), held[atoms], rtol=0, atol=1e-13
        )
        torch.testing.assert_close(
            own.held_velocities(held[atoms], velocities[atoms]), held_velocities[atoms], rtol=0, atol=1e-13
        )
        first += part.n_atoms


def test_only_triangles_that_settle_can_hold_are_left_to_it(rng: np.random.Generator) -> None:
    water = triangles(rng, 1)
    fixed = structure(WATER, [15.999, 1.008, 1.008], TRIANGLE, lengths=[LEG, LEG, BASE], fixed=[0])
    heavy = triangles(rng, 1, [15.999, 1.008, 2.014])
    two_bonds = structure(WATER, [15.999, 1.008, 1.008], TRIANGLE[:2])
    star = structure(np.vstack([WATER, [[0, 0.9, 0.5]]]), [14.0, 1.0, 1.0, 1.0], [[0, 1], [0, 2], [0, 3]])
    for system, expected in (
        (water, [Triangles]),
        (fixed, [Clusters]),
        (heavy, [Clusters]),
        (two_bonds, [Clusters]),
        (star, [Clusters]),
        (batch([star, water, heavy]), [Triangles, Clusters]),
    ):
        assert [type(group) for group in rigid_bonds(system)[1].clusters] == expected


def test_molecules_broken_by_the_boundary_are_made_whole_and_held_alike(rng: np.random.Generator) -> None:
    cell = np.array([[8.0, 0.0, 0.0], [3.0, 7.0, 0.0], [-2.0, 1.0, 9.0]])
    parts = [molecule("star", rng), molecule("ring", rng), molecule("uneven triangle", rng)]
    parts = [replace(p, cell=torch.tensor(cell)[None], pbc=torch.ones(1, 3, dtype=torch.bool)) for p in parts]
    whole = batch(parts)
    shifts = torch.tensor(rng.integers(-2, 3, whole.positions.shape), dtype=torch.float64)
    broken = replace(whole, positions=whole.positions + shifts @ torch.tensor(cell))
    started, bonds = rigid_bonds(whole)
    mended, same_bonds = rigid_bonds(broken)
    away = (mended.positions - started.positions) @ torch.linalg.inv(torch.tensor(cell))
    assert (away - away.round()).abs().max() < 1e-12
    assert (distances(mended, mended.positions) - mended.rigid_lengths).abs().max() < 1e-11
    velocities = torch.tensor(rng.normal(size=whole.positions.shape))
    torch.testing.assert_close(
        same_bonds.held_velocities(mended.positions, velocities),
        bonds.held_velocities(started.positions, velocities),
        rtol=0,
        atol=1e-12,
    )


def test_every_independent_bond_takes_one_degree_of_freedom(rng: np.random.Generator) -> None:
    for kind, expected in (
        ("pair", 6 - 1),
        ("star", 15 - 4),
        ("tetrahedron", 6),
        ("held at one end", 12 - 4),
        ("fixed pair", 3 - 2),  # the bond between the two fixed atoms takes none
    ):
        system = molecule(kind, rng)
        assert inertia_of(system, remove_com=False).degrees.item() == expected


def test_a_start_is_moved_to_the_lengths_and_its_velocities_are_held(rng: np.random.Generator) -> None:
    system = molecule("tetrahedron", rng)
    system = replace(system, rigid_lengths=system.rigid_lengths + 0.03 * torch.tensor(rng.uniform(-1, 1, 6)))
    started, _ = rigid_bonds(system)
    assert (distances(system, started.positions) - system.rigid_lengths).abs().max() < 1e-11
    centre = (system.masses[:, None] * (started.positions - system.positions)).sum(dim=0)
    assert centre.abs().max() < 1e-13
    j = jacobian(system, started.positions.numpy())
    assert np.abs(j @ started.velocities.numpy().ravel()).max() < 1e-13


LINE = np.array([[0.0, 0.0, 0.0], [1.1, 0.0, 0.0], [-1.1, 0.0, 0.0]])
SQUARE = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])


def nearly_straight(degrees: float) -> np.ndarray:
    half = math.radians(0.5 * (180.0 - degrees))
    return LINE @ np.diag([math.cos(half), 1.0, 1.0]) + [[0, 0, 0], *[[0, 1.1 * math.sin(half), 0]] * 2]


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (structure(LINE, [16.0, 1.0, 1.0], TRIANGLE), "between atoms 0, 1, 2 are not independent"),
        (structure(nearly_straight(179.8), [16.0, 1.0, 1.0], TRIANGLE), "not independent"),
        (structure(WATER, [16.0, 1.0, 1.0], [*TRIANGLE, [1, 0]]), "no pair may stand there twice"),
        (
            structure(SQUARE, [1.0] * 4, [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [1, 3]]),
            "6 rigid bonds between atoms 0, 1, 2, 3 are not independent",
        ),
        (structure(LINE, [16.0, 1.0, 1.0], TRIANGLE, lengths=[1.1, 1.1, 2.25]), "contradict each other"),
        (structure(WATER, [16.0, 1.0, 1.0], TRIANGLE, lengths=[0.62, 0.8572, 1.3]), "0.957 Å apart"),
        (
            structure(
                [[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]],
                [1.0] * 3,
                [[0, 1], [1, 2], [2, 0]],
                cell=np.diag([3.0, 9.0, 9.0]),
                lengths=[1.0, 1.0, 1.0],
            ),
            "lead to their own periodic images",
        ),
    ],
)
def test_bonds_that_cannot_be_held_are_refused_at_the_start(system: System, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rigid_bonds(system)


def test_what_can_be_held_is_not_refused() -> None:
    """A nearly flat angle, two bonds in a straight line, and a square without its diagonals."""
    for system in (
        structure(nearly_straight(179.0), [16.0, 1.0, 1.0], TRIANGLE),
        structure(LINE, [16.0, 1.0, 1.0], TRIANGLE[:2]),
        structure(SQUARE, [1.0] * 4, [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]]),
    ):
        rigid_bonds(system)


def test_bonds_that_become_dependent_on_the_way_give_nan() -> None:
    """A square with one diagonal that has folded flat."""
    system = structure(SQUARE, [1.0] * 4, [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]])
    _, bonds = rigid_bonds(system)
    flat = torch.tensor(SQUARE) * torch.tensor([1.0, 0.0, 0.0])
    assert bonds.held_velocities(flat, torch.ones_like(flat)).isnan().all()
    assert bonds.held_positions(flat, flat + 0.01).isnan().all()


@pytest.mark.parametrize("masses", [[16.0, 1.0, 1.0], [16.0, 1.0, 2.0]], ids=["settle", "newton"])
def test_what_cannot_be_mended_becomes_nan_and_leaves_the_others_alone(
    rng: np.random.Generator, masses: list[float]
) -> None:
    system, bonds = rigid_bonds(triangles(rng, 5, masses))
    new = system.positions + 0.02 * torch.tensor(rng.normal(size=system.positions.shape))
    usual = bonds.held_positions(system.positions, new)
    torn = new.clone()
    torn[3:6] += torch.tensor(rng.normal(scale=50.0, size=(3, 3)))
    torn[0, 0] = torch.nan
    held = bonds.held_positions(system.positions, torn)
    assert held[:6].isnan().any(dim=1).all()
    assert torch.equal(held[6:], usual[6:])


def test_a_resumed_run_with_rigid_bonds_is_the_uninterrupted_one(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    cell = np.diag([12.0, 12.0, 12.0])
    system = triangles(rng, 6)
    system = replace(
        system,
        positions=system.positions + torch.arange(6.0).double().repeat_interleave(3)[:, None],
        cell=torch.tensor(cell)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
        system_index=torch.zeros(18, dtype=torch.int64),
    )
    potential = LennardJones(epsilon=0.001, sigma=1.0, cutoff=3.0)
    common = {"n_steps": 20, "initial_temperature_K": 300.0, "status": False, "every": 5}
    whole = simulate(potential, system, VelocityVerlet(1.0), path=tmp_path / "a.h5", **common)
    simulate(potential, system, VelocityVerlet(1.0), path=tmp_path / "b.h5", **{**common, "n_steps": 10})
    resumed = simulate(potential, system, VelocityVerlet(1.0), path=tmp_path / "b.h5", resume=True, **common)
    assert torch.equal(resumed.state.positions, whole.state.positions)
    assert torch.equal(resumed.state.velocities, whole.state.velocities)
    error = distances(system, whole.state.positions) - system.rigid_lengths
    assert error.abs().max() < 1e-10
