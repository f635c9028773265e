"""Neighbour lists agree pair for pair with ASE's and matscipy's, and are never stale."""

from __future__ import annotations

from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from kinetograph import pairs
from kinetograph.bonds import BondRule, find_bonds, molecules, separations, with_bonds
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest, build_graph, neighbors_for
from kinetograph.kernels import cell_list
from kinetograph.kernels.cell_list import edges_by_bins
from kinetograph.neighbors import NeighborList, join
from kinetograph.system import System, batch


def pairs_of(neighbors: NeighborList) -> list[tuple[int, ...]]:
    table = torch.cat([neighbors.center[:, None], neighbors.neighbor[:, None], neighbors.shift.long()], dim=1)
    return [tuple(row) for row in table.tolist()]


def ase_pairs(atoms: ase.Atoms, cutoff: float) -> list[tuple[int, ...]]:
    i, j, shift = neighbor_list("ijS", atoms, cutoff)
    return sorted((int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True))


@st.composite
def structures(draw: st.DrawFn) -> ase.Atoms:
    """Any cell: triclinic, far smaller than the cutoff, any periodicity, atoms outside it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 10))
    size = draw(st.sampled_from([1.5, 3.0, 8.0]))
    cell = size * (np.eye(3) + 0.4 * rng.normal(size=(3, 3)))
    while abs(np.linalg.det(cell)) < 0.3 * size**3:
        cell = size * (np.eye(3) + 0.4 * rng.normal(size=(3, 3)))
    pbc = [draw(st.booleans()) for _ in range(3)]
    return ase.Atoms(
        numbers=rng.integers(1, 90, n), positions=(2.0 * rng.random((n, 3)) - 0.5) @ cell, cell=cell, pbc=pbc
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(atoms=structures(), cutoff=st.sampled_from([2.0, 4.5]))
def test_pairs_equal_those_of_ase_in_any_cell(atoms: ase.Atoms, cutoff: float) -> None:
    assert pairs_of(NeighborList.build(System.from_ase(atoms), cutoff)) == ase_pairs(atoms, cutoff)


def by_bins(systems: System, reach: float) -> tuple[torch.Tensor, ...]:
    """The search that a GPU makes."""
    where = (systems.positions, pairs._complete_cells(systems), systems.pbc, systems.atoms_per_system)
    return edges_by_bins(*where, reach)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(some=st.lists(structures(), min_size=1, max_size=3), cutoff=st.sampled_from([2.0, 4.5]))
def test_the_search_by_bins_finds_what_the_other_does(some: list[ase.Atoms], cutoff: float) -> None:
    system = System.from_ase(some)
    for ours, theirs in zip(by_bins(system, cutoff), pairs.edges_within(system, cutoff), strict=True):
        assert torch.equal(ours, theirs)


def test_the_search_by_bins_takes_portions(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A liquid of many bins beside a cluster in a vacuum that would have more of them than memory."""
    cell = np.array([[21.0, 0, 0], [5.0, 20.0, 0], [-4.0, 3.0, 22.0]])
    liquid = ase.Atoms("Ar500", scaled_positions=2.0 * rng.random((500, 3)) - 0.7, cell=cell, pbc=True)
    cluster = ase.Atoms("Ar9", rng.random((9, 3)) * 1e5 + np.repeat([[0.0], [1e7], [2e7]], 3, axis=0) / 1e3)
    system = System.from_ase([liquid, cluster])
    expected = pairs.edges_within(system, 4.7)
    for at_once in (1 << 22, 3000):
        monkeypatch.setattr(cell_list, "CANDIDATES_AT_ONCE", at_once)
        assert all(torch.equal(a, b) for a, b in zip(by_bins(system, 4.7), expected, strict=True))


