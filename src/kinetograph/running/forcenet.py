"""ForceNet for running, on a CPU and on a GPU; the oracle is the forward pass of ``models/forcenet.py``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.kernels import Library
from kinetograph.kernels.filter import ConditionalFilter, EdgeNetwork, Layer
from kinetograph.kernels.operators.conditional_filter import conditional_filter
from kinetograph.kernels.operators.edges import first_edges
from kinetograph.nn.batch_norm import BatchNorm
from kinetograph.nn.model import Head, Inference, Outputs


class ForceNetOnGpu:
    """The network in torch's operations, each block's sum over neighbours in one pass."""

    shortest_A = 0.0

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        maps = self.model.edge_maps
        self.layers = []
        for k, layer in enumerate(self.model.layers):
            first = layer.of_edge(maps[k % len(maps)])
            linears = [first, *((x.weight, x.bias) for x in layer.filter if isinstance(x, nn.Linear))]
            self.layers.append((layer, [weight for weight, _ in linears], [bias for _, bias in linears]))

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        model = self.model
        slots = model.slots(graph.atomic_numbers)
        nodes: Tensor = model.node_map(model.node_basis(model.properties))[slots]
        edges, envelope = model.of_edges(graph, slots)
        where = (first_edges(graph.center, graph.n_atoms), graph.neighbor)
        for layer, weights, biases in self.layers:
            of_source, of_target = layer.of_ends()
            sent = layer.transform(nodes)
            ends = (nodes @ of_source.T, nodes @ of_target.T, sent)
            nodes = nodes + layer.updated(
                conditional_filter(edges, *ends, envelope, weights, biases, *where), sent
            )
        return Outputs(forces=model.head(model.decoder(nodes)))


class ForceNetInference:
    """The network in compiled passes, its batch normalisations folded into the maps before them."""

    def __init__(self, library: Library, model: Any) -> None:
        self.model = model
        exact = copy.deepcopy(model).double()
        self.elements: Tensor = exact.node_map(exact.node_basis(exact.properties)).float()
        self.layers = [
            _InferenceLayer(library, layer, exact.edge_maps[k % len(exact.edge_maps)])
            for k, layer in enumerate(exact.layers)
        ]
        self.head = EdgeNetwork(library, _network([*exact.decoder, *exact.head]))

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Inference:
        slots = self.model.slots(graph.atomic_numbers)
        edges, envelope = self.model.of_edges(graph, slots)
        nodes = self.elements[slots]
        for layer in self.layers:
            nodes = nodes + layer(nodes, edges, envelope, graph)
        return Inference(forces=self.head.plain(self.head(nodes)))


class _InferenceLayer:
    """What a message-passing block adds to the states."""

    def __init__(self, library: Library, layer: Any, edge_map: nn.Module) -> None:
        of_source, of_target = layer.of_ends()
        self.of_source = EdgeNetwork(library, [(of_source, None, "none")])
        self.of_target = EdgeNetwork(library, [(of_target, None, "none")])
        self.transform = EdgeNetwork(library, _network([layer.transform]))
        weight, bias = layer.of_edge(edge_map)
        first: Layer = (weight, bias, "silu")
        self.filter = ConditionalFilter(
            library, [first, *_network([*layer.filter][1:])], meet=0, n_in=weight.shape[1]
        )
        self.center_weight = None if layer.center_weight is None else layer.center_weight.float()
        self.update = EdgeNetwork(library, _network([*layer.update]))

    def __call__(self, nodes: Tensor, edges: Tensor, envelope: Tensor, graph: Graph) -> Tensor:
        """(n_atoms, width) → the same."""
        source, target, sent = (
            network.plain(network(nodes)) for network in (self.of_source, self.of_target, self.transform)
        )
        total = self.filter(edges, source, target, sent, graph.center, graph.neighbor, envelope)
        if self.center_weight is not None:
            total = total + self.center_weight * sent
        return self.update.plain(self.update(total))


def _network(modules: Sequence[nn.Module]) -> list[Layer]:
    """Linear maps with what stands between them: batch normalisations in evaluation, and swish."""
    layers: list[Layer] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            layers.append((module.weight, module.bias, "none"))
        elif isinstance(module, BatchNorm):
            weight, bias, _ = layers.pop()
            assert bias is not None
            assert module.running_mean is not None
            assert module.running_var is not None
            gain = module.weight / torch.sqrt(module.running_var + module.eps)
            layers.append(
                (gain.unsqueeze(1) * weight, gain * (bias - module.running_mean) + module.bias, "none")
            )
        else:
            assert isinstance(module, nn.SiLU)
            layers.append((*layers.pop()[:2], "silu"))
    return layers
