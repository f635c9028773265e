"""GNNFF for running, on a CPU and on a GPU; the oracle is the forward pass of ``models/gnnff.py``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.kernels.gnnff import Affine, FusedGNNFF, LayerWeights, Weights
from kinetograph.kernels.native import Library
from kinetograph.kernels.operators.edges import first_edges
from kinetograph.kernels.operators.gated_sum import gated_sum, incoming_edges
from kinetograph.nn.batch_norm import BatchNorm
from kinetograph.nn.model import Head, Inference, Outputs
from kinetograph.nn.radial import GaussianBasis


class GNNFFOnGpu:
    """The network in torch's operations, each layer's sum over triplets in one pass, without triplets."""

    shortest_A = 0.0

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.blocks: list[tuple[Any, Any, Tensor, Tensor]] = []
        for node_block, edge_block in zip(self.model.node_blocks, self.model.edge_blocks, strict=True):
            bias = edge_block.three_body.bias
            scale, shift = _affine(edge_block.triplet_norm, len(bias))
            self.blocks.append((node_block, edge_block, scale.to(bias), shift.to(bias)))

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        model = self.model
        nodes, edges = model.node_embedding(graph.atomic_numbers), model.basis(graph.distances)
        factors = model.envelope_of(graph.distances)
        envelope = None if factors is None else factors.unsqueeze(1)
        incoming = incoming_edges(graph.neighbor, graph.n_atoms)
        where = (first_edges(graph.center, graph.n_atoms), graph.neighbor, *incoming)
        for node_block, edge_block, scale, shift in self.blocks:
            old, nodes = nodes, node_block(nodes, edges, graph, envelope)
            seen = nodes if model.updated_nodes else old
            of_first, of_second = edge_block.arguments(seen, edges, graph)
            total = gated_sum(scale * of_first + shift, scale * of_second, factors, None, *where)
            edges = torch.tanh(edges + edge_block.pair(seen, graph) + edge_block.sum_norm(total))
        outputs: Outputs = model.outputs(nodes, edges, envelope, graph, heads)
        return outputs


class GNNFFInference:
    """The network in compiled passes."""

    def __init__(self, library: Library, model: Any) -> None:
        self.model = model
        basis = model.basis
        if isinstance(basis, GaussianBasis):
            centers = basis.start + basis.spacing * torch.arange(basis.n_functions, dtype=torch.float64)
            sharpness = torch.full_like(centers, basis.gamma)
        else:  # each its own
            centers, sharpness = basis.centers, 0.5 / basis.widths.square()
        force_head = list(model.force_head) if "direct" in model.heads else []
        blocks = zip(model.node_blocks, model.edge_blocks, strict=True)
        self.network = FusedGNNFF(
            library,
            Weights(
                layers=[_layer_weights(node_block, edge_block) for node_block, edge_block in blocks],
                centers=centers,
                sharpness=sharpness,
                force_head=[(x.weight, x.bias) for x in force_head if isinstance(x, nn.Linear)],
                outward=model.outward if force_head else 1.0,
                updated_nodes=model.updated_nodes,
                way_back=model.request.triplets == "walk",
            ),
        )

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Inference:
        conservative = "conservative" in heads
        with torch.set_grad_enabled(conservative):
            distances = graph.distances.detach().requires_grad_(conservative)
            envelope = self.model.envelope_of(distances)
        edges = self.network.edges(
            *(graph.center, graph.neighbor, graph.edge_vectors, graph.distances),
            *(None if envelope is None else envelope.detach(), graph.n_atoms),
        )
        nodes: Tensor = self.model.node_embedding(graph.atomic_numbers).detach()
        if not conservative:
            return Inference(forces=self.network.direct(edges, nodes))
        said = self.network.conservative(edges, nodes, self._energies, also_direct="direct" in heads)
        assert envelope is not None
        (of_envelope,) = torch.autograd.grad(envelope, distances, said.by_envelope)
        slopes = (said.by_distances + of_envelope).unsqueeze(1) * graph.unit_vectors
        return Inference(said.forces, said.energies, slopes)

    def _energies(self, nodes: Tensor, around: Tensor) -> Tensor:
        energies: Tensor = self.model.energy_head(torch.cat([nodes, around], dim=1))
        return energies


def _layer_weights(node_block: Any, edge_block: Any) -> LayerWeights:
    pair, two_body, three_body = node_block.pair, edge_block.two_body, edge_block.three_body
    pair_scale, pair_shift = _affine(node_block.pair_norm, len(pair.bias))
    two_scale, two_shift = _affine(edge_block.pair_norm, len(two_body.bias))
    three_scale, three_shift = _affine(edge_block.triplet_norm, len(three_body.bias))
    width, edge_width = len(pair.bias) // 2, len(two_body.bias) // 2
    of_node, of_edge = torch.split(pair_scale.unsqueeze(1) * pair.weight.double(), pair.widths, dim=1)
    i, j, k, ij, jk = torch.split(
        three_scale.unsqueeze(1) * three_body.weight.double(), three_body.widths, dim=1
    )
    return LayerWeights(
        pair=(of_node, of_edge),
        pair_bias=pair_scale * pair.bias.double() + pair_shift,
        node_norm=_affine(node_block.sum_norm, width),
        two_body=two_scale.unsqueeze(1) * two_body.weight.double(),
        two_body_bias=two_scale * two_body.bias.double() + two_shift,
        two_body_norm=_affine(edge_block.pair_gate_norm, edge_width),
        three_body=(i, j, k, ij, jk),
        three_body_bias=three_scale * three_body.bias.double() + three_shift,
        edge_norm=_affine(edge_block.sum_norm, edge_width),
    )


def _affine(norm: nn.Module, width: int) -> Affine:
    """What a normalisation multiplies by and adds in evaluation mode, in double precision."""
    if not isinstance(norm, BatchNorm):
        return torch.ones(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale, norm.bias.double() - scale * norm.running_mean.double()
