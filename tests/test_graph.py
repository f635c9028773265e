"""Nearest neighbours, edges that go back, and what meets at an atom, against loops over images."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest, build_graph, neighbors_for
from kinetograph.system import System, batch


def skewed() -> ase.Atoms:
    """Three atoms in a triclinic cell far smaller than the cutoff: many images of one pair."""
    atoms = bulk("NaCl", "rocksalt", 5.6)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.1 * np.array([[0, 1, -1], [0.5, 0, 1], [0, 0, 0.3]])), True)
    atoms += ase.Atom("Li", (1.1, 0.2, 2.3))
    atoms.rattle(0.1, seed=1)
    return atoms


def mixed() -> System:
    return batch([System.from_ase(a) for a in (molecule("C2H6"), skewed(), ase.Atoms("Ar"))])


def graph_of(system: System, request: GraphRequest) -> Graph:
    return build_graph(system, neighbors_for(system, request), request)


def ends(system: System, graph: Graph) -> list[tuple[int, int, tuple[float, ...]]]:
    """Each edge as (centre, neighbour, where the neighbour's image is)."""
    place = system.positions[graph.center] + graph.edge_vectors
    return [
        (int(i), int(j), tuple(np.round(p, 6).tolist()))
        for i, j, p in zip(graph.center, graph.neighbor, place.numpy(), strict=True)
    ]


def test_the_reverse_edge_goes_back() -> None:
    graph = graph_of(mixed(), GraphRequest(cutoff=4.5, reverse=True))
    assert graph.reverse is not None
    assert torch.equal(graph.reverse[graph.reverse], torch.arange(graph.n_edges))
    assert torch.equal(graph.center[graph.reverse], graph.neighbor)
    assert torch.equal(graph.edge_vectors[graph.reverse], -graph.edge_vectors)  # to the bit


@pytest.mark.parametrize("kind", ["fork", "path", "walk"])
def test_triplets_are_all_pairs_of_edges_that_meet(kind: str) -> None:
    system = mixed()
    graph = graph_of(system, GraphRequest(cutoff=3.4, triplets=kind))  # type: ignore[arg-type]
    assert graph.triplets is not None
    vectors = graph.edge_vectors.numpy()
    expected = set()
    for a in range(graph.n_edges):
        for b in range(graph.n_edges):
            if kind == "fork":
                meets = graph.center[a] == graph.center[b] and a != b
            else:
                back = graph.neighbor[b] == graph.center[a] and np.allclose(vectors[a], -vectors[b])
                meets = graph.neighbor[a] == graph.center[b] and (kind == "walk" or not back)
            if meets:
                expected.add((a, b))
    found = list(zip(graph.triplets.first.tolist(), graph.triplets.second.tolist(), strict=True))
    assert len(found) == len(set(found)) == len(expected) > 500
    assert set(found) == expected
    assert found == sorted(found)


def test_quadruplets_are_all_chains_of_four_different_images() -> None:
    system = batch([System.from_ase(molecule("H2O2")), System.from_ase(skewed())])
    request = GraphRequest(cutoff=3.1, link_cutoff=3.6)
    graph = graph_of(system, request)
    assert graph.links is not None
    assert graph.quadruplets is not None
    links = graph_of(system, GraphRequest(cutoff=3.6))
    torch.testing.assert_close(graph.links.vectors, links.edge_vectors, rtol=0, atol=0)
    edge, link = graph.edge_vectors.numpy(), links.edge_vectors.numpy()
    expected = set()
    for m in range(links.n_edges):
        a, b = int(links.center[m]), int(links.neighbor[m])
        for t in np.nonzero(graph.center.numpy() == a)[0]:
            for s in np.nonzero(graph.center.numpy() == b)[0]:
                c, d = edge[t], link[m] + edge[s]  # places relative to a
                if (
                    np.linalg.norm(c - link[m]) > 1e-6  # c ≠ b
                    and np.linalg.norm(d) > 1e-6  # d ≠ a
                    and np.linalg.norm(d - c) > 1e-6  # d ≠ c
                ):
                    expected.add((int(t), m, int(s)))
    q = graph.quadruplets
    found = list(zip(q.target.tolist(), q.link.tolist(), q.source.tolist(), strict=True))
    assert len(found) == len(set(found)) == len(expected) > 500
    assert set(found) == expected


def test_the_k_nearest_with_ties() -> None:
    # Each atom of an fcc crystal has 12 neighbours at one distance: asking for 5 must give all 12.
    crystal = System.from_ase(bulk("Cu", "fcc", 3.6))
    for k in (1, 5, 12):
        assert graph_of(crystal, GraphRequest(cutoff=6.0, n_nearest=k)).n_edges == 12
    assert graph_of(crystal, GraphRequest(cutoff=6.0, n_nearest=13)).n_edges == 18

    liquid = skewed() * (2, 2, 2)
    liquid.rattle(0.3, seed=5)
    system = batch([System.from_ase(liquid), System.from_ase(skewed())])
    graph = graph_of(system, GraphRequest(cutoff=6.0, n_nearest=7))
    everyone = graph_of(system, GraphRequest(cutoff=6.0))
    for atom in range(system.n_atoms):
        kept = graph.distances[graph.center == atom]
        allowed = everyone.distances[everyone.center == atom].sort().values[:7]
        assert torch.equal(kept.sort().values, allowed)


def test_too_few_neighbours_are_refused_or_kept() -> None:
    system = System.from_ase(molecule("CH4"))
    request = GraphRequest(cutoff=6.0, n_nearest=5)
    with pytest.raises(UserError, match=r"atom 0 has 4 neighbours within 6 Å, but the model reads the 5"):
        graph_of(system, request)
    assert graph_of(system, GraphRequest(cutoff=6.0, n_nearest=5, nearest_required=False)).n_edges == 20
    lonely = System.from_ase(ase.Atoms("Ar"))
    assert graph_of(lonely, GraphRequest(cutoff=6.0, n_nearest=5, nearest_required=False)).n_edges == 0


def test_coincident_atoms_are_refused() -> None:
    atoms = molecule("CH4")
    atoms.positions[3] = atoms.positions[2] + 1e-5
    system = batch([System.from_ase(molecule("H2O")), System.from_ase(atoms)])
    with pytest.raises(UserError, match=r"atoms 2 and 3 are in one place") as caught:
        graph_of(system, GraphRequest(cutoff=4.0))
    assert caught.value.where == "structure 1"


def test_links_do_not_add_edges() -> None:
    system = mixed()
    plain = graph_of(system, GraphRequest(cutoff=3.0))
    linked = graph_of(system, GraphRequest(cutoff=3.0, link_cutoff=5.0))
    assert torch.equal(plain.edge_vectors, linked.edge_vectors)
    assert GraphRequest(cutoff=3.0, link_cutoff=5.0).reach == 5.0
