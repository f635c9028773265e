"""Sums over the other edges of a centre against all pairs, and trainings against listed triplets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ase
import numpy as np
import pytest
import torch
from torch import Tensor

from kinetograph import kernels
from kinetograph.graph import Graph, GraphRequest, build_graph, neighbors_for
from kinetograph.kernels import plain_forms
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.nn import other_edges
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


@pytest.mark.parametrize("how", ["fused", "one block", "blocks of several widths"])
def test_sums_are_those_over_all_pairs_of_edges(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_edges, "UNEVEN", 0.0 if how == "blocks of several widths" else 1e9)
    edges = graph(GraphRequest(cutoff=3.0))
    units, n = edges.unit_vectors, edges.n_edges
    generator = torch.Generator().manual_seed(0)
    narrow = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    wide = torch.randn(n, N_L, 3, generator=generator, dtype=torch.float64)
    filters = torch.randn(n, N_L, 2, generator=generator, dtype=torch.float64)
    cosines = (units @ units.T).flatten()
    ours = OtherEdges(edges, units, N_L, fused=how == "fused")
    if how != "fused":
        assert (len(ours._blocks) > 2) == (how == "blocks of several widths")
    other = (edges.center[:, None] == edges.center[None]) & ~torch.eye(n, dtype=torch.bool)
    y = zonal_harmonics(cosines, N_L).view(n, n, N_L) * other.unsqueeze(2) / ours.norms[:, 0]
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(ours.spread(narrow), torch.einsum("eol,ow->elw", y, narrow), **close)
    torch.testing.assert_close(ours.gather(wide), torch.einsum("eol,olw->ew", y, wide), **close)
    combined = torch.einsum("eol,olb,ow->ebw", y, filters, narrow)
    torch.testing.assert_close(ours.combine(narrow, filters), combined, **close)


@pytest.mark.parametrize("uneven", [0.0, 1e9], ids=["blocks", "one block"])
@pytest.mark.parametrize("n_l", [1, 2, 4])
def test_blocks_can_be_differentiated_twice(n_l: int, uneven: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_edges, "UNEVEN", uneven)
    edges = graph(GraphRequest(cutoff=2.2))
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def sums(vectors: Tensor, x: Tensor, filters: Tensor) -> tuple[Tensor, ...]:
        units = vectors / vectors.norm(dim=1, keepdim=True)
        others = OtherEdges(edges, units, n_l, fused=False)
        spread = others.spread(x)
        return spread, others.gather(spread.square()), others.combine(x, filters)

    n = edges.n_edges
    given = (edges.edge_vectors.clone().requires_grad_(), random(n, 1), random(n, n_l, 2))
    assert torch.autograd.gradcheck(sums, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(sums, given, fast_mode=True)


@pytest.mark.parametrize("fused", [False, True])
def test_where_nothing_meets(fused: bool) -> None:
    lone = System.from_ase([ase.Atoms("O"), ase.Atoms("H")])
    request = GraphRequest(cutoff=3.0)
    edges = build_graph(lone, neighbors_for(lone, request), request)
    others = OtherEdges(edges, edges.unit_vectors, N_L, fused=fused)
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
    architecture: str, options: dict[str, Any], forces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KINETOGRAPH_KERNELS", raising=False)  # it may ask for plain forms, which list
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
    with pytest.raises(ValueError, match="triplets"):
        potential.model(graph(replace(potential.request, triplets=None, reverse=True)), ("conservative",))


def test_scale_factors_are_fitted_to_listed_triplets() -> None:
    model = build("gemnet", [1, 8], {"cutoff": 2.8, **SMALL["gemnet"]}).model
    with pytest.raises(ValueError, match="triplets"):
        model.fit_statistics([graph(model.training_request)], [])


def test_only_what_nobody_differentiates_twice_takes_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "triton_kernels", lambda: True)
    model = build("dimenet++", [1, 8], {"cutoff": 2.8, **SMALL["dimenet++"]}).model
    single, double = torch.ones(1), torch.ones(1, dtype=torch.float64)
    assert not model.takes_operators(single)
    form = model.gpu_form()
    assert isinstance(form, type(model))
    assert form.takes_operators(single)
    assert not form.takes_operators(double)
    with torch.no_grad():
        assert model.takes_operators(single)
        monkeypatch.setattr(kernels, "triton_kernels", lambda: False)
        assert not model.takes_operators(single)


def test_a_crowd_beside_lone_pairs_takes_no_block_of_its_width() -> None:
    crowd = ase.Atoms("O" * 30, np.random.default_rng(0).uniform(0, 4, (30, 3)))
    pairs = [ase.Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]) for _ in range(200)]
    where = System.from_ase([crowd, *pairs])
    request = GraphRequest(cutoff=3.0)
    edges = build_graph(where, neighbors_for(where, request), request)
    blocks = OtherEdges(edges, edges.unit_vectors, N_L, fused=False)._blocks
    counts = torch.bincount(edges.center)
    assert sum(block.kernel.numel() for block in blocks) < 4 * N_L * int(counts.square().sum())
