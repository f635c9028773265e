from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from kinetograph.kernels.filter import ConditionalFilter, EdgeNetwork, Layer, write_gaussians
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


def test_networks_can_end_with_a_norm(library: Library) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(21, 9, generator=generator)
    bias, gain, shift = torch.randn(3, 21, generator=generator)
    norm = torch.nn.LayerNorm(21)
    with torch.no_grad():
        norm.weight.copy_(gain)
        norm.bias.copy_(shift)
        rows = torch.randn(60, 9, generator=generator)
        exact = norm.double()(rows.double() @ weight.double().T + bias.double())
    network = EdgeNetwork(library, [(weight, bias, "none")], norm=norm.float())
    out = network(rows)
    assert error(network.plain(out), exact) < 5e-7
    assert torch.equal(out, network.padded(network.plain(out)))


def test_gaussians_are_written_where_they_belong(library: Library) -> None:
    x = torch.linspace(-2.0, 3.0, 77)
    rows = torch.full((77, 50), 7.0)
    write_gaussians(library, x, 0.0, 1.0 / 39.0, 40, 40.0, rows, 4)
    exact = torch.exp(-40.0 * (x.double().unsqueeze(1) - torch.arange(40) / 39.0).square())
    assert (rows[:, 4:44] - exact).abs().max() < 1e-6  # e to the power of −360 … 0
    assert bool((rows[:, :4] == 7.0).all() and (rows[:, 44:] == 7.0).all())
    with pytest.raises(ValueError, match="no room"):
        write_gaussians(library, x, 0.0, 1.0, 40, 40.0, rows, 11)


def test_factors_of_bfloat16_are_rounded_once(library: Library) -> None:
    generator = torch.Generator().manual_seed(0)
    n_atoms, n_edges, width = 30, 333, 32
    center = torch.randint(n_atoms, (n_edges,), generator=generator).sort().values
    neighbor = torch.randint(n_atoms, (n_edges,), generator=generator)
    source, target, sent = torch.randn(3, n_atoms, width, generator=generator)
    weights = [torch.randn(width, n, generator=generator) / n**0.5 for n in (5, 32, 32, 32)]
    rows = torch.randn(n_edges, 5, generator=generator)
    layers: list[Layer] = [(weights[0], None, "gelu"), (weights[1], None, "silu")]
    ends: list[Layer] = [(weights[2], None, "silu"), (weights[3], None, "none")]
    if not library.has_bfloat16:
        with pytest.raises(ValueError, match="bfloat16"):
            EdgeNetwork(library, layers, products=torch.bfloat16)
        with pytest.raises(ValueError, match="bfloat16"):
            EdgeNetwork(library, layers, gives=torch.bfloat16)
        return
    encoder = EdgeNetwork(library, layers, products=torch.bfloat16, gives=torch.bfloat16)
    messages = ConditionalFilter(
        library, ends, meet=0, n_in=width, products=torch.bfloat16, takes=torch.bfloat16
    )
    edges = encoder(rows)
    ours = messages(edges, source, target, sent, center, neighbor)

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x.float().bfloat16().double()

    w = [weights[0].double(), *(rounded(weight) for weight in weights[1:])]
    x = rounded(torch.nn.functional.gelu(rows.double() @ w[0].T))
    x = rounded(torch.nn.functional.silu(x @ w[1].T))
    # Activations are exact to 1.5e-4 before they are rounded: some fall on the other side of a middle.
    assert error(edges.double(), x) < 8e-4
    x = rounded(torch.nn.functional.silu(x @ w[2].T + source.double()[neighbor] + target.double()[center]))
    values = (x @ w[3].T) * sent.double()[neighbor]
    exact = torch.zeros(n_atoms, width, dtype=torch.float64).index_add(0, center, values)
    assert error(ours, exact) < 1e-3
    with pytest.raises(TypeError, match="float32"):
        messages(edges.float(), source, target, sent, center, neighbor)


@pytest.mark.parametrize("width", [33, 40, 50, 64])
def test_rows_far_from_zero_are_normalised(library: Library, width: int) -> None:
    """Columns of zeros behind a row are no part of its variance."""
    torch.manual_seed(0)
    norm = torch.nn.LayerNorm(width)
    weight, bias = 0.02 * torch.randn(width, 8), torch.full((width,), 100.0)
    rows = torch.randn(20, 8)
    network = EdgeNetwork(library, [(weight, bias, "none")], norm=norm)
    ours = network.plain(network(rows))
    with torch.no_grad():
        before = rows.double() @ weight.double().T + bias.double()
        exact = torch.nn.functional.layer_norm(before, (width,))
        plain = norm(rows @ weight.T + bias)
    assert (ours - exact).norm() < 3.0 * (plain - exact).norm() + 1e-5 * exact.norm()
