"""Heads: from a model's features to forces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph, GraphRequest
from kinetograph.nn.mlp import mlp


@dataclass(frozen=True)
class Features:
    """What a model's trunk hands to its heads."""

    nodes: Tensor
    """(n_atoms, width)."""
    edges: Tensor
    """(n_edges, edge_width): geometry and bond type of an edge, before any message."""
    envelope: Tensor | None = None
    """(n_edges,) factor that vanishes smoothly at the cutoff; ``None`` for a hard cutoff."""


class Trunk(nn.Module, ABC):
    """A model without its units: features of a graph, and the head that turns them into forces."""

    request: GraphRequest
    head: NodeForceHead | EdgeForceHead

    @abstractmethod
    def forward(self, graph: Graph) -> Features: ...

    @abstractmethod
    def fit_statistics(self, graphs: Iterable[Graph]) -> None:
        """Set whatever the model keeps of its training data besides weights."""


class NodeForceHead(nn.Module):
    """A vector read off the node features: F_i = MLP(v_i). Covariant only as far as training makes it."""

    exact = frozenset({"translation", "permutation"})

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = mlp([width, width, 3], nn.GELU)

    def forward(self, features: Features, graph: Graph) -> Tensor:
        forces: Tensor = self.mlp(features.nodes)
        return forces


class EdgeForceHead(nn.Module):
    """A scalar on every edge along its direction: F_i = Σ_j f_ij u_ij.

    Exactly covariant under rotations and reflections when f_ij is invariant. With f_ij built from
    sums over both ends it equals f_ji, every pair obeys Newton's third law and the net force of a
    structure is zero to rounding. A force field whose energy depends on distances has this form,
    with f_ij = dE/dd_ij, so nothing is lost by it.
    """

    exact = frozenset({"translation", "permutation", "rotation", "reflection", "net force"})

    def __init__(self, width: int, edge_width: int, hidden: int) -> None:
        super().__init__()
        self.from_nodes = nn.Linear(width, hidden)
        self.from_edge = nn.Linear(edge_width, hidden)
        self.scalar = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, features: Features, graph: Graph) -> Tensor:
        ends: Tensor = self.from_nodes(features.nodes)
        pair = ends[graph.center] + ends[graph.neighbor] + self.from_edge(features.edges)
        scalar: Tensor = self.scalar(pair)[:, 0]
        if features.envelope is not None:
            scalar = scalar * features.envelope
        pair_forces = scalar.unsqueeze(1) * graph.unit_vectors
        return torch.zeros(graph.n_atoms, 3, dtype=pair_forces.dtype, device=pair_forces.device).index_add(
            0, graph.center, pair_forces
        )
