"""The naive form of a model: its paper's equations as they stand, with no algebra done beforehand.

What is written as a function of a concatenation is one, built for every edge, with ``torch.nn.Linear`` on
it; sums are ``index_add``; eager, in the type of the weights. This is what a first implementation looks
like and what speed-ups are measured against; it is pinned here and does not change with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.models.forcenet import ForceNet, Interaction
from kinetograph.models.gamd import GAMD, CodeLayer, PaperLayer
from kinetograph.models.gnnff import GNNFF, EdgeBlock, JointLinear, NodeBlock
from kinetograph.nn.bases import edge_inputs
from kinetograph.nn.model import Model

Naive = Callable[[Graph], Tensor]
"""A graph → (n_atoms, 3) forces in units of the force scale."""


def naive_form(model: Model) -> Naive:
    """The naive form with the weights of a model; ``KeyError`` where none is written down here."""
    if isinstance(model, GAMD) and model.form == "paper":
        return _gamd(model)
    if isinstance(model, GNNFF) and model.forces == "direct":
        return _gnnff(model)
    if isinstance(model, GAMD) and model.form == "code":
        return _gamd_code(model)
    if isinstance(model, ForceNet) and model.form == "paper" and model.ablation is None:
        return _forcenet(model)
    raise KeyError(type(model).__name__)


def _gamd(model: GAMD) -> Naive:
    """GAMD (J. Chem. Phys. 156, 144103), with Φ(v_j, e_ij, v_i) and Θ(v_i, M_i) on concatenations."""
    first_of_phi = []
    for layer in model.layers:
        assert isinstance(layer, PaperLayer)
        joint = nn.Linear(3 * layer.from_edge.in_features, layer.from_edge.out_features)
        parts = [layer.from_source.weight, layer.from_edge.weight, layer.from_target.weight]
        joint.weight = nn.Parameter(torch.cat(parts, dim=1))
        joint.bias = layer.from_edge.bias
        first_of_phi.append(joint)

    def forces(graph: Graph) -> Tensor:
        nodes = model.node_embedding(graph.atomic_numbers)
        units = graph.edge_vectors / graph.distances.unsqueeze(1)
        length = (graph.distances - model.length_mean) / model.length_std
        edges = model.edge_encoder(torch.cat([units, length.unsqueeze(1)], dim=1))
        for layer, joint in zip(model.layers, first_of_phi, strict=True):
            assert isinstance(layer, PaperLayer)
            of_edge = layer.edge_transform(edges)
            phi = layer.filter(joint(torch.cat([nodes[graph.neighbor], of_edge, nodes[graph.center]], dim=1)))
            messages = torch.zeros_like(nodes).index_add(0, graph.center, phi * nodes[graph.neighbor])
            nodes = nodes + layer.norm(layer.update(torch.cat([nodes, messages], dim=1)))
        out: Tensor = model.head(nodes)
        return out

    return forces


def _gnnff(model: GNNFF) -> Naive:
    """GNNFF (npj Comput. Mater. 7, 73), with its sums over c¹ of every edge and c³ of every triplet."""

    def forces(graph: Graph) -> Tensor:
        nodes = model.node_embedding(graph.atomic_numbers)
        edges = model.basis(graph.distances)
        envelope = model.envelope_of(graph.distances)
        for node_block, edge_block in zip(model.node_blocks, model.edge_blocks, strict=True):
            assert isinstance(node_block, NodeBlock)
            assert isinstance(edge_block, EdgeBlock)
            old, nodes = nodes, _gnnff_nodes(node_block, nodes, edges, graph, envelope)
            seen = nodes if model.updated_nodes else old
            c2 = seen[graph.center] * seen[graph.neighbor]
            pair = edge_block.pair_gate_norm(_gate(edge_block.pair_norm(edge_block.two_body(c2))))
            total = gnnff_three_body(edge_block, seen, edges, graph, envelope)
            edges = torch.tanh(edges + pair + edge_block.sum_norm(total))
        scalar = model.force_head(edges)
        if envelope is not None:
            scalar = scalar * envelope.unsqueeze(1)
        along: Tensor = model.outward * scalar * (graph.edge_vectors / graph.distances.unsqueeze(1))
        return along.new_zeros(graph.n_atoms, 3).index_add(0, graph.center, along)

    return forces


def _gamd_code(model: GAMD) -> Naive:
    """GAMD as its program computes it: the maps of both ends on every edge, self edges among the others."""

    def forces(graph: Graph) -> Tensor:
        nodes = model.node_embedding(graph.atomic_numbers)
        atoms = torch.arange(graph.n_atoms)
        # Every atom is its own neighbour twice: once with a zero vector, once with a zero embedding.
        center = torch.cat([graph.center, atoms, atoms])
        neighbor = torch.cat([graph.neighbor, atoms, atoms])
        zeros = graph.distances.new_zeros(graph.n_atoms)
        units = graph.edge_vectors / graph.distances.unsqueeze(1)
        units = torch.cat([units, zeros.unsqueeze(1).expand(-1, 3)])
        distances = torch.cat([graph.distances, zeros])
        length = (distances - model.length_mean) / model.length_std
        radial = model.basis(distances if model.length_basis == "distance" else length)
        edges = model.edge_encoder(torch.cat([units, length.unsqueeze(1), radial], dim=1))
        edges = torch.cat([edges, torch.zeros_like(nodes)])
        for layer in model.layers:
            assert isinstance(layer, CodeLayer)
            x = layer.norm(nodes)
            code = layer.from_source(x[neighbor]) + layer.from_target(x[center]) + layer.edge_transform(edges)
            messages = torch.zeros_like(x).index_add(0, center, layer.filter(code) * x[neighbor])
            nodes = nodes + layer.out(layer.update_node(x) + layer.update_message(messages))
        out: Tensor = model.head(nodes)
        return out

    return forces


def gnnff_three_body(
    block: EdgeBlock, nodes: Tensor, edges: Tensor, graph: Graph, envelope: Tensor | None
) -> Tensor:
    """(n_edges, edge_width): the sum over triplets of GNNFF's eq. 5."""
    assert graph.triplets is not None
    first, second = graph.triplets.first, graph.triplets.second
    i, j, k = graph.center[first], graph.neighbor[first], graph.neighbor[second]
    c3 = torch.cat([nodes[i], nodes[j], nodes[k], edges[first], edges[second]], dim=1)
    message = _gate(block.triplet_norm(_joint(block.three_body, c3)))
    if envelope is not None:
        message = message * envelope[second].unsqueeze(1)
    return torch.zeros_like(edges).index_add(0, first, message)


