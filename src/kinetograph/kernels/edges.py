"""Edges in compiled code: pairs within reach, those within a cutoff, ways back, forces from their slopes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.kernels.native import Library, require
from kinetograph.kernels.operators.edges import first_edges


def pairs_within(
    library: Library, positions: Tensor, cells: Tensor, pbc: Tensor, counts: Tensor, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Directed edges closer than ``reach``: centre, neighbour and shift, sorted by these.

    Args:
        positions: (n_atoms, 3) float64, finite.
        cells: (n_systems, 3, 3) float64, with vectors also along directions that are not periodic.
        pbc: (n_systems, 3) bool.
        counts: (n_systems,) int64: atoms of each structure.
    """
    require(torch.float64, positions, cells)
    require(torch.bool, pbc)
    require(torch.int64, counts)
    positions, cells = positions.contiguous(), cells.contiguous()
    n_edges = ctypes.c_int64()
    handle = library(
        "kg_neighbors_find",
        len(counts),
        counts.contiguous(),
        positions,
        cells,
        torch.linalg.inv(cells).contiguous(),
        pbc.contiguous(),
        ctypes.byref(ctypes.c_double(reach)),
        ctypes.byref(n_edges),
    )
    if n_edges.value < 0:
        raise MemoryError("no memory for the neighbour list")
    n = n_edges.value
    center = torch.empty(n, dtype=torch.int64)
    neighbor, shift = torch.empty_like(center), torch.empty(n, 3, dtype=torch.float64)
    numbers = library("kg_neighbors_numbers", len(positions), n)
    workspace = torch.empty(numbers, dtype=torch.int64)
    library("kg_neighbors_take", handle, len(positions), workspace, center, neighbor, shift)
    return center, neighbor, shift


class _Order(ctypes.Structure):
    _fields_ = [
        ("n_atoms", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("order", "place", "first")),
    ]


@dataclass(frozen=True)
class ChosenEdges:
    """The edges of a list that lie within a cutoff, and the shortest of all."""

    place: Tensor
    """(n,) int64: their places in the list."""
    center: Tensor
    neighbor: Tensor
    vectors: Tensor
    """(n, 3) Å, formed in double precision and then rounded."""
    distances: Tensor
    """(n,) Å, of the rounded vectors."""
    shortest: float
    """Å² of the shortest edge of the list."""
    shortest_edge: int


@dataclass(frozen=True)
class ListedEdges:
    """Edges of a neighbour list, some of them beyond the cutoff."""

    center: Tensor
    """(n_edges,) int64, ascending."""
    neighbor: Tensor
    shift: Tensor
    """(n_edges, 3) float64."""
    types: Tensor | None
    """(n_edges,) int64; ``None``: all of the first type."""
    positions: Tensor
    """(n_atoms, 3) float64 Å."""
    cells: Tensor
    """(n_systems, 3, 3) float64 Å."""
    system_index: Tensor | None
    """(n_atoms,) int64; ``None``: a single structure."""
    order: tuple[Tensor, Tensor, Tensor] | None
    """The atom at each place, the place of each atom, and where each atom's edges begin (n_atoms + 1,)."""


