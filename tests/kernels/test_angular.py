"""Sums over edges that meet, tables and chains against their plain forms in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kinetograph.kernels.angular import BilinearSum, Directions, FilteredSum
from kinetograph.kernels.chain import Chain
from kinetograph.kernels.native import Library
from kinetograph.kernels.operators.edges import first_edges
from kinetograph.kernels.tabulated import Tabulated
from kinetograph.nn.efficient import real_harmonics
from kinetograph.nn.spherical import legendre
from kinetograph.triplets import triplets

# Single precision, relative to the largest entry; an edge's own share is added to a sum and taken off again.
TOLERANCE = 3e-6


def close(ours: Tensor, exact: Tensor, tolerance: float = TOLERANCE) -> None:
    ours, exact = ours.detach(), exact.detach()
    assert ours.shape == exact.shape
    assert float((ours - exact).abs().max()) <= tolerance * float(exact.abs().max())


def edges(n_atoms: int = 9) -> tuple[Tensor, Tensor]:
    """Units and centres: an atom without edges, one with a single one, and one with more than a tile."""
    torch.manual_seed(3)
    counts = torch.tensor([4, 0, 1, 60, 2, 7, 13, 30, 5])[:n_atoms]
    units = torch.nn.functional.normalize(torch.randn(int(counts.sum()), 3, dtype=torch.float64), dim=1)
    return units.float(), torch.repeat_interleave(torch.arange(len(counts)), counts)


def pairs(units: Tensor, center: Tensor, n_l: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which edges meet, and (2l+1)/4π P_l of the cosine between them."""
    shift = torch.zeros(len(center), 3)
    meet = triplets("fork", center, center, shift, int(center.max()) + 1)
    cosine = (units[meet.first] * units[meet.second]).sum(dim=1)
    factor = (2 * torch.arange(n_l, dtype=torch.float64) + 1) / (4 * math.pi)
    return meet.first, meet.second, legendre(cosine, n_l) * factor


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape).to(y.dtype)
    return list(torch.autograd.grad((y * weights).sum(), inputs))


def test_harmonics_and_their_slopes(library: Library) -> None:
    units, center = edges()
    for n_l in (1, 3, 7, 10):
        ours, exact = units.clone().requires_grad_(True), units.double().requires_grad_(True)
        directions = Directions(library, ours, center, 9, n_l)
        plain = real_harmonics(*exact.unbind(dim=1), n_l)
        close(directions.rows[:, : n_l**2], plain)
        close(directions.columns.T, plain)
        assert not directions.rows[:, n_l**2 :].any()
        if n_l > 1:
            rows = directions.rows[:, : n_l**2]
            close(gradients(rows, [ours])[0], gradients(plain, [exact])[0])


@pytest.mark.parametrize(("n_l", "n_radial", "width"), [(7, 6, 64), (3, 4, 6), (10, 20, 80), (2, 1, 16)])
def test_filtered_sums_are_those_over_triplets(library: Library, n_l: int, n_radial: int, width: int) -> None:
    units, center = edges()
    layer = FilteredSum(library, weight := torch.randn(n_l, n_radial, width))
    x = torch.randn(len(center), layer.width)
    x[:, width:] = 0.0
    radial = torch.randn(len(center), n_l, n_radial)
    padded = torch.nn.functional.pad(radial, (0, layer.radial_width - n_radial)).flatten(1)
    ours = [t.clone().requires_grad_(True) for t in (x, padded, units)]
    exact = [t.double().requires_grad_(True) for t in (x[:, :width], radial, units)]

    y = layer(ours[0], ours[1], Directions(library, ours[2], center, 9, n_l))
    first, second, angular = pairs(exact[2], center, n_l)
    source = torch.einsum("lnf,eln,ef->elf", weight.double(), exact[1], exact[0])
    entries = torch.einsum("tl,tlf->tf", angular, source[second])
    plain = torch.zeros_like(exact[0]).index_add(0, first, entries)
    close(y[:, :width], plain)
    assert not y[:, width:].any()
    assert float(y[center == 2].detach().abs().max()) < TOLERANCE * float(y.detach().abs().max())

    by_x, by_radial, by_units = gradients(y[:, :width], ours)
    close(by_x[:, :width], (true := gradients(plain, exact))[0])
    close(by_radial.reshape(len(center), n_l, -1)[:, :, :n_radial], true[1])
    close(tangent(by_units, units), tangent(true[2], units), 2.0 * TOLERANCE)


def tangent(by_units: Tensor, units: Tensor) -> Tensor:
    """What of a derivative by a unit vector does not lie along it, where it means nothing."""
    units = units.double()
    return by_units - (by_units * units).sum(dim=1, keepdim=True) * units


@pytest.mark.parametrize(
    ("n_l", "width", "basis_width", "n_out"),
    [(7, 64, 16, 64), (3, 5, 3, 6), (10, 80, 16, 32), (2, 16, 4, 20)],
)
def test_bilinear_sums_are_those_over_triplets(
    library: Library, n_l: int, width: int, basis_width: int, n_out: int
) -> None:
    units, center = edges()
    layer = BilinearSum(library, weight := torch.randn(width, basis_width, n_out))
    x = torch.randn(len(center), layer.width)
    x[:, width:] = 0.0
    basis = torch.randn(len(center), n_l, basis_width)
    padded = torch.nn.functional.pad(basis, (0, layer.basis_width - basis_width)).flatten(1)
    ours = [t.clone().requires_grad_(True) for t in (x, padded, units)]
    exact = [t.double().requires_grad_(True) for t in (x[:, :width], basis, units)]

    y = layer(ours[0], ours[1], Directions(library, ours[2], center, 9, n_l))
    first, second, angular = pairs(exact[2], center, n_l)
    entries = torch.einsum("tl,tf->tlf", angular, exact[0][second])
    sums = exact[0].new_zeros(len(center), n_l, width).index_add(0, first, entries)
    plain = torch.einsum("elq,elk,qko->eo", sums, exact[1], weight.double())
    close(y[:, :n_out], plain)
    assert not y[:, n_out:].any()

    by_x, by_basis, by_units = gradients(y[:, :n_out], ours)
    close(by_x[:, :width], (true := gradients(plain, exact))[0])
    close(by_basis.reshape(len(center), n_l, -1)[:, :, :basis_width], true[1])
    close(tangent(by_units, units), tangent(true[2], units), 2.0 * TOLERANCE)