def _gnnff_nodes(
    block: NodeBlock, nodes: Tensor, edges: Tensor, graph: Graph, envelope: Tensor | None
) -> Tensor:
    """GNNFF's eq. 3."""
    c1 = torch.cat([nodes[graph.center], edges], dim=1)
    message = _gate(block.pair_norm(_joint(block.pair, c1)))
    if envelope is not None:
        message = message * envelope.unsqueeze(1)
    total = torch.zeros_like(nodes).index_add(0, graph.center, message)
    out: Tensor = torch.tanh(nodes + block.sum_norm(total))
    return out


def _joint(linear: JointLinear, concatenation: Tensor) -> Tensor:
    return nn.functional.linear(concatenation, linear.weight, linear.bias)


def _gate(x: Tensor) -> Tensor:
    openness, core = x.chunk(2, dim=1)
    return torch.sigmoid(openness) * torch.tanh(core)


def _forcenet(model: ForceNet) -> Naive:
    """ForceNet (arXiv:2103.01436), with F_e(F_b(B(e_st)), h_s, h_t) on a concatenation."""

    def forces(graph: Graph) -> Tensor:
        slots = model.slots(graph.atomic_numbers)
        nodes: Tensor = model.node_map(model.node_basis(model.properties[slots]))
        basis = model.edge_basis(edge_inputs(graph, model.radii[slots], cutoff=model.request.cutoff))
        envelope = torch.cos(0.5 * math.pi * graph.distances / model.request.cutoff).unsqueeze(1)
        for k, layer in enumerate(model.layers):
            assert isinstance(layer, Interaction)
            of_edge = model.edge_maps[k % len(model.edge_maps)](basis)
            joint = torch.cat([of_edge, nodes[graph.neighbor], nodes[graph.center]], dim=1)
            filters = envelope * layer.filter(layer.filter_in(joint))
            sent = layer.transform(nodes)
            messages = layer.center_weight * sent
            messages = messages.index_add(0, graph.center, filters * sent[graph.neighbor])
            nodes = nodes + layer.update(messages)
        out: Tensor = model.head(model.decoder(nodes))
        return out

    return forces
