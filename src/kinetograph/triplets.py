"""Which edges meet: the index work behind angles and dihedrals. Whole numbers only, no geometry.

Edges are sorted by centre. An edge e goes from its centre i to an image of its neighbour j.

=========  ==========================================================================================
kind       pairs (first, second) of edges
=========  ==========================================================================================
``fork``   two different edges of one centre: j ← i → k
``path``   i → j and then j → k, where k is not the image of i that one came from
``walk``   the same with the way back, k = i, included
=========  ==========================================================================================

"Different" and "the same" are meant of *images*: in a cell smaller than the cutoff two images of one atom
are two neighbours, and an angle may well lie between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kinetograph.kernels.operators.edges import first_edges

TripletKind = Literal["fork", "path", "walk"]


@dataclass(frozen=True)
class Triplets:
    """Pairs of edges that meet, sorted by ``first``, then ``second``."""

    first: Tensor
    """(n_triplets,) int64, index of an edge."""
    second: Tensor
    """(n_triplets,) int64, index of an edge."""


@dataclass(frozen=True)
class Quadruplets:
    """Chains c → a — b ← d: an edge at each end of a longer link, c, a, b and d all different.

    Sorted by ``target``.
    """

    target: Tensor
    """(n_quadruplets,) int64: the edge with centre a and neighbour c."""
    link: Tensor
    """(n_quadruplets,) int64: the link with centre a and neighbour b."""
    source: Tensor
    """(n_quadruplets,) int64: the edge with centre b and neighbour d."""


def reverse_edges(center: Tensor, neighbor: Tensor, shift: Tensor) -> Tensor:
    """(n_edges,) for each edge the one that goes back; every edge must have one.

    Edges are in the canonical order (centre, neighbour, shift), so sorting their mirror images
    (neighbour, centre, −shift) puts each one in the place of its partner.
    """
    order = torch.arange(len(center), device=center.device)
    for key in (-shift[:, 2], -shift[:, 1], -shift[:, 0], center, neighbor):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def triplets(kind: TripletKind, center: Tensor, neighbor: Tensor, shift: Tensor, n_atoms: int) -> Triplets:
    """All pairs of edges of this kind; shifts are whole numbers of cell vectors."""
    start = first_edges(center, n_atoms)
    meeting = center if kind == "fork" else neighbor
    first, second = _expand(start, meeting)
    if kind == "fork":
        keep = first != second
    elif kind == "path":
        home = (shift[first] + shift[second] == 0).all(1)
        keep = ~(home & (neighbor[second] == center[first]))
    else:
        return Triplets(first, second)
    return Triplets(first[keep], second[keep])


def quadruplets(
    center: Tensor,
    neighbor: Tensor,
    shift: Tensor,
    link_center: Tensor,
    link_neighbor: Tensor,
    link_shift: Tensor,
    n_atoms: int,
) -> Quadruplets:
    """All chains c → a — b ← d of edges over links."""
    start = first_edges(center, n_atoms)
    link, target = _expand(start, link_center)
    same_image = (neighbor[target] == link_neighbor[link]) & (shift[target] == link_shift[link]).all(1)
    link, target = link[~same_image], target[~same_image]  # c ≠ b
    chain, source = _expand(start, link_neighbor[link])
    link, target = link[chain], target[chain]
    to_d = link_shift[link] + shift[source]  # from the cell of a to that of d
    d = neighbor[source]
    is_a = (d == link_center[link]) & (to_d == 0).all(1)
    is_c = (d == neighbor[target]) & (to_d == shift[target]).all(1)
    keep = torch.nonzero(~is_a & ~is_c)[:, 0]
    keep = keep[torch.argsort(target[keep], stable=True)]
    return Quadruplets(target=target[keep], link=link[keep], source=source[keep])


def _expand(start: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """For each entry of ``atoms`` every edge of that centre: (index of the entry, index of the edge)."""
    count = start[atoms + 1] - start[atoms]
    entry = torch.repeat_interleave(torch.arange(len(atoms), device=atoms.device), count)
    before = torch.cumsum(count, 0) - count
    edge = torch.arange(len(entry), device=atoms.device) - before[entry] + start[atoms][entry]
    return entry, edge
