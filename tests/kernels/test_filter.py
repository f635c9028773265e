from __future__ import annotations

from itertools import pairwise

import torch

from kinetograph.kernels.filter import ConditionalFilter, EdgeNetwork, Layer
from kinetograph.kernels.native import Library


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


def test_edge_networks_are_their_layers(library: Library) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [5, 20, 48, 33]
    weights = [torch.randn(b, a, generator=generator) / a**0.5 for a, b in pairwise(sizes)]
    biases = [torch.randn(b, generator=generator) for b in sizes[1:]]
    layers: list[Layer] = [
        (weights[0], biases[0], "gelu"),
        (weights[1], biases[1], "silu"),
        (weights[2], None, "none"),
    ]
    network = EdgeNetwork(library, layers)
    rows = 3.0 * torch.randn(101, 5, generator=generator)
    x = rows.double()
    x = torch.nn.functional.gelu(x @ weights[0].double().T + biases[0])
    x = torch.nn.functional.silu(x @ weights[1].double().T + biases[1])
    x = x @ weights[2].double().T
    out = network(rows)
    assert error(network.plain(out), x) < 3e-7
    assert torch.equal(out, network.padded(network.plain(out)))


def test_gelu_is_exact_to_single_precision(library: Library) -> None:
    x = torch.linspace(-9.0, 9.0, 20_001).unsqueeze(1)
    gelu = EdgeNetwork(library, [(torch.ones(1, 1), None, "gelu")])(x)[:, :1].clone()
    exact = torch.nn.functional.gelu(x.double())
    assert (gelu - exact).abs().max() < 4e-7
    silu = EdgeNetwork(library, [(torch.ones(1, 1), None, "silu")])(10.0 * x)[:, :1]
    assert (silu - torch.nn.functional.silu(10.0 * x.double())).abs().max() < 6e-6  # of values up to 90


def test_messages_are_sums_over_each_centre(library: Library) -> None:
    generator = torch.Generator().manual_seed(0)
    n_atoms, n_edges, width = 30, 333, 24
    center = torch.randint(n_atoms, (n_edges,), generator=generator).sort().values
    neighbor = torch.randint(n_atoms, (n_edges,), generator=generator)
    edges, envelope = torch.randn(n_edges, 16, generator=generator), torch.rand(n_edges, generator=generator)
    source, target, sent = torch.randn(3, n_atoms, width, generator=generator)
    first, second = (
        torch.randn(width, 16, generator=generator),
        torch.randn(width, width, generator=generator),
    )
    fused = ConditionalFilter(library, [(first, None, "silu"), (second, None, "none")], meet=0, n_in=16)
    pre = edges.double() @ first.double().T + source.double()[neighbor] + target.double()[center]
    weights = torch.nn.functional.silu(pre) @ second.double().T * envelope.double().unsqueeze(1)
    expected = torch.zeros(n_atoms, width, dtype=torch.float64).index_add(0, center, weights * sent[neighbor])
    assert error(fused(edges, source, target, sent, center, neighbor, envelope), expected) < 1e-6
