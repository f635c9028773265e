"""GAMD for running, on a CPU and on a GPU; the oracle is the forward pass of ``models/gamd.py``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.kernels import Library
from kinetograph.kernels.filter import Activation, ConditionalFilter, EdgeNetwork, Layer, write_gaussians
from kinetograph.kernels.native import Workspace, floats
from kinetograph.kernels.operators.conditional_filter import conditional_filter
from kinetograph.kernels.operators.edges import first_edges
from kinetograph.nn.heads import EdgeForceHead
from kinetograph.nn.model import Head, Inference, Outputs
from kinetograph.nn.radial import cosine_cutoff


class GAMDOnGpu:
    """The network in torch's operations, each layer's sum over neighbours in one pass.

    Linear maps after each other are one, as in the form for a CPU.
    """

    shortest_A = 0.0

    def __init__(self, model: Any) -> None:
        self.model = model = copy.deepcopy(model).requires_grad_(False)
        self.encoder: nn.Module = model.edge_encoder
        if model.form != "code":  # whose last part is a LayerNorm
            self.encoder = nn.Sequential(*[*model.edge_encoder][:-1])
        last = _linears(model.edge_encoder)[-1]
        self.layers = []
        for layer in model.layers:
            before: nn.Module = nn.Identity()
            if model.form == "code":
                *between, to_filter = layer.edge_transform
                before, maps = nn.Sequential(*between), [(to_filter.weight, to_filter.bias)]
            elif model.form == "paper":
                maps = [_folded(last, layer.edge_transform, layer.from_edge)]
            else:
                maps = [_folded(last, layer.from_edge)]
            maps += [(x.weight, x.bias) for x in _linears(layer.filter)]
            self.layers.append((layer, before, [weight for weight, _ in maps], [bias for _, bias in maps]))

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        model, head = self.model, self.model.head
        nodes: Tensor = model.node_embedding(graph.atomic_numbers)
        inputs = model.edge_inputs(graph.distances, graph.unit_vectors, graph.edge_types)
        edges = self.encoder(inputs)
        covariant = isinstance(head, EdgeForceHead)
        envelope = cosine_cutoff(graph.distances, model.request.cutoff) if covariant else None
        more = (model.self_edge(nodes),) if model.form == "code" else ()
        where = (first_edges(graph.center, graph.n_atoms), graph.neighbor)
        for layer, before, weights, biases in self.layers:
            ends = layer.ends(nodes)
            of_ends = (ends.source, ends.target, ends.sent, envelope)
            messages = conditional_filter(before(edges), *of_ends, weights, biases, *where)
            nodes = layer.updated(nodes, ends, messages, *more)
        return Outputs(forces=head(nodes, inputs, graph, envelope) if covariant else head(nodes))


class GAMDInference:
    """The network in compiled passes.

    What is linear on both sides becomes one product: the last layer of the edge encoder, the paper's edge
    transform and the edge's part of Φ's first matrix.

    Args:
        products: type of the factors of products on edges, but for the first of the encoder. What stands
            on atoms is not rounded: it would be in every layer, on all that was summed before.
    """

    def __init__(self, library: Library, model: Any, products: torch.dtype = torch.float32) -> None:
        self.model, self.library = model, library
        *inner, last = _linears(model.edge_encoder)
        activation: Activation = "silu" if model.form == "covariant" else "gelu"
        encoder: list[Layer] = [(layer.weight, layer.bias, activation) for layer in inner]
        norm: nn.LayerNorm | None = None
        if model.form == "code":  # a LayerNorm comes between
            encoder.append((last.weight, last.bias, "none"))
            (norm,) = (part for part in model.edge_encoder if isinstance(part, nn.LayerNorm))
        self.encoder = EdgeNetwork(library, encoder, norm=norm, products=products, gives=products)
        self.layers = []
        workspaces = Workspace(), Workspace()  # one layer works at a time
        for layer in model.layers:
            if model.form == "code":
                first: list[Layer] = [(x.weight, x.bias, "silu") for x in _linears(layer.edge_transform)]
            elif model.form == "paper":
                first = [(*_folded(last, layer.edge_transform, layer.from_edge), "silu")]
            else:
                first = [(*_folded(last, layer.from_edge), "silu")]
            filters = ConditionalFilter(
                library,
                [*first, *_silu_between(layer.filter)],
                meet=len(first) - 1,
                n_in=self.encoder.width,
                products=products,
                takes=products,
            )
            self.layers.append(
                _Pass(layer, filters, library, workspaces, norm_comes_first=model.form != "paper")
            )
            if model.form == "code":
                self_edge = model.self_edge(layer.norm.weight.new_zeros(1, 1))
                self.layers[-1].set_self_edges(layer, torch.cat([self_edge, torch.zeros_like(self_edge)]))

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Inference:
        model, head = self.model, self.model.head
        nodes: Tensor = model.node_embedding(graph.atomic_numbers)
        inputs = self._edge_inputs(graph)
        edges = self.encoder(inputs)
        envelope = cosine_cutoff(graph.distances, model.request.cutoff) if model.form == "covariant" else None
        for layer in self.layers:
            nodes = layer(nodes, edges, graph, envelope)
        return Inference(forces=head(nodes) if envelope is None else head(nodes, inputs, graph, envelope))

    def _edge_inputs(self, graph: Graph) -> Tensor:
        """As the model's, with the Gaussians of its program written where they belong."""
        model = self.model
        if model.form != "code":
            plain: Tensor = model.edge_inputs(graph.distances, graph.unit_vectors, graph.edge_types)
            return plain
        length = (graph.distances - model.length_mean) / model.length_std
        basis, before = model.basis, 4
        inputs = floats(len(length), before + basis.n_functions + model.n_edge_types - 1)
        inputs[:, :3], inputs[:, 3] = graph.unit_vectors, length
        x = graph.distances if model.length_basis == "distance" else length
        shape = (basis.start, basis.spacing, basis.n_functions, basis.gamma)
        write_gaussians(self.library, x, *shape, inputs, before)
        if graph.edge_types is not None and model.n_edge_types > 1:
            kind = nn.functional.one_hot(graph.edge_types, model.n_edge_types)
            inputs[:, before + basis.n_functions :] = kind[:, 1:]
        return inputs


