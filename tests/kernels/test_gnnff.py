from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinetograph.kernels.gnnff import Edges, FusedGNNFF, LayerWeights, Weights
from kinetograph.kernels.native import Library

N_ATOMS, WIDTH, EDGE_WIDTH = 23, 20, 40
LARGEST = 21.0
"""What the compiled sum takes exponentials of edges up to."""


class Case:
    """A random network of one layer on a random graph, where atoms have from none to all as neighbours."""

    def __init__(self, *, envelope: bool, way_back: bool) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.way_back = way_back
        probability = torch.linspace(0.0, 1.0, N_ATOMS).unsqueeze(1)
        there = torch.rand(N_ATOMS, N_ATOMS, generator=self.generator) < probability
        there.fill_diagonal_(False)
        self.center, self.neighbor = torch.nonzero(there, as_tuple=True)
        positions = self.random(N_ATOMS, 3)
        self.vectors = positions[self.neighbor] - positions[self.center]
        self.envelope = torch.rand(len(self.center), generator=self.generator) if envelope else None
        self.nodes, self.states = (
            self.random(N_ATOMS, WIDTH).tanh(),
            self.random(len(self.center), EDGE_WIDTH).tanh(),
        )
        sizes = (*[WIDTH] * 3, *[EDGE_WIDTH] * 2)
        self.three_body = tuple(self.random(2 * EDGE_WIDTH, n) * n**-0.5 for n in sizes)
        self.bias = self.random(2 * EDGE_WIDTH)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def parts(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """(n_edges, 2 edge_width): what an edge adds as the first and as the second."""
        of_i, of_j, of_k, of_first, of_second = (
            x.to(dtype) @ w.to(dtype).T
            for x, w in zip((self.nodes,) * 3 + (self.states,) * 2, self.three_body, strict=True)
        )
        first = of_i[self.center] + of_j[self.neighbor] + of_first + self.bias.to(dtype)
        return first, of_k[self.neighbor] + of_second

    def plain(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Sums over triplets."""
        e, f = torch.nonzero(self.neighbor[:, None] == self.center[None, :], as_tuple=True)
        if not self.way_back:
            keep = self.neighbor[f] != self.center[e]
            e, f = e[keep], f[keep]
        first, second = self.parts(dtype)
        openness, core = (first[e] + second[f]).chunk(2, dim=1)
        message = openness.sigmoid() * core.tanh()
        if self.envelope is not None:
            message = message * self.envelope[f].to(dtype).unsqueeze(1)
        return torch.zeros(len(self.center), EDGE_WIDTH, dtype=dtype).index_add(0, e, message)

    def fused(self, library: Library) -> Tensor:
        network = FusedGNNFF(library, self.weights())
        edges: Edges = network.edges(
            *(self.center, self.neighbor, self.vectors, self.vectors.norm(dim=1), self.envelope, N_ATOMS)
        )
        return network.three_body(edges, 0, self.nodes, self.states)

    def weights(self) -> Weights:
        identity = torch.ones(EDGE_WIDTH), torch.zeros(EDGE_WIDTH)
        layer = LayerWeights(
            pair=(self.random(2 * WIDTH, WIDTH), self.random(2 * WIDTH, EDGE_WIDTH)),
            pair_bias=self.random(2 * WIDTH),
            node_norm=(torch.ones(WIDTH), torch.zeros(WIDTH)),
            two_body=self.random(2 * EDGE_WIDTH, WIDTH),
            two_body_bias=self.random(2 * EDGE_WIDTH),
            two_body_norm=identity,
            three_body=self.three_body,  # type: ignore[arg-type]
            three_body_bias=self.bias,
            edge_norm=identity,
        )
        return Weights(
            layers=[layer],
            centers=torch.linspace(0.0, 4.0, EDGE_WIDTH),
            sharpness=torch.ones(EDGE_WIDTH),
            force_head=[(self.random(1, EDGE_WIDTH), self.random(1))],
            outward=1.0,
            updated_nodes=True,
            way_back=self.way_back,
        )


def errors(case: Case, library: Library) -> tuple[float, float]:
    """Relative errors of the compiled sum, and of the plain one in single precision."""
    exact, plain = case.plain(), case.plain(torch.float32)
    fused = case.fused(library)
    return float((fused - exact).norm() / exact.norm()), float((plain - exact).norm() / exact.norm())


def check(case: Case, library: Library) -> None:
    """As exact as the plain sum in single precision."""
    fused, plain = errors(case, library)
    assert fused < 2.0 * plain + 1e-7


@pytest.mark.parametrize("way_back", [True, False])
@pytest.mark.parametrize("envelope", [True, False])
def test_the_sum_over_triplets_is_the_plain_one(library: Library, envelope: bool, way_back: bool) -> None:
    case = Case(envelope=envelope, way_back=way_back)
    assert all(part.abs().max() < LARGEST / 2 for part in case.parts())
    check(case, library)


@pytest.mark.parametrize("way_back", [True, False])
@pytest.mark.parametrize("envelope", [True, False])
@pytest.mark.parametrize("scale", [4.0, 12.0, 60.0])
@pytest.mark.parametrize("which", ["first", "second", "both", "one column", "core"])
def test_exponents_too_large_for_edges_are_taken_by_triplets(
    library: Library, which: str, scale: float, envelope: bool, way_back: bool
) -> None:
    """Factors beyond the range of floats, and products that are while their factors are not."""
    case = Case(envelope=envelope, way_back=way_back)
    i, j, k, ij, jk = case.three_body
    if which == "first":
        case.three_body = (scale * i, scale * j, k, scale * ij, jk)
    elif which == "second":
        case.three_body = (i, j, scale * k, ij, scale * jk)
    elif which == "both":
        case.three_body = tuple(scale * x for x in case.three_body)
    else:
        rows = slice(EDGE_WIDTH, None) if which == "core" else slice(7, 8)
        case.three_body = tuple(x.clone() for x in case.three_body)
        for weight in case.three_body:
            weight[rows] *= 2.0 * scale
    exponents = torch.cat(case.parts(), dim=1)
    exponents[:, EDGE_WIDTH : 2 * EDGE_WIDTH] *= 2.0
    exponents[:, 3 * EDGE_WIDTH :] *= 2.0
    beyond = (exponents.abs() > LARGEST).any(dim=1)
    assert bool(beyond.any())
    if which == "one column" and scale == 4.0:
        assert not bool(beyond.all())
    if scale == 60.0:
        assert float(exponents.abs().max()) > 88.0
    check(case, library)


def test_terms_that_cancel_between_edges_are_not_lost(library: Library) -> None:
    """σ(a + b) with a = 60 and b = −60: neither factor may be cut off."""
    case = Case(envelope=False, way_back=True)
    shift = 60.0 * (1.0 + torch.rand(EDGE_WIDTH, generator=case.generator))
    shift = torch.cat([shift, -shift])
    # The last column of the atoms' states is 1: with it h_k brings the shift and the bias takes it away.
    case.nodes[:, -1] = 1.0
    of_k = case.three_body[2].clone()
    of_k[:, -1] = shift
    case.three_body = (*case.three_body[:2], of_k, *case.three_body[3:])
    case.bias = case.bias - shift
    first, second = case.parts()
    assert float(first.abs().min(dim=0).values.min()) > LARGEST
    assert float((first.mean(dim=0) + second.mean(dim=0)).abs().max()) < 10.0
    # Half a unit in the last place of 120 is 4e-6, and there are some twenty sums; what was cut off would
    # show in the first digit.
    assert errors(case, library)[0] < 2e-5


def test_what_is_not_finite_is_not_made_finite(library: Library) -> None:
    case = Case(envelope=False, way_back=True)
    case.states[5, 3] = torch.nan
    lost = torch.isnan(case.plain())
    assert 0 < int(lost.any(dim=1).sum()) < len(lost)
    assert torch.equal(torch.isnan(case.fused(library)), lost)


def test_an_edge_does_not_feel_the_guard_of_another(library: Library) -> None:
    """To the bit: replicas of a batch must not."""
    case = Case(envelope=True, way_back=True)
    before = case.fused(library)
    far = int(case.center[-1])
    unaffected = (case.center != far) & (case.neighbor != far)
    second = ~torch.isin(case.neighbor, case.center[case.neighbor == far])
    case.states = case.states.clone()
    case.states[-1] *= 1e4
    after = case.fused(library)
    same = unaffected & second
    assert bool(same.any())
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before, after)


def test_types_are_checked(library: Library) -> None:
    case = Case(envelope=False, way_back=True)
    network, distances = FusedGNNFF(library, case.weights()), case.vectors.norm(dim=1)
    with pytest.raises(TypeError, match="float64"):
        network.edges(case.center, case.neighbor, case.vectors.double(), distances, None, N_ATOMS)
