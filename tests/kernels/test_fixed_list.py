"""Graphs of fixed size against the exact ones, and what potentials say of both."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from forms import batch, error, model

from kinetograph import kernels
from kinetograph.bonds import with_bonds
from kinetograph.fixed_list import FixedList
from kinetograph.graph import GraphRequest, build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.neighbors import NeighborList

REQUEST = GraphRequest(cutoff=3.1)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision is asked of the form for a GPU, whether this is one or not."""
    monkeypatch.setattr(LearnedPotential, "_runs_on_gpu", True)
    monkeypatch.setattr(kernels, "triton_kernels", lambda: True)


@pytest.mark.parametrize("skin", [0.0, 0.7])
def test_the_edges_of_the_exact_graph_come_first(skin: float) -> None:
    system = batch()
    neighbors = NeighborList.build(system, REQUEST.cutoff, skin=skin)
    exact = build_graph(system, neighbors, REQUEST)
    fixed = FixedList(neighbors, system.n_atoms, REQUEST)
    ours = fixed.graph(system, torch.float64)
    n = exact.n_edges
    assert 0 < n < fixed.capacity
    assert ours.n_edges == fixed.capacity
    for name in ("center", "neighbor", "edge_vectors"):
        assert torch.equal(getattr(ours, name)[:n], getattr(exact, name)), name
    torch.testing.assert_close(ours.distances[:n], exact.distances, rtol=1e-14, atol=0.0)
    assert torch.equal(ours.atomic_numbers[: system.n_atoms], system.atomic_numbers)
    # What is left over lies between atoms that are not there, and is spread over them.
    left_over = ours.center[n:]
    assert int(left_over.min()) >= system.n_atoms
    assert int(left_over.max()) < ours.n_atoms
    assert torch.equal(left_over, ours.neighbor[n:])
    assert bool((ours.center.diff() >= 0).all())
    spread = torch.bincount(left_over - system.n_atoms)
    assert int(spread.max()) <= -(-len(left_over) // fixed.n_nobodies)
    assert bool((ours.distances < REQUEST.cutoff).all())
    assert not bool(fixed.bad)


def test_it_holds_another_list_where_there_is_room() -> None:
    system = batch()
    neighbors = NeighborList.build(system, REQUEST.cutoff, skin=0.3)
    fixed = FixedList(neighbors, system.n_atoms, REQUEST)
    moved = replace(system, positions=system.positions + 0.3 * torch.randn_like(system.positions))
    assert fixed.fill(NeighborList.build(moved, REQUEST.cutoff, skin=0.3))
    exact = build_graph(moved, NeighborList.build(moved, REQUEST.cutoff), REQUEST)
    ours = fixed.graph(moved, torch.float64)
    assert torch.equal(ours.edge_vectors[: exact.n_edges], exact.edge_vectors)
    assert int(ours.center[exact.n_edges]) >= system.n_atoms
    before = fixed.center.clone()
    assert not fixed.fill(NeighborList.build(system, 2.0 * REQUEST.cutoff))
    assert torch.equal(fixed.center, before)


def test_what_a_step_cannot_answer_for_is_noted() -> None:
    system = batch()
    neighbors = NeighborList.build(system, REQUEST.cutoff, skin=0.6)
    fixed = FixedList(neighbors, system.n_atoms, REQUEST)

    def moved(by: float) -> Any:
        positions = system.positions.clone()
        positions[3, 1] += by
        return replace(system, positions=positions)

    assert fixed.updated(moved(0.29)) is fixed
    assert not bool(fixed.bad)
    fixed.updated(moved(0.31))
    assert bool(fixed.bad)
    fixed.updated(system)
    assert bool(fixed.bad)  # it stays
    fixed.clear()
    assert not bool(fixed.bad)
    fixed.updated(moved(float("nan")))
    assert bool(fixed.bad)
    fixed.clear()
    together = system.positions.clone()
    together[1] = together[0]
    fixed.graph(replace(system, positions=together), torch.float64)
    assert bool(fixed.bad)


@pytest.mark.parametrize("request_", [replace(REQUEST, reverse=True), replace(REQUEST, n_nearest=4)])
def test_more_than_edges_is_refused(request_: GraphRequest) -> None:
    system = batch()
    neighbors = NeighborList.build(system, REQUEST.cutoff)
    with pytest.raises(ValueError, match="only edges within a cutoff"):
        FixedList(neighbors, system.n_atoms, request_)


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("painn", "both", {"width": 20}),
    ("painn", "direct", {"width": 16, "max_bond_separation": 2, "force_head": "gated"}),
    ("schnet", "both", {"width": 20, "n_layers": 2}),
    ("gamd", "direct", {"width": 24, "n_layers": 2}),
    ("gamd", "direct", {"width": 24, "n_layers": 2, "form": "code"}),
    ("gamd", "direct", {"width": 24, "n_layers": 2, "form": "covariant"}),
    ("forcenet", "direct", {"width": 16, "n_layers": 2}),
]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
@pytest.mark.parametrize(("architecture", "forces", "options"), CASES, ids=str)
def test_potentials_say_the_same_of_both(
    architecture: str, forces: str, options: dict[str, Any], device: str, on_gpu: None
) -> None:
    potential = model(architecture, forces, **options).to(device)
    potential.also_direct = forces == "both"
    system = with_bonds(batch(), potential.request.bond_rule).to(device)
    neighbors = neighbors_for(system, potential.request, skin=0.4)
    with torch.no_grad():
        form = potential.steady_form(system)
        assert form is not None
        fixed = FixedList(neighbors, system.n_atoms, form.request)
        theirs, ours = potential(system, neighbors), form(system, fixed)
    assert not bool(fixed.bad)
    for item in fields(theirs):
        value, exact = getattr(ours, item.name), getattr(theirs, item.name)
        if isinstance(exact, torch.Tensor):
            assert value.dtype == exact.dtype
            assert value.shape == exact.shape
            assert error(value.cpu(), exact.cpu()) < 2e-6, item.name
        else:
            assert value == exact, item.name


def test_models_of_more_than_edges_have_none(on_gpu: None) -> None:
    dimenet = model("dimenet++", "conservative", width=16, n_layers=1, triplet_width=8, readout_width=16)
    nearest = model("gnnff", "direct", width=16, edge_width=8, n_neighbors=2)
    with torch.no_grad():
        for potential in (dimenet, nearest):
            assert potential.steady_form(batch()) is None


def test_nuclei_nearer_than_tables_begin_are_noted(on_gpu: None) -> None:
    potential, system = model("painn", "direct", width=16), batch()
    near = system.positions.clone()
    near[1] = near[0] + 0.1
    system = replace(system, positions=near)
    with torch.no_grad():
        form = potential.steady_form(system)
        assert form is not None
        fixed = FixedList(neighbors_for(system, potential.request), system.n_atoms, form.request)
        form(system, fixed)
    assert bool(fixed.bad)
