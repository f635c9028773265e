"""``GraphRequest``: what a model needs. ``Graph``: edges, vectors, distances, and what meets at an atom."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NoReturn

import torch
from torch import Tensor

from kinetograph import kernels
from kinetograph.bonds import BondRule, with_bonds
from kinetograph.errors import UserError
from kinetograph.kernels.edges import edges_that_go_back, edges_within, nearest_edges
from kinetograph.neighbors import NeighborList
from kinetograph.space import SpaceOrder
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
    order: SpaceOrder | None = None,
) -> Graph:
    """Edges of the list that lie within the request's cutoff, with their vectors and distances.

    Vectors are formed in the type of the positions and only then rounded to ``dtype``, so that a
    single-precision model sees single-precision *distances* even far from the origin.

    Args:
        differentiable: make ``edge_vectors``, and the vectors of links, leaves that require gradients.
        order: in which the atoms stand in the graph, for requests of edges within a cutoff and no more; those
            of an atom keep their own order.

    Raises:
        UserError: two atoms coincide, or an atom has fewer than ``n_nearest`` neighbours.
    """
    dtype = dtype or system.dtype
    if order is not None and (request.n_nearest is not None or request != request.edges_only()):
        raise ValueError("only edges within a cutoff can be had in an order of their own")
    if request.n_nearest is None:
        edges = _within(system, neighbors, request.cutoff, dtype, order)
    else:  # who is nearest is decided by the distances before rounding
        edges = _within(system, neighbors, request.cutoff, system.dtype)
        edges = edges.at(_nearest(edges, system, request)).to(dtype)
    edge_types = None if request.bond_rule is None else neighbors.edge_types
    if edge_types is not None and request.bond_rule is not None:
        edge_types = edge_types[edges.place]
        if neighbors.bond_rule != request.bond_rule:
            # The list was made for several potentials: bonds beyond this one's rule count for none.
            edge_types = torch.where(edge_types > request.bond_rule.max_separation, 0, edge_types)

    reverse = pairs = links = chains = None
    if request.reverse or request.triplets is not None or request.link_cutoff is not None:
        shift = neighbors.shift[edges.place]
        if request.reverse:
            native = kernels.library() if edges.center.device.type == "cpu" else None
            if native is None:
                reverse = reverse_edges(edges.center, edges.neighbor, shift)
            else:
                reverse = edges_that_go_back(native, edges.center, edges.neighbor, system.n_atoms)
        if request.triplets is not None:
            pairs = triplets(request.triplets, edges.center, edges.neighbor, shift, system.n_atoms)
        if request.link_cutoff is not None:
            far = _within(system, neighbors, request.link_cutoff, dtype)
            chains = quadruplets(
                *(edges.center, edges.neighbor, shift),
                *(far.center, far.neighbor, neighbors.shift[far.place]),
                system.n_atoms,
            )
            links = Links(far.center, far.neighbor, *_leaf(far, differentiable))
    edge_vectors, distances = _leaf(edges, differentiable)
    return Graph(
        atomic_numbers=system.atomic_numbers if order is None else system.atomic_numbers[order.order],
        system_index=system.system_index,
        n_systems=system.n_systems,
        center=edges.center,
        neighbor=edges.neighbor,
        edge_vectors=edge_vectors,
        distances=distances,
        edge_types=edge_types,
        reverse=reverse,
        triplets=pairs,
        links=links,
        quadruplets=chains,
    )


@dataclass(frozen=True)
class _Edges:
    """Edges of a list that are shorter than some cutoff."""

    place: Tensor
    """(n,) int64: their places in the list."""
    center: Tensor
    neighbor: Tensor
    vectors: Tensor
    distances: Tensor

    def at(self, chosen: Tensor) -> _Edges:
        return _Edges(*(getattr(self, item.name)[chosen] for item in fields(self)))

    def to(self, dtype: torch.dtype) -> _Edges:
        if dtype == self.vectors.dtype:
            return self
        vectors = self.vectors.to(dtype)
        return replace(self, vectors=vectors, distances=torch.linalg.norm(vectors, dim=1))


def _within(
    system: System,
    neighbors: NeighborList,
    cutoff: float,
    dtype: torch.dtype,
    order: SpaceOrder | None = None,
) -> _Edges:
    """The edges shorter than a cutoff; raises ``UserError`` where two atoms of the list coincide."""
    native = kernels.library()
    followed = system.positions.requires_grad or system.cell.requires_grad  # an energy of whole structures
    double = system.dtype == neighbors.shift.dtype == torch.float64
    if native is not None and double and not followed and system.device.type == "cpu":
        found = edges_within(
            native,
            *(neighbors.center, neighbors.neighbor, neighbors.shift),
            *(system.positions, system.cell),
            None if system.n_systems == 1 else system.system_index,
            cutoff,
            dtype,
            None if order is None else (order.order, order.place, order.first),
        )
        if found.shortest < COINCIDENT_A**2:
            edge = found.shortest_edge
            raise_coincident(
                system, int(neighbors.center[edge]), int(neighbors.neighbor[edge]), found.shortest
            )
        return _Edges(found.place, found.center, found.neighbor, found.vectors, found.distances)
    center, neighbor, shift = neighbors.center, neighbors.neighbor, neighbors.shift
    if system.n_systems == 1:
        offset = shift @ system.cell[0]
    else:
        offset = torch.einsum("ei,eij->ej", shift, system.cell[system.system_index[center]])
    # Grouped so that an edge and the one that goes back have exactly opposite vectors.
    vectors = (system.positions[neighbor] - system.positions[center]) + offset
    squares = vectors.square().sum(dim=1)
    refuse_coincident(system, center, neighbor, squares)
    place = torch.nonzero(squares < cutoff**2)[:, 0]
    if order is not None:
        place = place[torch.argsort(order.place[center[place]], stable=True)]
        center, neighbor = order.place[center], order.place[neighbor]
    vectors = vectors[place].to(dtype)
    return _Edges(place, center[place], neighbor[place], vectors, torch.linalg.norm(vectors, dim=1))


def _leaf(edges: _Edges, differentiable: bool) -> tuple[Tensor, Tensor]:
    """Vectors, as leaves that require gradients where asked, and their lengths."""
    if not differentiable:
        return edges.vectors, edges.distances
    vectors = edges.vectors.detach().requires_grad_(True)
    return vectors, torch.linalg.norm(vectors, dim=1)


def _nearest(edges: _Edges, system: System, request: GraphRequest) -> Tensor:
    """Which edges go to the ``n_nearest`` nearest neighbours of their centre, ties with the last included."""
    k = request.n_nearest
    assert k is not None
    count = torch.bincount(edges.center, minlength=system.n_atoms)
    if request.nearest_required and system.n_atoms and int(count.min()) < k:
        atom = int(count.argmin())
        index, first = _structure_of(system, atom)
        raise UserError(
            f"atom {atom - first} has {int(count[atom])} neighbours within {request.cutoff:g} Å, "
            f"but the model reads the {k} nearest",
            where=_name(system, index),
            mend="Train with a larger model.cutoff_A, a smaller model.options.n_neighbors, or with "
            "model.options.nearest_required: false, which takes those there are; a molecule of n atoms has "
            "at most n − 1.",
        )
    native = kernels.library()
    if native is not None and edges.distances.dtype == torch.float64 and edges.distances.device.type == "cpu":
        return nearest_edges(
            native, edges.center.contiguous(), edges.distances.detach().contiguous(), k, TIE_TOLERANCE_A
        )
    by_distance = torch.argsort(edges.distances, stable=True)
    order = by_distance[torch.argsort(edges.center[by_distance], stable=True)]
    begin = torch.cumsum(count, 0) - count
    last = (begin + count.clamp(max=k) - 1).clamp(min=0)
    if len(order) == 0:
        return order
    limit = edges.distances[order[last.clamp(max=len(order) - 1)]] + TIE_TOLERANCE_A
    return torch.nonzero(edges.distances <= limit[edges.center])[:, 0]


def refuse_coincident(system: System, center: Tensor, neighbor: Tensor, squares: Tensor) -> None:
    """Raise ``UserError`` where two atoms are in one place.

    Args:
        center, neighbor: (n_edges,) atoms of each pair.
        squares: (n_edges,) Å²: their squared distances.
    """
    if len(squares) == 0 or not bool(squares.min() < COINCIDENT_A**2):
        return
    edge = int(squares.argmin())
    raise_coincident(system, int(center[edge]), int(neighbor[edge]), float(squares[edge]))


def raise_coincident(system: System, i: int, j: int, square: float) -> NoReturn:
    """Say that two atoms are in one place; ``square`` is their squared distance, Å²."""
    index, first = _structure_of(system, i)
    raise UserError(
        f"atoms {i - first} and {j - first} are in one place ({square**0.5:.1e} Å apart)",
        where=_name(system, index),
        mend="Remove one of them, or relax the structure with a repulsive potential first.",
    )


def _structure_of(system: System, atom: int) -> tuple[int, int]:
    """The structure that an atom belongs to, and that structure's first atom."""
    index = int(system.system_index[atom])
    return index, int(torch.searchsorted(system.system_index, index))


def _name(system: System, index: int) -> str:
    return f"structure {index}" if system.n_systems > 1 else "the structure"
