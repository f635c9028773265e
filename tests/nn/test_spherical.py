"""Bessel functions and Legendre polynomials against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch

from kinetograph.nn import spherical
from kinetograph.nn.spherical import (
    SphericalBesselBasis,
    spherical_bessel,
    spherical_bessel_basis,
    spherical_bessel_roots,
    zonal_harmonics,
)


def test_roots_are_roots_in_order() -> None:
    roots = spherical_bessel_roots(7, 6).numpy()
    for l in range(7):
        assert np.abs(scipy.special.spherical_jn(l, roots[l])).max() < 1e-14
        assert (np.diff(roots[l]) > 3.0).all()  # none is left out: they are about π apart
    np.testing.assert_allclose(roots[0], np.pi * np.arange(1, 7), rtol=1e-15)
    assert roots[6, 0] == pytest.approx(10.512835408094, abs=1e-11)  # Abramowitz and Stegun, table 10.6


def test_roots_are_sought_once_and_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """All presets of the models together ask for one table eighteen times: a second and a half."""
    first = spherical_bessel_roots(4, 3)
    expected = first.clone()
    first.zero_()
    monkeypatch.setattr(spherical, "brentq", None)
    torch.testing.assert_close(spherical_bessel_roots(4, 3), expected, rtol=0, atol=0)


@pytest.mark.parametrize("l", range(8))
def test_bessel_function_and_slopes_from_near_zero_to_far(l: int) -> None:
    x = torch.cat([torch.logspace(-4, 0, 40), torch.linspace(1.0, 40.0, 400)]).double().requires_grad_(True)
    value = spherical_bessel(l, x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    points = x.detach().numpy()
    # relative to the function's own size near x: it decays as 1/x and vanishes as x^l
    size = np.minimum(1.0 / points, points**l / np.prod(np.arange(1.0, 2 * l + 2, 2)) + 1e-300)
    exact = scipy.special.spherical_jn(l, points)
    assert (np.abs(value.detach().numpy() - exact) / size).max() < 1e-13
    exact_slope = scipy.special.spherical_jn(l, points, derivative=True)
    np.testing.assert_allclose(slope.detach().numpy(), exact_slope, rtol=1e-11, atol=1e-14)
    # x² j″ + 2x j′ + [x² − l(l+1)] j = 0
    rest = points**2 * curvature.numpy() + 2 * points * exact_slope + (points**2 - l * (l + 1)) * exact
    assert np.abs(rest).max() < 1e-11  # the terms themselves reach 40


def test_basis_is_orthonormal_on_the_unit_ball() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(80)
    x, weight = 0.5 * (nodes + 1.0), 0.5 * weights
    basis = spherical_bessel_basis(torch.as_tensor(x), spherical_bessel_roots(7, 6)).numpy()
    for l in range(7):
        overlap = np.einsum("xi,xj,x->ij", basis[:, l], basis[:, l], weight * x**2)
        np.testing.assert_allclose(overlap, np.eye(6), atol=1e-12)


def test_basis_keeps_its_roots_exact_when_a_model_goes_through_single_precision() -> None:
    basis = SphericalBesselBasis(7, 6)
    x = torch.linspace(0.1, 1.0, 20, dtype=torch.float64)
    expected = spherical_bessel_basis(x, spherical_bessel_roots(7, 6))
    np.testing.assert_array_equal(basis.float().double()(x).numpy(), expected.numpy())
    assert basis(x.float()).dtype == torch.float32
    assert not basis.state_dict()  # nothing to keep: the roots are mathematics
    assert basis(x[:0]).shape == (0, 7, 6)


def test_zonal_harmonics() -> None:
    cosine = torch.linspace(-1.0, 1.0, 101, dtype=torch.float64)
    values = zonal_harmonics(cosine, 7).numpy()
    for l in range(7):
        expected = scipy.special.sph_harm_y(l, 0, np.arccos(cosine.numpy()), 0.0).real
        np.testing.assert_allclose(values[:, l], expected, atol=1e-13)
