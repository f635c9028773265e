"""The training domain: what was seen, and the warnings where a structure leaves it."""

from __future__ import annotations

import json

import pytest
from ase.build import bulk, molecule

from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest, build_graph, neighbors_for
from kinetograph.system import System, batch
from kinetograph.training_domain import (
    TrainingDomain,
    domain_from_json,
    domain_of,
    domain_to_json,
    merge,
    shortest_distances,
)

REQUEST = GraphRequest(cutoff=4.0)


def graph_of(system: System) -> Graph:
    return build_graph(system, neighbors_for(system, REQUEST), REQUEST)


def test_shortest_distances_are_those_of_ase() -> None:
    water = molecule("H2O")
    shortest = shortest_distances(graph_of(System.from_ase(water)))
    assert shortest == {
        "H-O": pytest.approx(water.get_distance(0, 1)),
        "H-H": pytest.approx(water.get_distance(1, 2)),
    }


def test_merged_domain_holds_every_part_and_survives_json() -> None:
    parts = []
    for lattice in (3.5, 3.7):
        system = System.from_ase(bulk("Cu", "fcc", lattice, cubic=True))
        parts.append(domain_of(system, graph_of(system)))
    water = System.from_ase(molecule("H2O"))
    parts.append(domain_of(water, graph_of(water)))
    merged = merge(parts)
    assert merged.elements == (1, 8, 29)
    assert merged.density == pytest.approx((4 / 3.7**3, 4 / 3.5**3))
    assert merged.shortest_A["Cu-Cu"] == pytest.approx(3.5 / 2**0.5)
    assert domain_from_json(json.loads(json.dumps(domain_to_json(merged)))) == merged


def test_warnings_name_density_and_distance_only_outside() -> None:
    system = System.from_ase(bulk("Cu", "fcc", 3.6, cubic=True))
    domain = domain_of(system, graph_of(system))
    assert domain.outside(system, graph_of(system)) == []
    slightly = System.from_ase(bulk("Cu", "fcc", 3.59, cubic=True))
    assert domain.outside(slightly, graph_of(slightly)) == []
    dense = System.from_ase(bulk("Cu", "fcc", 3.4, cubic=True))
    warnings = domain.outside(dense, graph_of(dense))
    assert len(warnings) == 2
    assert "density" in warnings[0]
    assert "Cu-Cu distance of 2.404" in warnings[1]


def test_unknown_elements_are_refused_molecules_need_no_density() -> None:
    domain = TrainingDomain(elements=(1, 8), density=(0.1, 0.1), shortest_A={})
    water, ethanol = System.from_ase(molecule("H2O")), System.from_ase(molecule("CH3CH2OH"))
    domain.require_elements(water)
    (sentence,) = domain.outside(water, graph_of(water))  # a cell forgotten, perhaps
    assert "is not periodic" in sentence
    free = TrainingDomain(elements=(1, 8), density=None, shortest_A={})
    assert free.outside(water, graph_of(water)) == []
    in_a_box = molecule("H2O", vacuum=4.0, pbc=True)
    (sentence,) = free.outside(System.from_ase(in_a_box), graph_of(System.from_ase(in_a_box)))
    assert "no density to compare with" in sentence
    with pytest.raises(UserError, match="never saw the element C"):
        domain.require_elements(batch([water, ethanol]))


def test_crystals_and_molecules_trained_on_together_are_both_inside() -> None:
    crystal, water = System.from_ase(bulk("Cu", "fcc", 3.6, cubic=True)), System.from_ase(molecule("H2O"))
    both = merge([domain_of(system, graph_of(system)) for system in (crystal, water)])
    assert both.has_open
    assert both.outside(water, graph_of(water)) == both.outside(crystal, graph_of(crystal)) == []
    assert domain_from_json(domain_to_json(both)) == both
    assert domain_of(batch([crystal, water]), graph_of(batch([crystal, water]))) == both


def test_atoms_without_neighbours_are_named_where_training_had_none() -> None:
    pair, apart = molecule("N2"), molecule("N2")
    apart.positions[1, 2] += 9.0
    near, far = System.from_ase(pair), System.from_ase(apart)
    domain = domain_of(near, graph_of(near), cutoff=4.0)
    assert domain.company_A == 4.0
    assert domain.outside(near, graph_of(near)) == []
    (sentence,) = domain.outside(far, graph_of(far))
    assert sentence == "atoms with no neighbour within 4 Å: 2; in training all had one"
    further = GraphRequest(cutoff=20.0)  # that of a potential that is added
    (sentence,) = domain.outside(far, build_graph(far, neighbors_for(far, further), further))
    assert "within 4 Å: 2" in sentence
    both = merge([domain, domain_of(far, graph_of(far), cutoff=4.0)])
    assert both.company_A is None
    assert both.outside(far, graph_of(far)) == []
    assert domain_from_json(domain_to_json(domain)) == domain
    atom = System.from_ase(molecule("N"))  # by itself, and means to be
    assert domain.outside(atom, graph_of(atom)) == []
    assert merge([domain, domain_of(atom, graph_of(atom), cutoff=4.0)]) == domain


def test_files_that_do_not_say_whether_a_frame_was_open_are_read() -> None:
    domain = TrainingDomain(elements=(29,), density=(0.08, 0.09), shortest_A={"Cu-Cu": 2.4})
    new = ("has_open", "company_A")
    old = {name: value for name, value in domain_to_json(domain).items() if name not in new}
    assert domain_from_json(old) == domain
