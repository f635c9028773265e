from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinetograph import kernels
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest, build_graph, neighbors_for
from kinetograph.kernels.edges import pairs_within
from kinetograph.kernels.native import Library
from kinetograph.models.classical import LennardJones, Truncation
from kinetograph.pairs import edges_within
from kinetograph.system import System


def structures(seed: int) -> list[ase.Atoms]:
    """Up to three: any cell, any periodicity, atoms far outside it, cells smaller than the reach."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(rng.integers(1, 4)):
        n = int(rng.integers(1, 50))
        cell = np.diag(rng.uniform(1.5, 14.0, 3)) + rng.uniform(-3.0, 3.0, (3, 3)) * (rng.random() < 0.5)
        if abs(np.linalg.det(cell)) < 5.0:
            cell = 6.0 * np.eye(3)
        pbc = rng.random(3) < 0.7
        positions = rng.uniform(-20.0, 20.0, (n, 3)) if rng.random() < 0.5 else rng.random((n, 3)) @ cell
        result.append(ase.Atoms([18] * n, positions, cell=cell if pbc.any() else None, pbc=pbc))
    return result


@given(st.integers(0, 2**32), st.floats(0.5, 9.0))
@settings(max_examples=60, deadline=None)
def test_pairs_are_those_of_vesin_in_the_same_order(seed: int, reach: float) -> None:
    system = System.from_ase(structures(seed))
    ours = edges_within(system, reach)
    with kernels.plain_forms():
        vesins = edges_within(system, reach)
    for mine, theirs in zip(ours, vesins, strict=True):
        assert torch.equal(mine, theirs)


def test_pairs_with_every_instruction_set(library: Library) -> None:
    for seed in range(20):
        system = System.from_ase(structures(seed))
        ours = edges_within(system, 5.0)
        with kernels.plain_forms():
            vesins = edges_within(system, 5.0)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, vesins, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_graphs_are_those_of_the_plain_form(library: Library, dtype: torch.dtype) -> None:
    for seed in range(10):
        system = System.from_ase(structures(seed))
        request = GraphRequest(cutoff=4.0)
        neighbors = neighbors_for(system, request, skin=1.0)
        ours = build_graph(system, neighbors, request, dtype=dtype)
        with kernels.plain_forms():
            plain = build_graph(system, neighbors, request, dtype=dtype)
        assert torch.equal(ours.center, plain.center)
        assert torch.equal(ours.neighbor, plain.neighbor)
        assert ours.edge_vectors.dtype == ours.distances.dtype == dtype
        # Only the sum over shift · cell may round in another order.
        tolerance = 1e-13 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(ours.edge_vectors, plain.edge_vectors, rtol=tolerance, atol=20 * tolerance)
        torch.testing.assert_close(ours.distances, plain.distances, rtol=tolerance, atol=20 * tolerance)


def test_an_edge_and_the_one_that_goes_back_are_exactly_opposite(library: Library) -> None:
    system = System.from_ase(structures(3))
    request = GraphRequest(cutoff=5.0, reverse=True)
    graph = build_graph(system, neighbors_for(system, request), request, dtype=torch.float32)
    assert graph.reverse is not None
    assert torch.equal(graph.edge_vectors, -graph.edge_vectors[graph.reverse])


def test_coincident_atoms_are_named(library: Library) -> None:
    atoms = ase.Atoms("ArArArAr", [[0, 0, 0], [3, 0, 0], [6, 0, 0], [6, 0, 1e-6]], cell=[20] * 3, pbc=True)
    system = System.from_ase([ase.Atoms("Ar"), atoms])
    request = GraphRequest(cutoff=5.0)
    with pytest.raises(UserError, match="atoms 2 and 3 are in one place") as caught:
        build_graph(system, neighbors_for(system, request), request)
    assert caught.value.where == "structure 1"
    potential = LennardJones(epsilon=0.01, sigma=3.4, cutoff=5.0)
    with pytest.raises(UserError, match="atoms 2 and 3 are in one place"):
        potential(system, neighbors_for(system, request))


@pytest.mark.parametrize("truncation", ["cut", "shift", "switch"])
def test_lennard_jones_is_its_plain_form(library: Library, truncation: Truncation) -> None:
    potential = LennardJones(
        epsilon=0.0103,
        sigma=1.7,
        cutoff=5.0,
        truncation=truncation,
        switch_start=4.0 if truncation == "switch" else None,
    )
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3) * 2.0
    liquid = ase.Atoms([18] * 64, grid + rng.uniform(-0.2, 0.2, grid.shape), cell=[8.0] * 3, pbc=True)
    skewed = liquid.copy()
    skewed.set_cell(liquid.cell @ [[1, 0.2, 0], [0, 1, 0.3], [0, 0, 1]], scale_atoms=True)
    drop = ase.Atoms([18] * 8, liquid.positions[:8] * 1.1)
    system = System.from_ase([liquid, skewed, drop])
    neighbors = neighbors_for(system, potential.request, skin=1.0)
    ours = potential(system, neighbors)
    with kernels.plain_forms():
        plain = potential(system, neighbors)
    for name in ("forces", "energy", "atomic_energies", "stress"):
        mine, theirs = getattr(ours, name), getattr(plain, name)
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_nearest_neighbours_are_those_of_the_plain_form(library: Library, k: int) -> None:
    """With ties, which are common in crystals, with atoms that have fewer neighbours and with none at all."""
    crystal = ase.Atoms(
        "Ar8", np.stack(np.meshgrid(*[[0.0, 3.0]] * 3), -1).reshape(-1, 3), cell=[6] * 3, pbc=True
    )
    request = GraphRequest(cutoff=4.5, n_nearest=k, nearest_required=False)
    for frames in ([crystal], *(structures(seed) for seed in range(20)), [ase.Atoms("Ar")]):
        system = System.from_ase(frames)
        neighbors = neighbors_for(system, request, skin=0.5)
        try:
            ours = build_graph(system, neighbors, request)
        except UserError:  # two atoms in one place
            continue
        with kernels.plain_forms():
            plain = build_graph(system, neighbors, request)
        assert torch.equal(ours.center, plain.center)
        assert torch.equal(ours.neighbor, plain.neighbor)
        assert torch.allclose(ours.edge_vectors, plain.edge_vectors, rtol=0.0, atol=1e-12)


def test_a_list_made_while_another_is_made_changes_neither(library: Library) -> None:
    """As a signal handler may, between the search and the dealing out."""
    outer, inner = System.from_ase(structures(1)), System.from_ase(structures(2))
    alone = edges_within(outer, 5.0)

    class Interrupted:
        def __call__(self, name: str, *arguments: object) -> int:
            if name == "kg_neighbors_take":
                edges_within(inner, 6.0)
            return library(name, *arguments)

    cells = outer.cell + torch.diag_embed((~outer.pbc).double())  # vectors where there are none
    cells = torch.where(outer.pbc.all(dim=1)[:, None, None], outer.cell, cells)
    arguments = (outer.positions, cells, outer.pbc, outer.atoms_per_system, 5.0)
    undisturbed = pairs_within(library, *arguments)
    disturbed = pairs_within(Interrupted(), *arguments)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(disturbed, undisturbed, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(edges_within(outer, 5.0), alone, strict=True))
