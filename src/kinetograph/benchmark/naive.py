"""The naive form of a model: its paper's equations as they stand, with no algebra done beforehand.

What is written as a function of a concatenation is one, built for every edge, with ``torch.nn.Linear`` on
it; sums are ``index_add``; eager, in the type of the weights. This is what a first implementation looks
like and what speed-ups are measured against; it is pinned here and does not change with the package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.models.gamd import GAMD, PaperLayer
from kinetograph.nn.model import Model

Naive = Callable[[Graph], Tensor]
"""A graph → (n_atoms, 3) forces in units of the force scale."""


def naive_form(model: Model) -> Naive:
    """The naive form with the weights of a model; ``KeyError`` where none is written down here."""
    if isinstance(model, GAMD) and model.form == "paper":
        return _gamd(model)
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