def test_the_search_by_bins_sorts_atoms_that_are_many_cells_apart() -> None:
    """One whole number of 64 bits does not hold centre, neighbour and shift of these."""
    atoms = ase.Atoms("Ar2", [[0.1, 0.1, 0.1], [1.1 + 5e6, 0.1 + 5e6, 0.1 + 5e6]], cell=[5.0] * 3, pbc=True)
    system = System.from_ase(atoms)
    for ours, theirs in zip(by_bins(system, 3.0), pairs.edges_within(system, 3.0), strict=True):
        assert torch.equal(ours, theirs)


def test_pairs_equal_those_of_matscipy_in_a_large_triclinic_cell(rng: np.random.Generator) -> None:
    from matscipy.neighbours import neighbour_list

    cell = np.array([[18.0, 0, 0], [5.0, 17.0, 0], [-4.0, 3.0, 19.0]])
    atoms = ase.Atoms(numbers=[18] * 400, scaled_positions=rng.random((400, 3)), cell=cell, pbc=True)
    i, j, shift = neighbour_list("ijS", atoms, 5.0)
    expected = sorted((int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True))
    assert pairs_of(NeighborList.build(System.from_ase(atoms), 5.0)) == expected


def test_one_atom_cell_sees_its_own_images() -> None:
    graph_of = System.from_ase(bulk("Cu", "fcc", 3.6))
    neighbors = NeighborList.build(graph_of, 2.6)
    assert neighbors.n_edges == 12
    assert torch.equal(neighbors.center, neighbors.neighbor)


def test_isolated_atom_has_no_edges() -> None:
    system = System.from_ase(ase.Atoms("Ar"))
    graph = build_graph(system, NeighborList.build(system, 5.0), GraphRequest(cutoff=5.0))
    assert graph.n_edges == 0
    assert graph.edge_vectors.shape == (0, 3)


def test_edge_vectors_point_from_centre_to_neighbour_image(rng: np.random.Generator) -> None:
    atoms = bulk("NaCl", "rocksalt", 5.6)
    atoms.rattle(0.1, seed=1)
    system = System.from_ase(atoms)
    graph = build_graph(system, NeighborList.build(system, 4.0), GraphRequest(cutoff=4.0))
    i, j, vector = neighbor_list("ijD", atoms, 4.0)
    expected = sorted(map(tuple, np.c_[i, j, vector].round(9).tolist()))
    got = np.c_[graph.center, graph.neighbor, graph.edge_vectors].round(9)
    assert sorted(map(tuple, got.tolist())) == expected


def test_a_batch_is_its_structures_side_by_side() -> None:
    """Molecule, slab and a cell smaller than the cutoff together: no edge crosses from one to another."""
    frames = [molecule("CH3CH2OH"), fcc111("Pt", (2, 2, 2), vacuum=5.0), bulk("Si")]
    systems = [System.from_ase(frame) for frame in frames]
    together = NeighborList.build(batch(systems), 4.0)
    joined = join([NeighborList.build(system, 4.0) for system in systems])
    assert pairs_of(together) == pairs_of(joined)
    index = batch(systems).system_index
    assert torch.equal(index[together.center], index[together.neighbor])


def test_skin_list_is_cut_to_exactly_the_cutoff(rng: np.random.Generator) -> None:
    atoms = bulk("Ar", "fcc", 5.4, cubic=True) * (3, 3, 3)
    atoms.rattle(0.3, seed=2)
    system = System.from_ase(atoms)
    request = GraphRequest(cutoff=6.0)
    wide = neighbors_for(system, request, skin=1.5)
    moved = replace(
        system, positions=system.positions + 0.4 * torch.randn_like(system.positions).clamp(-1, 1)
    )
    assert not wide.is_stale(moved)
    from_wide = build_graph(moved, wide, request)
    fresh = build_graph(moved, neighbors_for(moved, request), request)
    assert torch.equal(from_wide.center, fresh.center)  # same order too, so that sums round the same
    assert torch.equal(from_wide.neighbor, fresh.neighbor)
    assert torch.equal(from_wide.edge_vectors, fresh.edge_vectors)


