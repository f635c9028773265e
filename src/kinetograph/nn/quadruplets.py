"""Angles and dihedral angles of quadruplets c → a — b ← d, as GemNet-Q sees them.

A dihedral angle is taken between 0 and π, as GemNet's authors do. In that form |sin φ| has a kink where four
atoms lie in a plane, and φ does not exist where a, b and d lie on a line. Ours: ``folded`` rounds the kink
off within ``PLANAR`` of the plane, and ``faded`` lets the direction of the rejected vector of d fade out
within ``COLLINEAR`` of the line, so that forces are continuous and their derivatives finite everywhere.
Planes and lines are no rarity: images of one atom in a periodic cell lie on them exactly, and what rounding
makes of such a direction must not matter. Beyond these thousandths, and exactly in a plane, the form is the
published one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.graph import Graph
from kinetograph.nn.efficient import NeighborSum, real_harmonics

COLLINEAR = 1e-3
"""Sine of the angle abd below which the direction of the rejected vector fades out."""
PLANAR = 1e-3
"""Height of c over the plane of a, b and d, at one unit from a, below which the kink is rounded off."""


@dataclass(frozen=True)
class Arms:
    """The chains a — b ← d of a graph, each once for all its c, and how the edges ca see them."""

    link: Tensor
    """(n_arms,) the link ab."""
    source: Tensor
    """(n_arms,) the edge db."""
    cosine: Tensor
    """(n_arms,) of the angle abd."""
    sum: NeighborSum
    """Over b and d, of values at arms, with the real harmonics of ∠cab and ∠cabd."""


def arms_of(graph: Graph, units: Tensor, n_spherical: int) -> Arms:
    """The arms of a graph with links and quadruplets.

    Args:
        units: (n_edges, 3) from centre to neighbour.
        n_spherical: degrees l of the harmonics.
    """
    links, chains = graph.links, graph.quadruplets
    assert links is not None
    assert chains is not None
    arm, arm_of = torch.unique(chains.link * graph.n_edges + chains.source, return_inverse=True)
    link, source = arm // max(graph.n_edges, 1), arm % max(graph.n_edges, 1)

    # A frame at every arm: z along ab, x along the part of bd that is normal to it (its rejected vector).
    ab = (links.vectors / links.distances.unsqueeze(1)).index_select(0, link)
    bd = units.index_select(0, source)
    along = (ab * bd).sum(dim=1, keepdim=True)
    rejected = faded(bd - along * ab)
    frame = torch.stack([rejected, torch.linalg.cross(ab, rejected), ab], dim=1)

    # sin θ cos φ, sin θ sin φ and cos θ of ac in it, θ = ∠cab and φ = ∠cabd, of which 0 … π is taken.
    ac = units.index_select(0, chains.target)
    x, y, z = (frame[arm_of] * ac.unsqueeze(1)).sum(dim=2).unbind(dim=1)
    harmonics = real_harmonics(x, folded(y), z, n_spherical)
    return Arms(
        link=link,
        source=source,
        cosine=-along[:, 0],  # between ba and bd
        sum=NeighborSum(harmonics, chains.target, arm_of, graph.n_edges),
    )


def faded(vectors: Tensor) -> Tensor:
    """(n, 3) → (n, 3): v/|v|; below |v| = COLLINEAR its length s³(5 − 3s²)/2, s = |v|/COLLINEAR.

    Once continuously differentiable where the two meet, and zero with its slope at zero.
    """
    square = vectors.square().sum(dim=1, keepdim=True)
    q = square / COLLINEAR**2
    near = q * (2.5 - 1.5 * q) / COLLINEAR
    return vectors * torch.where(q < 1.0, near, torch.rsqrt(square.clamp(min=COLLINEAR**2)))


def folded(y: Tensor) -> Tensor:
    """|y|; below PLANAR y²(2 PLANAR − |y|)/PLANAR², which joins it smoothly and has no kink at zero."""
    size = y.abs()
    return torch.where(size < PLANAR, y.square() * (2.0 * PLANAR - size) / PLANAR**2, size)
