"""The building blocks of GemNet: each against its definition."""

from __future__ import annotations

import math

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.special import lpmv

from kinetograph.graph import GraphRequest, build_graph, neighbors_for
from kinetograph.nn.efficient import (
    Dense,
    EfficientBilinear,
    NeighborSum,
    RadialDown,
    ScaleFactor,
    degree_of,
    fitting_scales,
    he_orthogonal,
    joined,
    real_harmonics,
    scaled_silu,
)
from kinetograph.system import System, batch


def test_real_harmonics_are_the_textbook_ones_in_the_order_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = torch.rand(50, generator=generator, dtype=torch.float64) * math.pi
    phi = torch.rand(50, generator=generator, dtype=torch.float64) * 2 * math.pi
    x, y, z = theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()
    got = real_harmonics(x, y, z, 7).numpy()
    columns = []
    for l in range(7):
        for m in [*range(l + 1), *range(-l, 0)]:
            k = abs(m)
            norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - k) / math.factorial(l + k))
            turn = math.sqrt(2) * (np.cos if m > 0 else np.sin)(k * phi.numpy()) if m else 1.0
            columns.append((-1) ** k * norm * lpmv(k, l, z.numpy()) * turn)
    np.testing.assert_allclose(got, np.stack(columns, axis=1), rtol=1e-12, atol=1e-13)
    assert len(degree_of(7)) == got.shape[1] == 49
    assert degree_of(3) == [0, 1, 1, 1, 2, 2, 2, 2, 2]


def test_real_harmonics_are_orthonormal_on_the_sphere() -> None:
    """By a quadrature exact for products of two harmonics of degree 4: Gauss in z, even steps in φ."""
    z, weight = np.polynomial.legendre.leggauss(6)
    phi = np.arange(12) * 2 * math.pi / 12
    zs, ps = (torch.as_tensor(a.ravel()) for a in np.meshgrid(z, phi, indexing="ij"))
    s = torch.sqrt(1 - zs**2)
    values = real_harmonics(s * ps.cos(), s * ps.sin(), zs, 5)
    area = torch.as_tensor(np.repeat(weight, 12) * 2 * math.pi / 12)
    gram = values.T @ (values * area.unsqueeze(1))
    torch.testing.assert_close(gram, torch.eye(25).double(), rtol=0, atol=1e-13)


def test_real_harmonics_have_two_finite_derivatives_on_the_axis() -> None:
    point = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64, requires_grad=True)
    total = real_harmonics(*point.unbind(0), 7).sum()
    (slope,) = torch.autograd.grad(total, point, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), point)
    assert bool(slope.isfinite().all())
    assert bool(curvature.isfinite().all())


@pytest.mark.parametrize("length", [1, 3, 16])
def test_neighbor_sum_is_the_sum_of_outer_products(length: int) -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.tensor([0, 0, 0, 0, 2, 2, 5])  # targets 1, 3 and 4 hear nothing
    source = torch.tensor([3, 1, 1, 0, 2, 3, 3])
    angular = torch.rand(7, 4, generator=generator, dtype=torch.float64)
    messages = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    expected = torch.zeros(6, 3, 4, dtype=torch.float64)
    for t, s, y in zip(target, source, angular, strict=True):
        expected[t] += torch.outer(messages[s], y)
    got = NeighborSum(angular, target, source, 6, length=length)(messages)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-15)


def test_neighbor_sum_of_nothing_is_zero() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert NeighborSum(torch.zeros(0, 4), none, none, 3)(torch.ones(5, 2)).equal(torch.zeros(3, 2, 4))
    assert NeighborSum(torch.zeros(0, 4), none, none, 0)(torch.ones(0, 2)).shape == (0, 2, 4)


def test_neighbor_sum_has_the_second_derivatives_of_its_definition() -> None:
    target, source = torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1])
    angular = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    messages = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda y, x: NeighborSum(y, target, source, 2, length=2)(x).pow(2), (angular, messages)
    )