class _Pass:
    """A layer, its products packed."""

    def __init__(
        self,
        layer: Any,
        filters: ConditionalFilter,
        library: Library,
        workspaces: tuple[Workspace, Workspace],
        *,
        norm_comes_first: bool,
    ) -> None:
        self.filters, self.library, self.norm = filters, library, layer.norm
        self.norm_comes_first = norm_comes_first
        self.source, self.target = (
            EdgeNetwork(library, [(x.weight, x.bias, "none")], workspace=workspace)
            for x, workspace in zip((layer.from_source, layer.from_target), workspaces, strict=True)
        )
        if not norm_comes_first:
            update = _silu_between(layer.update)
        else:  # of both together
            weight = torch.cat([layer.update_node.weight, layer.update_message.weight], dim=1)
            bias = layer.update_node.bias + layer.update_message.bias
            update = [(weight, bias, "silu"), *_silu_between(layer.out)]
        self.update = EdgeNetwork(library, update, workspace=workspaces[0])
        self.self_filter: EdgeNetwork | None = None

    def set_self_edges(self, layer: Any, embeddings: Tensor) -> None:
        """Let every atom send to itself, too.

        Args:
            embeddings: (n_self_edges, width), alike for all atoms.
        """
        self.of_self_edges: Tensor = layer.edge_transform(embeddings).unsqueeze(1)
        self.self_filter = EdgeNetwork(self.library, _silu_between(layer.filter))

    def __call__(self, nodes: Tensor, edges: Tensor, graph: Graph, envelope: Tensor | None) -> Tensor:
        """(n_atoms, width) → the same."""
        x = self.norm(nodes) if self.norm_comes_first else nodes
        source, target = (network.plain(network(x)) for network in (self.source, self.target))
        messages = self.filters(edges, source, target, x, graph.center, graph.neighbor, envelope)
        if self.self_filter is not None:
            pre = nn.functional.silu(self.of_self_edges + (source + target))
            weights = self.self_filter.plain(self.self_filter(pre.flatten(0, 1))).view(*pre.shape[:2], -1)
            messages = messages + x * weights.sum(dim=0)
        updated = self.update.plain(self.update(torch.cat([x, messages], dim=1)))
        return nodes + (updated if self.norm_comes_first else self.norm(updated))


def _silu_between(network: nn.Module) -> list[Layer]:
    """The linear maps of an MLP, all but the last with an activation."""
    *inner, last = _linears(network)
    return [*((x.weight, x.bias, "silu") for x in inner), (last.weight, last.bias, "none")]


def _linears(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def _folded(*maps: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of linear maps after each other, multiplied in double precision."""
    weight, bias = maps[0].weight.double(), maps[0].bias.double()
    for linear in maps[1:]:
        weight, bias = linear.weight.double() @ weight, linear.weight.double() @ bias + linear.bias.double()
    return weight.float(), bias.float()
