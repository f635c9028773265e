"""Sums over the other edges of a centre against all pairs, and trainings against listed triplets."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import pytest
import torch
from torch import Tensor

from kinetograph.graph import Graph, GraphRequest, build_graph, neighbors_for
from kinetograph.kernels import plain_forms
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.nn.other_edges import OtherEdges
from kinetograph.nn.spherical import zonal_harmonics
from kinetograph.system import System

N_L = 5


def system() -> System:
    """A molecule, a lone atom, a cell much smaller than the cutoff, and a slab with few neighbours."""
    rng = np.random.default_rng(3)
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    molecule = ase.Atoms([8, 1, 1, 8, 1, 1], np.concatenate([water, water + 2.7]))
    small = ase.Atoms([8, 1, 1], water, cell=[2.6, 2.9, 3.1], pbc=True)
    slab = ase.Atoms([8] * 4, rng.uniform(0, 3, (4, 3)) * [1, 1, 2], cell=[4, 4, 20], pbc=[True, True, False])
    return System.from_ase([molecule, ase.Atoms("O"), small, slab])


def graph(request: GraphRequest, *, differentiable: bool = False) -> Graph:
    where = system()
    return build_graph(where, neighbors_for(where, request), request, differentiable=differentiable)


@pytest.fixture(params=[False, True], ids=["running", "learning"])
def learning(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


def test_sums_are_those_over_all_pairs_of_edges(learning: bool) -> None:
    edges = graph(GraphRequest(cutoff=3.0))
    units, n = edges.unit_vectors, edges.n_edges
    generator = torch.Generator().manual_seed(0)
    narrow = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    wide = torch.randn(n, N_L, 3, generator=generator, dtype=torch.float64)
    filters = torch.randn(n, N_L, 2, generator=generator, dtype=torch.float64)
    cosines = (units @ units.T).flatten()
    y = zonal_harmonics(cosines, N_L).view(n, n, N_L)
    other = (edges.center[:, None] == edges.center[None]) & ~torch.eye(n, dtype=torch.bool)
    y = y * other.unsqueeze(2)
    ours = OtherEdges(edges, units, N_L, learning=learning)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(ours.spread(narrow), torch.einsum("eol,ow->elw", y, narrow), **close)
    torch.testing.assert_close(ours.gather(wide), torch.einsum("eol,olw->ew", y, wide), **close)
    combined = torch.einsum("eol,olb,ow->ebw", y, filters, narrow)
    torch.testing.assert_close(ours.combine(narrow, filters), combined, **close)


@pytest.mark.parametrize("n_l", [1, 2, 4])
def test_for_learning_they_can_be_differentiated_twice(n_l: int) -> None:
    edges = graph(GraphRequest(cutoff=2.2))
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def sums(vectors: Tensor, x: Tensor, filters: Tensor) -> tuple[Tensor, ...]:
        units = vectors / vectors.norm(dim=1, keepdim=True)
        others = OtherEdges(edges, units, n_l, learning=True)
        spread = others.spread(x)
        return spread, others.gather(spread.square()), others.combine(x, filters)

    n = edges.n_edges
    given = (edges.edge_vectors.clone().requires_grad_(), random(n, 1), random(n, n_l, 2))
    assert torch.autograd.gradcheck(sums, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(sums, given, fast_mode=True)


@pytest.mark.parametrize("learning", [False, True])
def test_where_nothing_meets(learning: bool) -> None:
    lone = System.from_ase([ase.Atoms("O"), ase.Atoms("H")])
    request = GraphRequest(cutoff=3.0)
    edges = build_graph(lone, neighbors_for(lone, request), request)
    others = OtherEdges(edges, edges.unit_vectors, N_L, learning=learning)
    assert others.spread(torch.ones(0, 2, dtype=torch.float64)).shape == (0, N_L, 2)
    assert others.gather(torch.ones(0, N_L, 2, dtype=torch.float64)).shape == (0, 2)


SMALL: dict[str, dict[str, Any]] = {
    "dimenet": {"width": 12, "n_layers": 2, "n_bilinear": 3},
    "dimenet++": {"width": 12, "n_layers": 2, "triplet_width": 6, "readout_width": 8},
    "gemnet": {"width": 10, "edge_width": 12, "n_layers": 2, "triplet_width": 6, "triplet_bilinear": 5},
}


def gradients(potential: LearnedPotential, requests: list[GraphRequest]) -> dict[str, Tensor]:
    """Of a loss on all that the potential says, by every weight; notes what its graphs hold."""
    where = system()
    potential.zero_grad()
    requests.append(potential._needed)
    prediction = potential(where, neighbors_for(where, potential.request))
    loss = (prediction.forces - 0.3).square().mean()
    if prediction.energy is not None:
        loss = loss + prediction.energy.square().mean()
    if prediction.stress is not None:
        loss = loss + prediction.stress[torch.isfinite(prediction.stress)].square().mean()
    loss.backward()
    return {name: p.grad for name, p in potential.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("dimenet", {}),
        ("dimenet", {"radial_filter": "ji", "basis": "paper"}),
        ("dimenet++", {}),
        ("dimenet++", {"radial_filter": "ji", "angle_grad": False}),
        ("gemnet", {}),
        (
            "gemnet",
            {"quadruplets": True, "link_cutoff": 2.5, "quadruplet_width": 4, "quadruplet_bilinear": 4},
        ),
    ],
    ids=str,
)
def test_a_model_learns_what_its_listed_triplets_teach(
    architecture: str, options: dict[str, Any], forces: str
) -> None:
    torch.manual_seed(2)
    given = {"cutoff": 2.8, "forces": forces, **SMALL[architecture], **options}
    potential = build(architecture, [1, 8], given).double().train()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    requests: list[GraphRequest] = []
    ours = gradients(potential, requests)
    with plain_forms():
        listed = gradients(potential, requests)
    assert [request.triplets is None for request in requests] == [True, False]
    assert set(ours) == set(listed)
    assert len(ours) > 10
    largest = max(float(g.norm()) for g in listed.values())
    for name, gradient in listed.items():
        assert float((ours[name] - gradient).norm()) < 1e-10 * max(float(gradient.norm()), 1e-3 * largest), (
            name
        )


def test_angles_of_the_first_program_are_listed() -> None:
    potential = build("dimenet", [1, 8], {"cutoff": 2.8, "angle": "original", **SMALL["dimenet"]})
    assert potential.train()._needed.triplets is not None
    prediction = potential(system(), neighbors_for(system(), potential.request))
    assert bool(torch.isfinite(prediction.forces).all())