def test_a_list_is_stale_as_soon_as_one_atom_moved_half_the_skin() -> None:
    system = System.from_ase(bulk("Ar", "fcc", 5.4, cubic=True) * (2, 2, 2))
    neighbors = NeighborList.build(system, 5.0, skin=1.0)
    step = torch.zeros_like(system.positions)
    step[7, 1] = 0.4999
    near = replace(system, positions=system.positions + step)
    assert neighbors.updated(near) is neighbors
    step[7, 1] = 0.5001
    far = replace(system, positions=system.positions + step)
    assert neighbors.updated(far) is not neighbors
    step[7, 1] = torch.nan
    assert neighbors.is_stale(replace(system, positions=system.positions + step))


def test_a_list_survives_what_a_barostat_does_until_a_pair_could_be_missing() -> None:
    """Without displacements: until cutoff + skin, along the direction that shrinks most, is the cutoff."""
    system = System.from_ase(bulk("Ar", "fcc", 5.4, cubic=True) * (2, 2, 2))
    system = replace(system, positions=system.positions + 100.0)  # far from the origin: no matter
    neighbors = NeighborList.build(system, 5.0, skin=1.0)

    def deformed(deformation: torch.Tensor, along: float = 0.0) -> System:
        positions = system.positions @ deformation
        positions[7, 1] += along
        return replace(system, positions=positions, cell=system.cell @ deformation)

    one = torch.eye(3, dtype=torch.float64)
    for axes in ([1.0, 1.0, 1.0], [0.0, 0.0, 1.0]):
        shrink = torch.diag(torch.tensor(axes, dtype=torch.float64))
        assert neighbors.updated(deformed(one - 0.1666 * shrink)) is neighbors
        assert neighbors.is_stale(deformed(one - 0.1667 * shrink))
    assert neighbors.updated(deformed(1.5 * one)) is neighbors
    # 6 × 0.9 = 5.4: two atoms may come 0.4 nearer
    assert not neighbors.is_stale(deformed(0.9 * one, along=0.1999))
    assert neighbors.is_stale(deformed(0.9 * one, along=0.2001))
    assert neighbors.is_stale(deformed(torch.nan * one))
    # A strain of the cell without its atoms counts as displacements.
    assert neighbors.is_stale(replace(system, cell=system.cell * 1.01))


def test_each_structure_of_a_batch_is_judged_by_its_own_cell() -> None:
    systems = [System.from_ase(bulk("Ar", "fcc", 5.4, cubic=True) * (2, 2, 2))] * 2
    together = batch(systems)
    neighbors = NeighborList.build(together, 5.0, skin=1.0)
    cell, positions = together.cell.clone(), together.positions.clone()
    cell[0] *= 0.84  # all of the skin of the first
    positions[: systems[0].n_atoms] *= 0.84
    positions[-1, 0] += 0.49  # nearly all of the skin of the second
    assert not neighbors.is_stale(replace(together, cell=cell, positions=positions))
    positions[0, 0] += 0.05
    assert neighbors.is_stale(replace(together, cell=cell, positions=positions))


def test_a_cell_with_a_direction_that_is_not_periodic_makes_the_list_stale() -> None:
    system = System.from_ase(fcc111("Pt", (2, 2, 2), vacuum=5.0))
    neighbors = NeighborList.build(system, 4.0, skin=1.0)
    assert neighbors.is_stale(replace(system, cell=system.cell * 1.0001))


