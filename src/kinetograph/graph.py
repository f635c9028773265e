"""``GraphRequest``: what a model needs. ``Graph``: edges, vectors, distances, and what meets at an atom."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kinetograph.bonds import BondRule, with_bonds
from kinetograph.errors import UserError
from kinetograph.neighbors import NeighborList
from kinetograph.system import System
from kinetograph.triplets import Quadruplets, TripletKind, Triplets, quadruplets, reverse_edges, triplets

TIE_TOLERANCE_A = 1e-4
"""Neighbours as far as the k-th nearest, within this, are kept with it: a tie is never decided silently."""
COINCIDENT_A = 1e-3
"""Atoms closer than this are one atom twice: directions between them mean nothing."""


@dataclass(frozen=True)
class GraphRequest:
    """What a potential needs to know of its surroundings. Every engine reads it; none guesses."""

    cutoff: float
    """Å: radius within which every neighbour image is an edge."""
    bond_rule: BondRule | None = None
    """The rule behind the edge types, or ``None`` where the potential has no use for bonds."""
    n_layers: int = 1
    """Message-passing steps: a force reaches ``n_layers * reach`` far, which a halo must cover."""
    n_nearest: int | None = None
    """Keep only the edges to so many nearest neighbours of each atom, and those tied with the last one."""
    nearest_required: bool = True
    """Whether an atom with fewer than ``n_nearest`` neighbours within the cutoff is refused."""
    reverse: bool = False
    """Whether ``Graph.reverse`` is needed. Not to be had together with ``n_nearest``."""
    triplets: TripletKind | None = None
    """Which pairs of edges are needed; see ``kinetograph.triplets``."""
    link_cutoff: float | None = None
    """Å: radius of the links in the middle of quadruplets, or ``None`` where none are needed."""

    def __post_init__(self) -> None:
        if self.reverse and self.n_nearest is not None:
            raise ValueError("among nearest neighbours an edge need not have one that goes back")

    @property
    def reach(self) -> float:
        """Å: how far a neighbour list must reach."""
        return max(self.cutoff, self.link_cutoff or 0.0)

    @property
    def receptive_field(self) -> float:
        """Å: how far away an atom can be that changes the energy of an atom or a direct force on it."""
        step = self.cutoff if self.link_cutoff is None else self.link_cutoff + self.cutoff
        return self.n_layers * step

    def edges_only(self) -> GraphRequest:
        """The same edges without anything built on them."""
        return replace(self, reverse=False, triplets=None, link_cutoff=None)


@dataclass(frozen=True)
class Links:
    """Pairs of atoms within ``link_cutoff``, sorted by centre: the middle of quadruplets."""

    center: Tensor
    """(n_links,) int64, ascending."""
    neighbor: Tensor
    """(n_links,) int64."""
    vectors: Tensor
    """(n_links, 3) Å: position of the neighbour image minus position of the centre."""
    distances: Tensor
    """(n_links,) Å."""


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
    reverse: Tensor | None = None
    """(n_edges,) int64: the edge that goes back, where requested."""
    triplets: Triplets | None = None
    """Pairs of edges that meet, where requested."""
    links: Links | None = None
    """Longer pairs in the middle of quadruplets, where requested."""
    quadruplets: Quadruplets | None = None
    """Chains of an edge, a link and an edge, where requested."""

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
        with_bonds(system, request.bond_rule), request.reach, skin=skin, bond_rule=request.bond_rule
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
        differentiable: make ``edge_vectors``, and the vectors of links, leaves that require gradients.

    Raises:
        UserError: two atoms coincide, or an atom has fewer than ``n_nearest`` neighbours.
    """
    center, neighbor, shift = neighbors.center, neighbors.neighbor, neighbors.shift
    if system.n_systems == 1:
        offset = shift @ system.cell[0]
    else:
        offset = torch.einsum("ei,eij->ej", shift, system.cell[system.system_index[center]])
    # Grouped so that an edge and the one that goes back have exactly opposite vectors.
    vectors = (system.positions[neighbor] - system.positions[center]) + offset
    squares = vectors.square().sum(dim=1)
    refuse_coincident(system, center, neighbor, squares)

    def within(cutoff: float) -> Tensor:
        return torch.nonzero(squares < cutoff**2)[:, 0]

    chosen = within(request.cutoff)
    if request.n_nearest is not None:
        chosen = _nearest(chosen, center, squares, system, request)
    edges = _Edges(center, neighbor, shift, vectors).at(chosen)
    types = neighbors.edge_types
    edge_types = types if types is None or len(chosen) == len(center) else types[chosen]
    if edge_types is not None and neighbors.bond_rule != request.bond_rule and request.bond_rule is not None:
        # The list was made for several potentials: bonds further apart than this one's rule count for none.
        edge_types = torch.where(edge_types > request.bond_rule.max_separation, 0, edge_types)
    edge_vectors = _leaf(edges.vectors, dtype, differentiable)

    reverse = reverse_edges(edges.center, edges.neighbor, edges.shift) if request.reverse else None
    pairs = None
    if request.triplets is not None:
        pairs = triplets(request.triplets, edges.center, edges.neighbor, edges.shift, system.n_atoms)
    links = chains = None
    if request.link_cutoff is not None:
        far = _Edges(center, neighbor, shift, vectors).at(within(request.link_cutoff))
        chains = quadruplets(
            edges.center, edges.neighbor, edges.shift, far.center, far.neighbor, far.shift, system.n_atoms
        )
        link_vectors = _leaf(far.vectors, dtype, differentiable)
        links = Links(far.center, far.neighbor, link_vectors, torch.linalg.norm(link_vectors, dim=1))
    return Graph(
        atomic_numbers=system.atomic_numbers,
        system_index=system.system_index,
        n_systems=system.n_systems,
        center=edges.center,
        neighbor=edges.neighbor,
        edge_vectors=edge_vectors,
        distances=torch.linalg.norm(edge_vectors, dim=1),
        edge_types=edge_types,
        reverse=reverse,
        triplets=pairs,
        links=links,
        quadruplets=chains,
    )


