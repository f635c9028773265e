"""Heads: from a model's features to energies or forces, in units of the force scale."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.nn.mlp import mlp
from kinetograph.nn.model import COVARIANT
from kinetograph.nn.segments import sum_to


class NodeForceHead(nn.Module):
    """A vector read off the node features: F_i = MLP(v_i). Covariant only as far as training makes it."""

    exact = frozenset({"translation", "permutation"})

    def __init__(self, width: int, hidden: int, activation: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.mlp = mlp([width, hidden, 3], activation)

    def forward(self, nodes: Tensor) -> Tensor:
        """(n_atoms, width) → (n_atoms, 3)."""
        forces: Tensor = self.mlp(nodes)
        return forces


class EdgeForceHead(nn.Module):
    """A scalar on every edge along its direction: F_i = Σ_j f_ij u_ij.

    Exactly covariant under rotations and reflections when f_ij is invariant. With f_ij built from
    sums over both ends it equals f_ji, every pair obeys Newton's third law and the net force of a
    structure is zero to rounding. A force field whose energy depends on distances has this form,
    with f_ij = dE/dd_ij, so nothing is lost by it.
    """

    exact = COVARIANT | {"net force", "torque"}

    def __init__(self, width: int, edge_width: int, hidden: int) -> None:
        super().__init__()
        self.from_nodes = nn.Linear(width, hidden)
        self.from_edge = nn.Linear(edge_width, hidden)
        self.scalar = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, nodes: Tensor, edges: Tensor, graph: Graph, envelope: Tensor | None = None) -> Tensor:
        """Forces (n_atoms, 3).

        Args:
            nodes: (n_atoms, width) invariant features.
            edges: (n_edges, edge_width) invariant features, alike for an edge and the one that goes back.
            envelope: (n_edges,) factor that vanishes smoothly at the cutoff; ``None`` for a hard cutoff.
        """
        ends: Tensor = self.from_nodes(nodes)
        pair = (
            ends.index_select(0, graph.center) + ends.index_select(0, graph.neighbor) + self.from_edge(edges)
        )
        scalar: Tensor = self.scalar(pair)[:, 0]
        if envelope is not None:
            scalar = scalar * envelope
        return sum_to(graph.center, scalar.unsqueeze(1) * graph.unit_vectors, graph.n_atoms)


class EnergyHead(nn.Module):
    """An energy per atom from its invariant features: E_i = MLP(v_i), one hidden layer."""

    def __init__(self, width: int, hidden: int, activation: Callable[[], nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.mlp = mlp([width, hidden, 1], activation)

    def forward(self, nodes: Tensor) -> Tensor:
        """(n_atoms, width) → (n_atoms,)."""
        energies: Tensor = self.mlp(nodes)[:, 0]
        return energies
