"""``GraphRequest``: what a model needs. ``Graph``: edges, vectors and distances for one batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.bonds import BondRule, with_bonds
from kinetograph.neighbors import NeighborList
from kinetograph.system import System


@dataclass(frozen=True)
class GraphRequest:
    """What a potential needs to know of its surroundings. Every engine reads it; none guesses."""

    cutoff: float
    """Å: radius within which every neighbour image is an edge."""
    bond_rule: BondRule | None = None
    """The rule behind the edge types, or ``None`` where the potential has no use for bonds."""
    n_layers: int = 1
    """Message-passing steps: a force reaches ``n_layers * cutoff`` far, which a halo must cover."""

    @property
    def receptive_field(self) -> float:
        """Å: how far away an atom can be that changes a force."""
        return self.n_layers * self.cutoff


@dataclass(frozen=True)
class Graph:
    """A batch of structures as a directed graph, cut off exactly."""

    atomic_numbers: Tensor
    """(n_atoms,) int64."""
    system_index: Tensor
    """(n_atoms,) int64."""
    n_systems: int
    center: Tensor
    """(n_edges,) int64, ascending."""
    neighbor: Tensor
    """(n_edges,) int64."""
    edge_vectors: Tensor
    """(n_edges, 3) Å: position of the neighbour image minus position of the centre."""
    distances: Tensor
    """(n_edges,) Å."""
    edge_types: Tensor | None = None
    """(n_edges,) int64: see ``BondRule``."""

    @property
    def n_atoms(self) -> int:
        return int(self.atomic_numbers.shape[0])

    @property
    def n_edges(self) -> int:
        return int(self.center.shape[0])

    @property
    def unit_vectors(self) -> Tensor:
        """(n_edges, 3) dimensionless, from centre to neighbour."""
        return self.edge_vectors / self.distances.unsqueeze(1)


def neighbors_for(system: System, request: GraphRequest, *, skin: float = 0.0) -> NeighborList:
    """The neighbour list that a request asks for. Bonds are found where the rule needs them."""
    return NeighborList.build(
        with_bonds(system, request.bond_rule), request.cutoff, skin=skin, bond_rule=request.bond_rule
    )


def build_graph(
    system: System,
    neighbors: NeighborList,
    request: GraphRequest,
    *,
    dtype: torch.dtype | None = None,
    differentiable: bool = False,
) -> Graph:
    """Edges of the list that lie within the request's cutoff, with their vectors and distances.

    Vectors are formed in the type of the positions and only then rounded to ``dtype``, so that a
    single-precision model sees single-precision *distances* even far from the origin.

    Args:
        differentiable: make ``edge_vectors`` a leaf that requires gradients.
    """
    center, neighbor, shift = neighbors.center, neighbors.neighbor, neighbors.shift
    if system.n_systems == 1:
        offset = shift @ system.cell[0]
    else:
        offset = torch.einsum("ei,eij->ej", shift, system.cell[system.system_index[center]])
    vectors = system.positions[neighbor] - system.positions[center] + offset
    edge_types = neighbors.edge_types
    inside = torch.nonzero(vectors.square().sum(dim=1) < request.cutoff**2)[:, 0]
    if len(inside) < len(center):
        center, neighbor, vectors = center[inside], neighbor[inside], vectors[inside]
        edge_types = None if edge_types is None else edge_types[inside]
    vectors = vectors.to(dtype or system.dtype)
    if differentiable:
        vectors = vectors.detach().requires_grad_(True)
    return Graph(
        atomic_numbers=system.atomic_numbers,
        system_index=system.system_index,
        n_systems=system.n_systems,
        center=center,
        neighbor=neighbor,
        edge_vectors=vectors,
        distances=torch.linalg.norm(vectors, dim=1),
        edge_types=edge_types,
    )