def edges_within(
    library: Library,
    center: Tensor,
    neighbor: Tensor,
    shift: Tensor,
    positions: Tensor,
    cells: Tensor,
    system_index: Tensor | None,
    cutoff: float,
    dtype: torch.dtype,
    order: tuple[Tensor, Tensor, Tensor] | None = None,
) -> ChosenEdges:
    """The edges of a list that are shorter than the cutoff.

    Args:
        center, neighbor: (n_edges,) int64.
        shift: (n_edges, 3) float64.
        positions: (n_atoms, 3) float64.
        cells: (n_systems, 3, 3) float64.
        system_index: (n_atoms,) int64; ``None``: a single structure.
        dtype: float32 or float64, of the result.
        order: the atom at each place, the place of each atom, (n_atoms,) each, and the first edge of each
            atom, (n_atoms + 1,): centres, neighbours and the order of edges are those of the places.
    """
    require(torch.float64, shift, positions, cells)
    require(torch.int64, center, neighbor, system_index, *(order or ()))
    native = None
    if order is not None:
        if [len(x) for x in order] != [len(positions), len(positions), len(positions) + 1]:
            raise ValueError("the order is not of these atoms")
        order = (order[0].contiguous(), order[1].contiguous(), order[2].contiguous())
        native = _Order(len(positions), *(x.data_ptr() for x in order))
    n_edges = len(center)
    whole = torch.empty(3, n_edges + 1, dtype=torch.int64)
    vectors, distances = torch.empty(n_edges + 1, 3, dtype=dtype), torch.empty(n_edges + 1, dtype=dtype)
    shortest, shortest_edge = ctypes.c_double(), ctypes.c_int64()
    n = library(
        "kg_edges_within_float" if dtype == torch.float32 else "kg_edges_within_double",
        n_edges,
        *(center, neighbor, shift, positions.contiguous(), cells.contiguous()),
        system_index,
        ctypes.byref(ctypes.c_double(cutoff)),
        None if native is None else ctypes.byref(native),
        *whole,
        vectors,
        distances,
        ctypes.byref(shortest),
        ctypes.byref(shortest_edge),
    )
    place, new_center, new_neighbor = whole[:, :n]
    return ChosenEdges(
        place, new_center, new_neighbor, vectors[:n], distances[:n], shortest.value, shortest_edge.value
    )


def nearest_edges(library: Library, center: Tensor, distances: Tensor, k: int, tolerance: float) -> Tensor:
    """(n,) int64: the edges to the k nearest neighbours of each centre, and to those tied with the last.

    Args:
        center: (n_edges,) int64, ascending.
        distances: (n_edges,) float64 Å.
        k: at least 1; a centre with fewer neighbours keeps them all.
        tolerance: Å: who is no farther than the k-th by more than this is tied with it.
    """
    require(torch.int64, center)
    require(torch.float64, distances)
    n_edges = len(center)
    chosen = torch.empty(n_edges + 1, dtype=torch.int64)
    n = library(
        "kg_nearest_edges",
        *(n_edges, center, distances, k),
        ctypes.byref(ctypes.c_double(tolerance)),
        *(chosen, torch.empty(k, dtype=torch.float64)),
    )
    return chosen[:n]


def edges_that_go_back(library: Library, center: Tensor, neighbor: Tensor, n_atoms: int) -> Tensor:
    """(n_edges,) for each edge the one that goes back, which must be there.

    Args:
        center, neighbor: (n_edges,) int64, sorted by centre, neighbour and shift.
    """
    require(torch.int64, center, neighbor)
    first = first_edges(center, n_atoms)
    reverse = torch.empty_like(center)
    library("kg_reverse_edges", n_atoms, first, neighbor.contiguous(), torch.empty_like(first), reverse)
    return reverse


def forces_from_slopes(
    library: Library,
    center: Tensor,
    neighbor: Tensor,
    slopes: Tensor,
    vectors: Tensor,
    n_atoms: int,
    n_systems: int,
    system_index: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Forces (n_atoms, 3) and virials (n_systems, 3, 3), in double precision, from dE/d(edge vector).

    Args:
        slopes, vectors: (n_edges, 3) float32.
        system_index: (n_atoms,) int64; ``None``: a single structure.
    """
    require(torch.float32, slopes, vectors)
    require(torch.int64, center, neighbor, system_index)
    forces = torch.zeros(n_atoms, 3, dtype=torch.float64)
    virial = torch.zeros(n_systems, 3, 3, dtype=torch.float64)
    library(
        "kg_forces_from_slopes",
        len(center),
        *(center, neighbor, slopes.contiguous(), vectors.contiguous(), system_index, forces, virial),
    )
    return forces, virial
