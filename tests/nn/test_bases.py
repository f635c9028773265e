"""ForceNet's edge inputs and bases against SciPy and against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y
from torch import nn

from kinetograph.graph import Graph
from kinetograph.nn.bases import BASES, SphericalBasis, edge_inputs, low_harmonics, make_basis


@pytest.fixture
def units() -> torch.Tensor:
    vectors = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    poles = torch.tensor([[0, 0, 1.0], [0, 0, -1.0], [1.0, 0, 0], [0, -1.0, 0]], dtype=torch.float64)
    return torch.cat([vectors / vectors.norm(dim=1, keepdim=True), poles])


def test_harmonics_are_those_of_scipy(units: torch.Tensor) -> None:
    x, y, z = units.numpy().T
    polar, azimuth = np.arccos(np.clip(z, -1.0, 1.0)), np.arctan2(y, x)
    complex_ones = [sph_harm_y(l, m, polar, azimuth) for l, m in ((1, 1), (2, 1), (2, 2))]
    expected = np.stack(
        [sph_harm_y(l, 0, polar, azimuth).real for l in range(3)]
        + [h.real for h in complex_ones]
        + [h.imag for h in complex_ones],
        axis=1,
    )
    # arccos loses half the digits near the poles.
    np.testing.assert_allclose(low_harmonics(units).numpy(), expected, atol=3e-8)
    np.testing.assert_allclose(low_harmonics(units).numpy()[:40], expected[:40], atol=1e-14)


def graph_of_two(dtype: torch.dtype = torch.float64) -> Graph:
    """Two atoms 2 Å apart along y; edge 0 leads from atom 0 to atom 1."""
    vectors = torch.tensor([[0.0, 2.0, 0.0], [0.0, -2.0, 0.0]], dtype=dtype)
    return Graph(
        atomic_numbers=torch.tensor([6, 8]),
        system_index=torch.zeros(2, dtype=torch.int64),
        n_systems=1,
        center=torch.tensor([0, 1]),
        neighbor=torch.tensor([1, 0]),
        edge_vectors=vectors,
        distances=vectors.norm(dim=1),
    )


def test_edge_inputs_of_a_pair() -> None:
    radii = torch.tensor([0.7, 0.5], dtype=torch.float64)
    inputs = edge_inputs(graph_of_two(), radii, cutoff=4.0)
    # Atom 1 is the source of edge 0: its direction runs from 1 to 0, its first radius is that of 1.
    expected = [[0, -1, 0, 2.0 / 4, 1.5 / 4, 1.3 / 4, 0.8 / 4], [0, 1, 0, 2.0 / 4, 1.3 / 4, 1.5 / 4, 0.8 / 4]]
    np.testing.assert_allclose(inputs.numpy(), expected, atol=1e-15)


def test_edge_inputs_with_fewer_parts() -> None:
    graph, radii = graph_of_two(), torch.tensor([1.5, 1.0], dtype=torch.float64)
    assert edge_inputs(graph, None, cutoff=4.0).tolist() == [[0, -1, 0, 0.5], [0, 1, 0, 0.5]]
    assert edge_inputs(graph, None, cutoff=4.0, sign=1.0, directions=False).tolist() == [[0.5], [0.5]]
    floored = edge_inputs(graph, radii, cutoff=4.0, directions=False, floor=1e-3)
    np.testing.assert_allclose(
        floored.numpy(), [[0.5, 0.25, 0.125, 1e-3], [0.5, 0.125, 0.25, 1e-3]], atol=1e-15
    )


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("directed", [True, False])
def test_sizes_and_types(kind: str, directed: bool) -> None:
    n_inputs = 7 if directed else 4
    sizes = {"none": n_inputs, "identity": n_inputs, "spherical": 36 if directed else 4}
    for dtype in (torch.float32, torch.float64):
        basis = make_basis(kind, n_inputs, nn.SiLU, directed=directed).to(dtype)
        assert basis.n_outputs == sizes.get(kind, 50 * n_inputs)
        for n in (0, 1, 3):
            spread = basis(torch.rand(n, n_inputs, dtype=dtype))
            assert spread.shape == (n, basis.n_outputs)
            assert spread.dtype == dtype


def test_properties_of_atoms_take_sines_where_edges_take_harmonics() -> None:
    x = torch.rand(2, 9)
    spherical = make_basis("spherical", 9, nn.SiLU, directed=False, edge=False)
    assert spherical.n_outputs == 450
    assert torch.equal(spherical(x), make_basis("sine", 9, nn.SiLU, directed=False)(x))


def test_sines_are_laid_out_function_by_function() -> None:
    x = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    spread = make_basis("sine", 2, nn.SiLU, directed=False)(x)[0]
    for j in range(50):
        for f in range(2):
            assert float(spread[2 * j + f]) == pytest.approx(math.sin(1.1**j * float(x[0, f])), abs=1e-12)


def test_gaussians_stand_on_zero_to_one_and_directions_are_moved_there() -> None:
    x = torch.tensor([[-1.0, 0.2, 1.0, 0.4]], dtype=torch.float64)
    spread = make_basis("gaussian", 4, nn.SiLU, directed=True)(x)[0]
    for j in range(50):
        for f, place in enumerate((0.0, 0.6, 1.0, 0.4)):
            expected = math.exp(-((place - j / 49) ** 2) * 49**2 / 2)
            assert float(spread[4 * j + f]) == pytest.approx(expected, abs=1e-14)


def test_spherical_basis_is_a_product_of_every_harmonic_with_every_radial_feature(
    units: torch.Tensor,
) -> None:
    basis = SphericalBasis(4, directed=True).double()
    lengths = torch.rand(len(units), 4, dtype=torch.float64)
    got = basis(torch.cat([units, lengths], dim=1)).view(-1, 9, 4)
    radial = basis.radial(basis.sines(lengths))
    torch.testing.assert_close(got, torch.einsum("nh,ns->nhs", low_harmonics(units), radial))
    torch.testing.assert_close(got[:, 0], radial / math.sqrt(4 * math.pi))
