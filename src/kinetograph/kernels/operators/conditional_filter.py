"""The conditional filter of GAMD and ForceNet: M_i = Σ_j f_ij w_ij ∘ x_j with a network w of edge and ends.

w = W_n SiLU(… SiLU(W_1 e_ij + b_1 + p_j + q_i) …) + b_n
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from kinetograph.kernels.operators.edges import centers
from kinetograph.kernels.operators.register import edge_operator


@edge_operator("conditional_filter.summed")
def conditional_filter(
    edges: Tensor,
    sources: Tensor,
    targets: Tensor,
    values: Tensor,
    factors: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """(n_atoms, F). Differentiable once by all that is in floating point.

    Args:
        edges: (n_edges, n_in) e.
        sources, targets: (n_atoms, n_hidden) p and q: what a neighbour and a centre add.
        values: (n_atoms, F) x.
        factors: (n_edges,) f; ``None``: all one.
        weights, biases: of the network's layers, (n_hidden, n_in), (n_hidden, n_hidden) … (F, n_hidden).
        first: (n_atoms + 1,) int64 first edge of each atom.
        neighbor: (n_edges,) int64.
    """
    center = centers(first, len(neighbor))
    *_, filters = _network(edges, sources[neighbor] + targets[center], weights, biases)
    messages = filters * values[neighbor]
    if factors is not None:
        messages = messages * factors.unsqueeze(1)
    return torch.zeros_like(values).index_add(0, center, messages)


def _network(
    edges: Tensor, ends: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> list[Tensor]:
    """What every layer gives, before its activation."""
    given = [linear(edges, weights[0], biases[0]) + ends]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        given.append(linear(silu(given[-1]), weight, bias))
    return given


@conditional_filter.register_fake
def _(edges: Tensor, sources: Tensor, targets: Tensor, values: Tensor, *_others: Any) -> Tensor:
    return values.new_empty(values.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    edges, sources, targets, values, factors, weights, biases, first, neighbor = inputs
    ctx.n_layers = len(weights)
    ctx.save_for_backward(edges, sources, targets, values, factors, first, neighbor, *weights, *biases)


def _back(ctx: Any, by_sums: Tensor) -> tuple[Any, ...]:
    edges, sources, targets, values, factors, first, neighbor, *layers = ctx.saved_tensors
    weights, biases = layers[: ctx.n_layers], layers[ctx.n_layers :]
    center = centers(first, len(neighbor))
    given = _network(edges, sources[neighbor] + targets[center], weights, biases)
    sent, by_message = values[neighbor], by_sums[center]
    by_factors = None if factors is None else (by_message * given[-1] * sent).sum(dim=1)
    if factors is not None:
        by_message = by_message * factors.unsqueeze(1)
    by_values = torch.zeros_like(values).index_add(0, neighbor, by_message * given[-1])
    by_given = by_message * sent
    by_weights: list[Tensor] = []
    by_biases: list[Tensor] = []
    for layer in range(ctx.n_layers - 1, 0, -1):
        before = given[layer - 1]
        by_weights.insert(0, by_given.T @ silu(before))
        by_biases.insert(0, by_given.sum(dim=0))
        s = torch.sigmoid(before)
        by_given = (by_given @ weights[layer]) * s * (1.0 + before * (1.0 - s))
    by_weights.insert(0, by_given.T @ edges)
    by_biases.insert(0, by_given.sum(dim=0))
    by_sources = torch.zeros_like(sources).index_add(0, neighbor, by_given)
    by_targets = torch.zeros_like(targets).index_add(0, center, by_given)
    of_nodes = (by_sources, by_targets, by_values, by_factors)
    return (by_given @ weights[0], *of_nodes, by_weights, by_biases, None, None)


conditional_filter.register_autograd(_back, setup_context=_keep)
