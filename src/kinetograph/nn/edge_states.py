"""Between states of atoms and of directed edges, and from these to numbers: GemNet's, without biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.nn.efficient import Dense, ScaleFactor, he_orthogonal, residuals, scaled_silu
from kinetograph.nn.segments import sum_to


class EdgeEmbedding(nn.Module):
    """σ(W [h_c; h_a; x_ca]), applied in three parts."""

    def __init__(self, width: int, n_in: int, edge_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(edge_width, 2 * width + n_in))
        self.sizes = [width, width, n_in]
        he_orthogonal(self.weight)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Graph) -> Tensor:
        """(n_atoms, width), (n_edges, n_in) → (n_edges, edge_width)."""
        of_neighbor, of_center, of_edge = torch.split(self.weight, self.sizes, dim=1)
        linear = nn.functional.linear
        ends = linear(nodes, of_neighbor).index_select(0, graph.neighbor) + linear(
            nodes, of_center
        ).index_select(0, graph.center)
        return scaled_silu(ends + linear(edges, of_edge))


class AtomUpdate(nn.Module):
    """From edges to their centre: residual layers of σ(W s Σ_c m_ca ∘ W′ e_RBF)."""

    def __init__(self, width: int, edge_width: int, rbf_width: int, n_residual: int) -> None:
        super().__init__()
        self.radial = Dense(rbf_width, edge_width)
        self.scale_sum = ScaleFactor()
        self.dense = Dense(edge_width, width, activated=True)
        self.residuals = residuals(width, n_residual)

    def forward(self, edges: Tensor, radial: Tensor, graph: Graph) -> Tensor:
        """(n_edges, edge_width) → (n_atoms, width)."""
        gathered = sum_to(graph.center, edges * self.radial(radial), graph.n_atoms)
        nodes: Tensor = self.residuals(self.dense(self.scale_sum(gathered, edges)))
        return nodes


class EnergyReadout(nn.Module):
    """E_a from Σ_c m_ca ∘ W e_RBF: a Dense layer, residual layers, one number."""

    def __init__(self, width: int, edge_width: int, n_residual: int) -> None:
        super().__init__()
        self.scale_sum = ScaleFactor()
        self.dense = Dense(edge_width, width, activated=True)
        self.residuals = residuals(width, n_residual)
        self.last = Dense(width, 1)

    def forward(self, filtered: Tensor, edges: Tensor, graph: Graph) -> Tensor:
        """(n_edges, edge_width) → (n_atoms,)."""
        nodes = self.scale_sum(sum_to(graph.center, filtered, graph.n_atoms), edges)
        energies: Tensor = self.last(self.residuals(self.dense(nodes)))[:, 0]
        return energies


class ForceReadout(nn.Module):
    """F_ca from m_ca ∘ W e_RBF: a Dense layer, residual layers, one number."""

    def __init__(self, edge_width: int, n_residual: int) -> None:
        super().__init__()
        self.scale = ScaleFactor()
        self.dense = Dense(edge_width, edge_width, activated=True)
        self.residuals = residuals(edge_width, n_residual)
        self.last = Dense(edge_width, 1)

    def forward(self, filtered: Tensor, edges: Tensor) -> Tensor:
        """(n_edges, edge_width) → (n_edges,)."""
        strengths: Tensor = self.last(self.residuals(self.dense(self.scale(filtered, edges))))[:, 0]
        return strengths