def test_no_pair_is_missing_from_a_list_that_is_not_stale(rng: np.random.Generator) -> None:
    """Any deformation of any cell and any displacement, in batches of two."""
    outcomes = []
    for _ in range(200):
        frames = []
        for _ in range(2):
            cell = rng.choice([3.5, 5.0, 8.0]) * (np.eye(3) + 0.3 * rng.normal(size=(3, 3)))
            n = int(rng.integers(1, 6))
            frames.append(
                ase.Atoms(numbers=[18] * n, positions=rng.random((n, 3)) @ cell, cell=cell, pbc=True)
            )
        system = System.from_ase(frames)
        neighbors = NeighborList.build(system, 3.0, skin=1.0)
        size = 10.0 ** rng.uniform(-2.0, -0.5)
        deformation = torch.eye(3, dtype=torch.float64) + size * torch.from_numpy(rng.normal(size=(2, 3, 3)))
        moved = replace(
            system,
            positions=torch.einsum("ni,nij->nj", system.positions, deformation[system.system_index])
            + size * torch.from_numpy(rng.normal(size=(system.n_atoms, 3))),
            cell=system.cell @ deformation,
        )
        fresh = set(pairs_of(NeighborList.build(moved, 3.0)))
        missing = fresh - set(pairs_of(neighbors))
        outcomes.append((neighbors.is_stale(moved), bool(missing)))
    assert (False, True) not in outcomes
    assert outcomes.count((False, False)) > 30  # the test saw lists that were kept,
    assert outcomes.count((True, True)) > 20  # and some that had to go


def test_positions_that_are_not_finite_are_refused() -> None:
    system = System.from_ase(molecule("H2O"))
    broken = replace(system, positions=system.positions * torch.nan)
    with pytest.raises(UserError, match="not finite"):
        NeighborList.build(broken, 3.0)


# ---- bonds ---------------------------------------------------------------------------------------


def test_bonds_of_ethanol_and_their_separations() -> None:
    system = System.from_ase(molecule("CH3CH2OH"))
    bonds = find_bonds(system)
    assert len(bonds) == 8
    pairs, apart = separations(bonds, system.n_atoms, 3)
    # an independent count by Floyd–Warshall
    distance = np.full((9, 9), 99)
    np.fill_diagonal(distance, 0)
    for a, b in bonds.tolist():
        distance[a, b] = distance[b, a] = 1
    for k in range(9):
        distance = np.minimum(distance, distance[:, k : k + 1] + distance[k : k + 1])
    expected = {(a, b): distance[a, b] for a in range(9) for b in range(9) if 0 < distance[a, b] <= 3}
    assert {tuple(p): int(s) for p, s in zip(pairs.tolist(), apart.tolist(), strict=True)} == expected
    assert len(molecules(bonds, 9).unique()) == 1


def test_bonds_across_the_cell_boundary_give_edge_types() -> None:
    water = molecule("H2O")
    water.set_cell([8.0, 8.0, 8.0])
    water.pbc = True
    water.positions += [0.0, 7.9, 0.0]  # the hydrogens lie on both sides of the boundary
    wrapped = water.copy()
    wrapped.wrap()
    rule = BondRule(max_separation=2)
    for atoms in (water, wrapped):
        system = with_bonds(System.from_ase(atoms), rule)
        neighbors = NeighborList.build(system, 3.0, bond_rule=rule)
        assert neighbors.edge_types is not None
        assert neighbors.edge_types.tolist().count(1) == 4
        assert neighbors.edge_types.tolist().count(2) == 2


def test_only_the_nearest_image_of_a_bonded_pair_is_bonded() -> None:
    atoms = ase.Atoms("N2", positions=[[0, 0, 0], [1.1, 0, 0]], cell=[4.0, 4.0, 4.0], pbc=True)
    rule = BondRule(max_separation=1)
    system = with_bonds(System.from_ase(atoms), rule)
    neighbors = NeighborList.build(system, 5.0, bond_rule=rule)
    assert neighbors.edge_types is not None
    bonded = neighbors.edge_types == 1
    assert int(bonded.sum()) == 2
    assert (neighbors.shift[bonded] == 0).all()


def test_edge_types_without_bonds_are_refused() -> None:
    with pytest.raises(UserError, match="bonds are not known"):
        NeighborList.build(System.from_ase(molecule("H2O")), 3.0, bond_rule=BondRule())