@dataclass(frozen=True)
class _Edges:
    center: Tensor
    neighbor: Tensor
    shift: Tensor
    vectors: Tensor

    def at(self, chosen: Tensor) -> _Edges:
        if len(chosen) == len(self.center):
            return self
        return _Edges(self.center[chosen], self.neighbor[chosen], self.shift[chosen], self.vectors[chosen])


def _leaf(vectors: Tensor, dtype: torch.dtype | None, differentiable: bool) -> Tensor:
    vectors = vectors.to(dtype or vectors.dtype)
    return vectors.detach().requires_grad_(True) if differentiable else vectors


def _nearest(
    chosen: Tensor, center: Tensor, squares: Tensor, system: System, request: GraphRequest
) -> Tensor:
    """Of the chosen edges those to the ``n_nearest`` nearest of each centre, ties with the last included."""
    k = request.n_nearest
    assert k is not None
    count = torch.bincount(center[chosen], minlength=system.n_atoms)
    if request.nearest_required and system.n_atoms and int(count.min()) < k:
        atom = int(count.argmin())
        index, first = _structure_of(system, atom)
        raise UserError(
            f"atom {atom - first} has {int(count[atom])} neighbours within {request.cutoff:g} Å, "
            f"but the model reads the {k} nearest",
            where=_name(system, index),
            mend="Give a larger cutoff or fewer neighbours; a molecule of n atoms has at most n − 1.",
        )
    distances = squares[chosen].sqrt()
    by_distance = torch.argsort(distances, stable=True)
    order = by_distance[torch.argsort(center[chosen][by_distance], stable=True)]
    begin = torch.cumsum(count, 0) - count
    last = (begin + count.clamp(max=k) - 1).clamp(min=0)
    if len(order) == 0:
        return chosen
    limit = distances[order[last.clamp(max=len(order) - 1)]] + TIE_TOLERANCE_A
    return chosen[distances <= limit[center[chosen]]]


def refuse_coincident(system: System, center: Tensor, neighbor: Tensor, squares: Tensor) -> None:
    """Raise ``UserError`` where two atoms are in one place.

    Args:
        center, neighbor: (n_edges,) atoms of each pair.
        squares: (n_edges,) Å²: their squared distances.
    """
    if len(squares) == 0 or not bool(squares.min() < COINCIDENT_A**2):
        return
    edge = int(squares.argmin())
    i, j = int(center[edge]), int(neighbor[edge])
    index, first = _structure_of(system, i)
    raise UserError(
        f"atoms {i - first} and {j - first} are in one place ({float(squares[edge]) ** 0.5:.1e} Å apart)",
        where=_name(system, index),
        mend="Remove one of them, or relax the structure with a repulsive potential first.",
    )


def _structure_of(system: System, atom: int) -> tuple[int, int]:
    """The structure that an atom belongs to, and that structure's first atom."""
    index = int(system.system_index[atom])
    return index, int(torch.searchsorted(system.system_index, index))


def _name(system: System, index: int) -> str:
    return f"structure {index}" if system.n_systems > 1 else "the structure"