def test_bilinear_layer_equals_the_plain_sum_over_entries() -> None:
    """Σ_t Σ_kq W_qko b_tk x_tq, with the basis b of every entry written out."""
    torch.manual_seed(0)
    n_l, n_radial, basis_width, width, n_out = 3, 2, 4, 5, 6
    degrees = degree_of(n_l)
    down = RadialDown(degrees, n_radial, basis_width).double()
    bilinear = EfficientBilinear(width, basis_width, n_out).double()
    radial = torch.rand(3, n_l, n_radial).double()
    target, source = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0])
    angular, messages = torch.rand(3, len(degrees)).double(), torch.rand(3, width).double()
    got = bilinear(down(radial), NeighborSum(angular, target, source, 3)(messages))
    expected = torch.zeros(3, n_out).double()
    for t, s, y in zip(target, source, angular, strict=True):
        b = torch.zeros(basis_width).double()
        for a, l in enumerate(degrees):
            b = b + y[a] * (radial[t, l] @ down.weight[a])
        expected[t] += torch.einsum("k,q,qko->o", b, messages[s], bilinear.weight)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-14)


def test_radial_weights_of_zonal_functions_need_no_copies_of_a_degree() -> None:
    down = RadialDown([0, 1, 2], 2, 4)
    radial = torch.rand(5, 3, 2)
    torch.testing.assert_close(down(radial), torch.einsum("eln,lnk->elk", radial, down.weight))


@pytest.mark.parametrize(("shape", "inputs"), [((32, 200), (1,)), ((20, 12, 30), (0, 1))])
def test_initial_weights_keep_the_variance_of_their_input(
    shape: tuple[int, ...], inputs: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    weight = torch.empty(shape)
    he_orthogonal(weight, inputs)
    n_in = math.prod(shape[d] for d in inputs)
    torch.testing.assert_close(weight.mean(dim=inputs), torch.zeros(weight.mean(dim=inputs).shape))
    spread = weight.var(dim=inputs) * n_in
    torch.testing.assert_close(
        spread, torch.ones_like(spread), rtol=0.02, atol=0
    )  # eps against variances of 1/n


def test_a_weight_of_one_input_is_not_standardised_away() -> None:
    assert bool((Dense(1, 5).weight != 0).any())


def test_scaled_silu_keeps_the_size_of_standard_normal_numbers() -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert float(scaled_silu(x).square().mean().sqrt()) == pytest.approx(1.0, abs=0.01)


def test_scale_factor_gives_the_variance_of_its_reference() -> None:
    torch.manual_seed(0)
    site = ScaleFactor()
    x, reference = 7.0 * torch.randn(500, 4), torch.randn(200, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert site(x, reference).equal(x)
    rows = torch.randint(200, (1000,))
    with fitting_scales(site):
        y = site(x, reference, rows)
    torch.testing.assert_close(y.var(dim=0).mean(), reference[rows].var(dim=0).mean())
    assert site(2 * x, reference).equal(2 * y)  # not fitted again
    assert not list(site.parameters())


def test_scale_factors_stop_fitting_after_an_error() -> None:
    site = ScaleFactor()
    with pytest.raises(RuntimeError, match="oops"), fitting_scales(site):
        raise RuntimeError("oops")
    assert not site.fitting


def test_joined_graphs_are_the_graph_of_the_batch() -> None:
    frames = [molecule("CH3OH"), ase.Atoms("H"), molecule("C2H6")]
    systems = [System.from_ase(frame) for frame in frames]
    request = GraphRequest(cutoff=2.5, reverse=True, triplets="fork", link_cutoff=3.0)
    parts = [build_graph(s, neighbors_for(s, request), request) for s in systems]
    whole = batch(systems)
    expected = build_graph(whole, neighbors_for(whole, request), request)
    got = joined(parts)
    for name in ("atomic_numbers", "system_index", "center", "neighbor", "edge_vectors", "reverse"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    for group, names in {
        "triplets": ("first", "second"),
        "links": ("center", "neighbor", "vectors", "distances"),
        "quadruplets": ("target", "link", "source"),
    }.items():
        for name in names:
            one, other = getattr(getattr(got, group), name), getattr(getattr(expected, group), name)
            assert torch.equal(one, other), (group, name)
    assert got.n_systems == expected.n_systems