def test_tables_have_the_values_and_slopes_of_their_functions(library: Library) -> None:
    def function(x: Tensor) -> Tensor:
        return torch.stack([torch.sin(k * x) / x for k in range(1, 6)], dim=1)

    table = Tabulated(library, function, 0.3, 5.0, 1e-7, 1e-6)
    x = torch.cat([torch.tensor([0.3, 5.0]), 0.3 + 4.7 * torch.rand(200)])
    ours, exact = x.clone().requires_grad_(True), x.double().requires_grad_(True)
    y, plain = table(ours), function(exact)
    close(y, plain, 3e-7)
    close(gradients(y, [ours])[0], gradients(plain, [exact])[0], 2e-6)


@pytest.mark.parametrize("n_rows", [0, 1, 47, 48, 131])
def test_a_chain_and_its_derivatives(library: Library, n_rows: int) -> None:
    """Every kind of step, values taken several times, reads and sums through an index."""
    torch.manual_seed(1)
    w = {name: torch.randn(*shape) / 4 for name, shape in {
        "a": (20, 16), "b": (20, 20), "c": (20, 20), "d": (33, 20), "bias": (20,)
    }.items()}  # fmt: skip
    chain = Chain(library)
    x, far, fixed = chain.read(16), chain.read(20, indexed=True), chain.read(20, followed=False)
    h = chain.dense(x, w["a"], w["bias"], silu=1.5)
    g = chain.dense(h, w["b"], plus=far, silu=1.0)
    g = chain.add(chain.multiply(g, h), chain.add(far, fixed), scale=0.7)
    chain.write(g)
    chain.write(chain.dense(chain.multiply(g, g), w["c"], plus=h), summed=True)
    chain.write(chain.dense(g, w["d"]))

    n_far, n_sums = 11, 5
    index, owner = torch.randint(n_far, (n_rows,)), torch.randint(n_sums, (n_rows,)).sort().values
    width = -(-20 // library.width) * library.width
    padded = torch.nn.functional.pad
    inputs = [torch.randn(n_rows, 16), torch.randn(n_far, 20), torch.randn(n_rows, 20)]
    ours = [
        padded(t, (0, (width if t.shape[1] == 20 else 16) - t.shape[1])).requires_grad_(k < 2)
        for k, t in enumerate(inputs)
    ]
    exact = [t.double().requires_grad_(k < 2) for k, t in enumerate(inputs)]
    out = chain(ours, [index, owner], n_rows=n_rows, n_sums=n_sums)

    silu, d = torch.nn.functional.silu, {name: t.double() for name, t in w.items()}
    h = 1.5 * silu(exact[0] @ d["a"].T + d["bias"])
    g = silu(h @ d["b"].T + exact[1][index])
    g = 0.7 * (g * h + exact[1][index] + exact[2])
    summed = torch.zeros(n_sums, 20, dtype=torch.float64).index_add(0, owner, (g * g) @ d["c"].T + h)
    plain = (g, summed, g @ d["d"].T)
    if n_rows:
        for mine, true in zip(out, plain, strict=True):
            close(mine[:, : true.shape[1]], true)
    total = sum(
        (o[:, : p.shape[1]] * torch.sin(p.detach()).float()).sum() for o, p in zip(out, plain, strict=True)
    )
    true_total = sum((p * torch.sin(p.detach())).sum() for p in plain)
    mine = torch.autograd.grad(total, ours[:2])
    true = torch.autograd.grad(true_total, exact[:2])
    for m, t in zip(mine, true, strict=True):
        if t.numel():
            assert float((m[:, : t.shape[1]] - t).abs().max()) <= TOLERANCE * float(t.abs().max())


def test_edges_that_go_back(library: Library) -> None:
    """In a cell much smaller than the cutoff, where an atom is its own neighbour many times over."""
    import ase

    from kinetograph.graph import GraphRequest, neighbors_for
    from kinetograph.kernels.edges import edges_that_go_back
    from kinetograph.system import System
    from kinetograph.triplets import reverse_edges

    cell = [[2.7, 0, 0], [0.6, 2.9, 0], [-0.4, 0.3, 3.2]]
    small = ase.Atoms("COH", [[0.1, 0.2, 0.0], [1.3, 0.4, 0.9], [0.2, 1.5, 2.1]], cell=cell, pbc=True)
    system = System.from_ase([small, ase.Atoms("O"), ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])])
    found = neighbors_for(system, GraphRequest(cutoff=5.0))
    ours = edges_that_go_back(library, found.center, found.neighbor, system.n_atoms)
    assert torch.equal(ours, reverse_edges(found.center, found.neighbor, found.shift))
    assert torch.equal(first_edges(found.center, system.n_atoms)[-1], torch.tensor(found.n_edges))
