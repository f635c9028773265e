"""Large structures are computed in an order of their own, and nobody notices."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from kinetograph import kernels, space
from kinetograph.bonds import with_bonds
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest, build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Prediction
from kinetograph.space import SpaceOrder
from kinetograph.system import System

CUTOFF = 3.0


@pytest.fixture
def system(rng: np.random.Generator) -> System:
    """Two of four are large for these tests: a shuffled liquid, and a slab that is open along z."""

    def liquid(side: int, pbc: object, skew: float = 0.0) -> ase.Atoms:
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3) * 2.6
        atoms = ase.Atoms(
            [8, 1, 6] * (side**3 // 3) + [8] * (side**3 % 3), grid + rng.normal(0, 0.2, grid.shape)
        )
        atoms.set_cell(side * 2.6 * np.eye(3))
        atoms.set_cell(atoms.cell.array + skew * np.eye(3, k=-1), scale_atoms=True)
        atoms.pbc = pbc
        return atoms[rng.permutation(len(atoms))]

    return System.from_ase(
        [
            liquid(2, True),
            liquid(7, True, 1.5),
            ase.Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]),
            liquid(6, [1, 1, 0]),
        ]
    )


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "FEWEST_ATOMS", 100)


def potential(architecture: str, forces: str, **options: object) -> LearnedPotential:
    torch.manual_seed(0)
    return build(architecture, [1, 6, 8], {"cutoff": CUTOFF, "forces": forces, "width": 16, **options}).eval()


def test_an_order_is_of_the_same_atoms_and_edges(system: System) -> None:
    neighbors = NeighborList.build(system, CUTOFF, skin=0.5)
    found = SpaceOrder.of(system, neighbors)
    assert found is not None
    assert torch.equal(found.order[found.place], torch.arange(system.n_atoms))
    assert torch.equal(system.system_index[found.order], system.system_index)  # structures stay together
    small = system.system_index % 2 == 0
    assert torch.equal(found.order[small], torch.arange(system.n_atoms)[small])

    request = GraphRequest(cutoff=CUTOFF)
    theirs = build_graph(system, neighbors, request)
    graphs = [build_graph(system, neighbors, request, order=found)]
    with kernels.plain_forms():
        graphs.append(build_graph(system, neighbors, request, order=found))
    for ours in graphs:
        assert torch.equal(ours.atomic_numbers, system.atomic_numbers[found.order])
        assert bool((ours.center.diff() >= 0).all())
        by_atom = torch.argsort(found.order[ours.center], stable=True)  # an atom's edges keep their order
        assert torch.equal(found.order[ours.center][by_atom], theirs.center)
        assert torch.equal(found.order[ours.neighbor][by_atom], theirs.neighbor)
        assert torch.equal(ours.edge_vectors[by_atom], theirs.edge_vectors)
        torch.testing.assert_close(ours.distances[by_atom], theirs.distances, rtol=1e-15, atol=0.0)


def test_near_in_space_is_near_in_memory(system: System) -> None:
    neighbors = NeighborList.build(system, CUTOFF)
    found = SpaceOrder.of(system, neighbors)
    assert found is not None
    for index in (1, 3):  # the liquid, and the slab
        own = system.system_index[neighbors.center] == index
        center, neighbor = neighbors.center[own], neighbors.neighbor[own]
        apart = (found.place[center] - found.place[neighbor]).abs().double().mean()
        assert apart < 0.7 * (center - neighbor).abs().double().mean()


def test_the_order_of_a_structure_does_not_feel_its_batch(system: System) -> None:
    """What leaves a batch, or joins it, changes nothing for the others to the bit."""
    found = SpaceOrder.of(system, NeighborList.build(system, CUTOFF))
    assert found is not None
    begin = 0
    for atoms in system.to_ase():
        alone = System.from_ase(atoms)
        own = SpaceOrder.of(alone, NeighborList.build(alone, CUTOFF))
        if own is not None:
            assert torch.equal(found.order[begin : begin + len(atoms)], own.order + begin)
        begin += len(atoms)


def test_what_is_built_on_edges_has_no_other_order(system: System) -> None:
    neighbors = NeighborList.build(system, CUTOFF)
    with pytest.raises(ValueError, match="only edges within a cutoff"):
        build_graph(
            system,
            neighbors,
            GraphRequest(cutoff=CUTOFF, reverse=True),
            order=SpaceOrder.of(system, neighbors),
        )


def test_small_structures_are_left_alone(system: System) -> None:
    small = System.from_ase(system.to_ase()[0])
    assert SpaceOrder.of(small, NeighborList.build(small, CUTOFF)) is None


@pytest.mark.parametrize(
    ("architecture", "forces", "options"),
    [
        ("painn", "both", {"n_layers": 2}),
        ("painn", "direct", {"n_layers": 2, "max_bond_separation": 1}),
        ("gamd", "direct", {"n_layers": 2}),
        ("schnet", "conservative", {"n_layers": 2}),
        ("forcenet", "direct", {"n_layers": 2}),
        ("gnnff", "direct", {"neighborhood": "radius", "envelope": True, "edge_width": 16, "n_layers": 2}),
    ],
)
def test_predictions_do_not_depend_on_the_order(
    architecture: str,
    forces: str,
    options: dict[str, object],
    system: System,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kernels.library() is None:
        pytest.skip("no compiled kernels: there is no inference form")
    model = potential(architecture, forces, **options)
    model.also_direct = forces == "both"
    bonded = with_bonds(system, model.request.bond_rule)
    neighbors = neighbors_for(bonded, model.request, skin=0.3)

    def predicted() -> Prediction:
        with torch.no_grad():
            prediction: Prediction = model(bonded, neighbors)
        return prediction

    ours = predicted()
    assert model._ordered[1] is not None
    monkeypatch.setattr(space, "FEWEST_ATOMS", 10_000)
    model._ordered = (None, None)
    theirs = predicted()
    assert model._ordered[1] is None

    def same(these: torch.Tensor, those: torch.Tensor) -> bool:
        if architecture == "painn":  # both atoms of a pair are added to when the first has its turn
            return torch.allclose(these, those, rtol=1e-5, atol=1e-5 * float(those.abs().max()))
        return torch.equal(these, those)  # sums over an atom's edges are in their old order

    if not ours.conservative:
        assert same(ours.forces, theirs.forces)
    else:  # those of the edges that push an atom are not; torch's products feel in which row an atom stands
        size = {"schnet": 1e-6, "painn": 1e-5}.get(architecture, 1e-9)
        torch.testing.assert_close(ours.forces, theirs.forces, rtol=size, atol=size)
        torch.testing.assert_close(ours.stress, theirs.stress, rtol=size, atol=size, equal_nan=True)
        torch.testing.assert_close(ours.atomic_energies, theirs.atomic_energies, rtol=size, atol=size)
    if ours.direct_forces is not None:
        assert theirs.direct_forces is not None
        assert same(ours.direct_forces, theirs.direct_forces)


def test_an_order_of_other_atoms_is_refused(system: System) -> None:
    """Threads that share a potential must never reach over the end of an array."""
    if kernels.library() is None:
        pytest.skip("no compiled kernels")
    neighbors = NeighborList.build(system, CUTOFF)
    found = SpaceOrder.of(system, neighbors)
    assert found is not None
    other = SpaceOrder(found.order[:-1], found.place[:-1], found.first[:-1])
    with pytest.raises(ValueError, match="not of these atoms"):
        build_graph(system, neighbors, GraphRequest(cutoff=CUTOFF), order=other)


def test_atoms_in_one_place_are_named_by_the_numbers_that_the_user_knows(system: System) -> None:
    atoms = system.to_ase()[1]
    atoms.positions[17] = atoms.positions[211] + 1e-5
    one = System.from_ase(atoms)
    model = potential("painn", "direct", n_layers=1)
    with pytest.raises(UserError, match=r"17 and 211|211 and 17"), torch.no_grad():
        model(one, neighbors_for(one, model.request))
