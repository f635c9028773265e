"""Operators on edges: the plain forms against sums written out, their derivatives, and the kernels for a GPU.

Without a GPU the kernels run in Triton's interpreter.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from kinetograph.kernels.operators.conditional_filter import conditional_filter
from kinetograph.kernels.operators.continuous_filter import continuous_filter, continuous_filter_slopes
from kinetograph.kernels.operators.edges import Table, first_edges, looked_up
from kinetograph.kernels.operators.gated_sum import (
    gated_sum,
    gated_sum_by_first,
    gated_sum_by_second,
    incoming_edges,
)
from kinetograph.kernels.operators.legendre_sum import (
    legendre,
    legendre_gather,
    legendre_slopes,
    legendre_spread,
)
from kinetograph.kernels.operators.painn_message import (
    painn_message,
    painn_message_by_atoms,
    painn_message_by_edges,
)
from kinetograph.kernels.operators.register import DoesNotFit, contiguous
from kinetograph.kernels.spline import spline_table

CUTOFF = 3.5


@dataclass(frozen=True)
class Edges:
    """Of a small cluster, two of whose atoms stand alone."""

    n_atoms: int
    center: Tensor
    neighbor: Tensor
    vectors: Tensor
    first: Tensor

    @property
    def distances(self) -> Tensor:
        return torch.linalg.norm(self.vectors, dim=1)

    @property
    def units(self) -> Tensor:
        return self.vectors / self.distances.unsqueeze(1)

    @property
    def way_back(self) -> Tensor:
        """(n_edges,) the edge that goes back."""
        pairs = list(zip(self.center.tolist(), self.neighbor.tolist(), strict=True))
        return torch.tensor([pairs.index((j, i)) for i, j in pairs])


def cluster(n_atoms: int) -> Edges:
    generator = torch.Generator().manual_seed(3)
    positions = 1.4 * torch.randn(n_atoms, 3, generator=generator, dtype=torch.float64)
    positions[2], positions[-1] = 30.0, -40.0
    near = (torch.cdist(positions, positions) < CUTOFF + 0.4) & ~torch.eye(n_atoms, dtype=torch.bool)
    i, j = torch.nonzero(near, as_tuple=True)
    return Edges(n_atoms, i, j, positions[j] - positions[i], first_edges(i, n_atoms))


@pytest.fixture
def edges() -> Edges:
    return cluster(11)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(n_functions: int, seed: int = 0) -> tuple[Table, Callable[[Tensor], Tensor]]:
    """A table of functions that vanish at the cutoff, and these."""
    mixing = random(5, n_functions, seed=seed)

    def functions(d: Tensor) -> Tensor:
        waves = torch.sin(d.unsqueeze(1) * torch.arange(1, 6, dtype=d.dtype))
        return waves @ mixing * (1.0 + torch.cos(d * (torch.pi / CUTOFF))).unsqueeze(1)

    return Table.of(spline_table(functions, 0.3, CUTOFF, 1e-6, 1e-5), torch.zeros(1).double()), functions


# ---- what the operators compute -----------------------------------------------------------------------


def test_a_table_is_its_functions_within_and_zero_beyond() -> None:
    rows, functions = table(7)
    d = torch.linspace(0.31, 4.4, 200, dtype=torch.float64).requires_grad_(True)
    values, slopes = looked_up(rows.rows, d, rows.start, rows.per_length)
    within = (d < CUTOFF).unsqueeze(1)
    exact = torch.where(within, functions(d), 0.0)
    assert (values - exact).abs().max() < 1e-5 * exact.abs().max()
    for f in range(7):
        (by_d,) = torch.autograd.grad(exact[:, f].sum(), d, retain_graph=True)
        assert (slopes[:, f] - by_d).abs().max() < 1e-4 * by_d.abs().max()


def test_a_continuous_filter_sums_over_neighbours(edges: Edges) -> None:
    rows, functions = table(6)
    x = random(edges.n_atoms, 6)
    y = continuous_filter(
        x, edges.distances, rows.rows, rows.start, rows.per_length, edges.first, edges.neighbor
    )
    exact = torch.zeros_like(y)
    for i, j, d in zip(edges.center, edges.neighbor, edges.distances, strict=True):
        if d < CUTOFF:
            exact[i] += x[j] * functions(d.view(1))[0]
    assert (y - exact).abs().max() < 1e-5 * exact.abs().max()
    assert bool((y[2] == 0).all())


def test_a_gated_sum_is_over_the_edges_where_one_ends(edges: Edges) -> None:
    n, d = len(edges.center), 3
    a, b, f = random(n, 2 * d), random(n, 2 * d, seed=1), random(n, seed=2)
    back = edges.way_back
    y = gated_sum(a, b, f, back, edges.first, edges.neighbor, *incoming_edges(edges.neighbor, edges.n_atoms))
    exact = torch.zeros_like(y)
    for e in range(n):
        for other in range(n):
            if edges.center[other] == edges.neighbor[e] and other != back[e]:
                x = a[e] + b[other]
                exact[e] += f[other] * torch.sigmoid(x[:d]) * torch.tanh(x[d:])
    torch.testing.assert_close(y, exact, rtol=1e-12, atol=1e-12)


def test_legendre_sums_are_over_the_other_edges_of_a_centre(edges: Edges) -> None:
    n, n_l = len(edges.center), 4
    wide, narrow, u = random(n, n_l, 2), random(n, 2, seed=1), edges.units
    spread, gathered = (
        legendre_spread(narrow, u, edges.first, n_l),
        legendre_gather(wide, u, edges.first),
    )
    exact_spread, exact_gathered = torch.zeros_like(spread), torch.zeros_like(gathered)
    for e in range(n):
        for other in range(n):
            if e != other and edges.center[e] == edges.center[other]:
                for l in range(n_l):
                    k = scipy.special.eval_legendre(l, float(u[e] @ u[other])) * (2 * l + 1) / (4 * np.pi)
                    exact_spread[e, l] += k * narrow[other]
                    exact_gathered[e] += k * wide[other, l]
    torch.testing.assert_close(spread, exact_spread, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gathered, exact_gathered, rtol=1e-12, atol=1e-12)


def test_derivatives_of_legendre_polynomials() -> None:
    c = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64).requires_grad_(True)
    for value, slope in zip(*legendre(c, 8), strict=True):
        if value.requires_grad:
            (exact,) = torch.autograd.grad(value.sum(), c, retain_graph=True)
            torch.testing.assert_close(slope.detach(), exact, rtol=1e-11, atol=1e-11)


# ---- derivatives, compilation, and the kernels for a GPU -----------------------------------------------


def calls(edges: Edges) -> dict[str, tuple[Any, tuple[Any, ...], tuple[int, ...]]]:
    """Operators by name: what they are called with, and which arguments have derivatives."""
    n, e = edges.n_atoms, len(edges.center)
    where = (edges.first, edges.neighbor)
    small, _ = table(5)
    typed = torch.stack([table(15)[0].rows, table(15, seed=1)[0].rows])
    message = (small.start, small.per_length, *where)
    i, j = edges.center, edges.neighbor
    types = (i + j) % 2  # the same on the way back
    incoming = incoming_edges(edges.neighbor, n)
    triplets = (random(e, 6), random(e, 6, seed=1), random(e, seed=2), edges.way_back, *where, *incoming)
    layers = [random(6, 4) / 2, random(6, 6) / 2, random(5, 6) / 2]
    biases = [random(6, seed=7), random(6, seed=8), random(5, seed=9)]
    nodes = (random(n, 6), random(n, 6, seed=1), random(n, 5, seed=2))
    phi, vectors = random(n, 15), random(n, 3, 5, seed=1)
    return {
        "continuous": (
            continuous_filter,
            (random(n, 5), edges.distances, small.rows, small.start, small.per_length, *where),
            (0, 1),
        ),
        "painn": (painn_message, (phi, vectors, edges.vectors, types, typed, *message), (0, 1, 2)),
        "painn, first layer": (painn_message, (phi, None, edges.vectors, None, typed, *message), (0, 2)),
        "gated": (gated_sum, triplets, (0, 1, 2)),
        "gated, all": (gated_sum, (*triplets[:2], None, None, *triplets[4:]), (0, 1)),
        "spread": (legendre_spread, (random(e, 3), edges.units, edges.first, 5), (0, 1)),
        "gather": (legendre_gather, (random(e, 5, 3), edges.units, edges.first), (0, 1)),
        "conditional": (
            conditional_filter,
            (random(e, 4), *nodes, random(e, seed=3), layers, biases, *where),
            (0, 1, 2, 3, 4),
        ),
        "conditional, no factors": (
            conditional_filter,
            (random(e, 4), *nodes, None, layers[:1] + layers[2:], biases[:1] + biases[2:], *where),
            (0, 1, 2, 3),
        ),
    }


NAMES = [
    *("continuous", "painn", "painn, first layer", "gated", "gated, all", "spread", "gather"),
    *("conditional", "conditional, no factors"),
]


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_differences(name: str, edges: Edges) -> None:
    operator, arguments, followed = calls(edges)[name]
    leaves = [arguments[k].clone().requires_grad_(True) for k in followed]

    def call(*values: Tensor) -> Any:
        given = list(arguments)
        for k, value in zip(followed, values, strict=True):
            given[k] = value
        return operator(*given)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


def test_derivatives_by_the_weights_of_a_conditional_filter(edges: Edges) -> None:
    _, arguments, _ = calls(edges)["conditional"]
    leaves = [x.clone().requires_grad_(True) for x in (*arguments[5], *arguments[6])]

    def call(*values: Tensor) -> Any:
        return conditional_filter(*arguments[:5], list(values[:3]), list(values[3:]), *arguments[7:])

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_operators_keep_what_torch_asks_of_them(name: str, edges: Edges) -> None:
    """Schema, shapes without values, and derivatives under a compiler."""
    operator, arguments, followed = calls(edges)[name]
    given = [x.clone().requires_grad_(True) if k in followed else x for k, x in enumerate(arguments)]
    torch.library.opcheck(operator, tuple(given))


def test_an_operator_is_exported(edges: Edges) -> None:
    class Sum(torch.nn.Module):
        def forward(
            self, x: Tensor, distances: Tensor, rows: Tensor, first: Tensor, neighbor: Tensor
        ) -> Tensor:
            y: Tensor = continuous_filter(torch.tanh(x), distances, rows, 0.3, 40.0, first, neighbor)
            return y.exp()

    rows, _ = table(4)
    arguments = (random(edges.n_atoms, 4), edges.distances, rows.rows, edges.first, edges.neighbor)
    program = torch.export.export(Sum(), arguments)
    assert "kinetograph.continuous_filter" in str(program.graph)
    torch.testing.assert_close(program.module()(*arguments), Sum()(*arguments))


def on_gpu_or_interpreted(name: str) -> Any:
    """A module of ``kernels/gpu``; ``tests/conftest.py`` has told Triton how to run it."""
    pytest.importorskip("triton")
    return importlib.import_module(f"kinetograph.kernels.gpu.{name}")


def single(value: Any, device: str) -> Any:
    """In single precision, where the kernels run."""
    if isinstance(value, list):
        return [single(x, device) for x in value]
    if not isinstance(value, Tensor):
        return value
    return (value.float() if value.is_floating_point() else value).to(device)


DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="not interpreted here")),
]
"""Where there is a GPU the kernels are compiled for it, elsewhere they are interpreted."""


def check(
    kernel: Any, operator: Any, arguments: tuple[Any, ...], device: str, tolerance: float = 2e-5
) -> None:
    ours, exact = kernel(*single(list(arguments), device)), operator(*arguments)
    pairs = zip(ours, exact, strict=True) if isinstance(exact, tuple) else [(ours, exact)]
    for mine, true in pairs:
        assert mine.shape == true.shape
        if true.numel():
            assert float((mine.double().cpu() - true).abs().max()) <= tolerance * float(true.abs().max())


@dataclass(frozen=True)
class Size:
    """Of features, and of the graph: one block of everything, or several with a part left over."""

    n_atoms: int
    width: int
    n_hidden: int
    n_in: int


SIZES = [Size(11, 5, 6, 4), Size(20, 70, 40, 37)]
SLOWER = [SIZES[0], pytest.param(SIZES[1], marks=pytest.mark.slow)]
"""For those that the interpreter takes half a minute for."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_of_continuous_filters(size: Size, device: str) -> None:
    gpu, edges = on_gpu_or_interpreted("continuous_filter"), cluster(size.n_atoms)
    rows, _ = table(size.width)
    x, by_y = random(size.n_atoms, size.width), random(size.n_atoms, size.width, seed=4)
    where = (rows.rows, rows.start, rows.per_length, edges.first, edges.neighbor)
    check(gpu.convolved, continuous_filter, (x, edges.distances, *where), device)
    slopes = (x, by_y, edges.distances, *where)
    check(gpu.slopes_of_distances, continuous_filter_slopes, slopes, device, tolerance=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("first_layer", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_of_painn(size: Size, first_layer: bool, device: str) -> None:
    gpu, edges, f = on_gpu_or_interpreted("painn_message"), cluster(size.n_atoms), size.width
    tables = [table(3 * f, seed=k)[0] for k in range(2)]
    types = None if first_layer else (edges.center + edges.neighbor) % 2
    arguments = (
        *(random(size.n_atoms, 3 * f), None if first_layer else random(size.n_atoms, 3, f, seed=1)),
        *(edges.vectors, types, torch.stack([t.rows for t in tables])),
        *(tables[0].start, tables[0].per_length, edges.first, edges.neighbor),
    )
    check(gpu.messages, painn_message, arguments, device)
    back = (random(size.n_atoms, f, seed=4), random(size.n_atoms, 3, f, seed=5), *arguments)
    check(gpu.by_atoms, painn_message_by_atoms, back, device)
    check(gpu.by_edges, painn_message_by_edges, back, device, tolerance=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("size", SLOWER, ids=str)
def test_kernels_of_gated_sums(size: Size, everything: bool, device: str) -> None:
    gpu, edges = on_gpu_or_interpreted("gated_sum"), cluster(size.n_atoms)
    e, f = len(edges.center), size.width
    arguments = (
        *(random(e, 2 * f), random(e, 2 * f, seed=1)),
        *((None, None) if everything else (random(e, seed=2), edges.way_back)),
        *(edges.first, edges.neighbor, *incoming_edges(edges.neighbor, size.n_atoms)),
    )
    by_y = random(e, f, seed=4)
    check(gpu.summed, gated_sum, arguments, device)
    check(gpu.by_first, gated_sum_by_first, (by_y, *arguments[:6]), device)
    check(gpu.by_second, gated_sum_by_second, (by_y, *arguments), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SLOWER, ids=str)
def test_kernels_of_legendre_sums(size: Size, device: str) -> None:
    gpu, edges = on_gpu_or_interpreted("legendre_sum"), cluster(size.n_atoms)
    e, where = len(edges.center), (edges.units, edges.first)
    wide, narrow = random(e, 5, size.width), random(e, size.width, seed=1)
    check(gpu.spread, legendre_spread, (narrow, *where, 5), device)
    check(gpu.gathered, legendre_gather, (wide, *where), device)
    check(gpu.slopes_of_units, legendre_slopes, (wide, narrow, *where), device)
    with pytest.raises(DoesNotFit):
        gpu.spread(torch.zeros(1, 4), torch.zeros(1, 3), torch.tensor([0, 1]), 17)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_of_conditional_filters(size: Size, layers: int, device: str) -> None:
    gpu, edges = on_gpu_or_interpreted("conditional_filter"), cluster(size.n_atoms)
    n, e, h, k = size.n_atoms, len(edges.center), size.n_hidden, size.n_in
    weights = [
        random(h, k) / k**0.5,
        *[random(h, h, seed=2) / h**0.5] * (layers - 2),
        random(h, h, seed=3) / h**0.5,
    ]
    nodes = (random(n, h), random(n, h, seed=1), random(n, h, seed=2))
    arguments = (
        *(random(e, k), *nodes, random(e, seed=3) if layers == 3 else None, weights),
        *([random(len(w), seed=7 + i) for i, w in enumerate(weights)], edges.first, edges.neighbor),
    )
    check(gpu.summed, conditional_filter, arguments, device)
    wide = (*arguments[:5], [torch.zeros(256, 4)], *arguments[6:])
    with pytest.raises(DoesNotFit):
        gpu.summed(*wide)


@pytest.mark.parametrize("device", DEVICES)
def test_whether_triton_runs_is_found_by_trial(device: str) -> None:
    assert on_gpu_or_interpreted("probe").works()


# ---- what an operator does with what it is given --------------------------------------------------------


def test_shapes_without_values_have_the_strides_of_values(edges: Edges) -> None:
    """Also of what is not contiguous."""
    _, arguments, _ = calls(edges)["continuous"]
    turned = arguments[0].T.contiguous().T.requires_grad_(True)
    torch.library.opcheck(continuous_filter, (turned, *arguments[1:]))


def test_kernels_are_given_contiguous_tensors() -> None:
    turned = torch.zeros(3, 4).T
    given = contiguous([turned, 1, None, (turned,)])
    assert given[0].is_contiguous()
    assert given[1:3] == [1, None]
    assert given[3][0].is_contiguous()


def test_nobody_waits_in_vain_for_derivatives_by_a_table(edges: Edges) -> None:
    for name, place in (("continuous", 2), ("painn", 4)):
        operator, arguments, _ = calls(edges)[name]
        given = list(arguments)
        given[place] = given[place].clone().requires_grad_(True)
        with pytest.raises(ValueError, match="tables are for running"):
            operator(*given)
