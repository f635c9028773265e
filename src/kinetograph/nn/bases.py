"""Edges as ForceNet and its GNS baseline see them, and the six bases that ForceNet compares.

Hu et al., arXiv:2103.01436. An edge from source s to target t is e = [n ; p/c]: a unit vector and four
lengths over the cutoff, p = (d, d − a_s, d − a_t, d − a_s − a_t) with the atomic radii a. A basis B
spreads each number over J functions:

===============  =====================================================================================
``"none"``       B(e) = e, and what reads it does so without a linear map F_b in between
``"identity"``   B(e) = e
``"linear"``     an activation of a linear map, as wide as the bases below
``"gaussian"``   exp(−(x − μ_j)² / 2σ²), μ_j = j/(J − 1), σ = 1/(J − 1)
``"sine"``       sin(1.1^j x)
``"spherical"``  Y(n) ⊗ R(p/c): spherical harmonics below degree three, times S = 4 linear
                 combinations of the sines of the lengths
===============  =====================================================================================

j runs from 0 to J − 1 = 49. Components of n reach from −1 to 1, so that the Gaussians, which stand on
0 … 1, are given (n + 1)/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.nn.radial import GaussianBasis

BasisKind = Literal["none", "identity", "linear", "gaussian", "sine", "spherical"]
BASES = ("none", "identity", "linear", "gaussian", "sine", "spherical")

N_FUNCTIONS = 50
"""J."""
SINE_RATIO = 1.1
N_HARMONICS = 9
"""Real and imaginary parts below degree three, for orders m ≥ 0."""


def edge_inputs(
    graph: Graph,
    radii: Tensor | None,
    *,
    cutoff: float,
    sign: float = -1.0,
    directions: bool = True,
    floor: float | None = None,
) -> Tensor:
    """e = [n ; p/c] of every edge, (n_edges, 7) dimensionless.

    Args:
        radii: (n_atoms,) Å; ``None``: p = (d) alone.
        sign: −1: n points from source to target, as the paper has it; 1: the other way.
        directions: whether n is there.
        floor: the least value of p/c, where there is one.
    """
    d = graph.distances
    if radii is None:
        lengths = d.unsqueeze(1)
    else:
        source, target = radii.index_select(0, graph.neighbor), radii.index_select(0, graph.center)
        lengths = torch.stack([d, d - source, d - target, d - source - target], dim=1)
    lengths = lengths / cutoff
    if floor is not None:
        lengths = lengths.clamp(min=floor)
    return torch.cat([sign * graph.unit_vectors, lengths], dim=1) if directions else lengths


class IdentityBasis(nn.Module):
    """B(x) = x."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.n_outputs = n_inputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_inputs) → the same."""
        return x


class LinearBasis(nn.Module):
    """An activation of a linear map to J features per input."""

    def __init__(self, n_inputs: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.n_outputs = n_inputs * N_FUNCTIONS
        self.linear = nn.Linear(n_inputs, self.n_outputs)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_inputs) → (n, n_inputs · J)."""
        spread: Tensor = self.activation(self.linear(x))
        return spread


class UnitGaussians(nn.Module):
    """Every input in J Gaussians on 0 … 1; function-major, as in :class:`SineBasis`."""

    def __init__(self, n_inputs: int, directed: bool) -> None:
        super().__init__()
        self.n_outputs = n_inputs * N_FUNCTIONS
        self.directed = directed
        self.gaussians = GaussianBasis(0.0, 1.0, N_FUNCTIONS)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_inputs) → (n, n_inputs · J)."""
        if self.directed:
            x = torch.cat([0.5 * (x[:, :3] + 1.0), x[:, 3:]], dim=1)
        # The width is told, not inferred: a graph may have no edges.
        spread: Tensor = self.gaussians(x.flatten()).view(len(x), x.shape[1], N_FUNCTIONS)
        return spread.transpose(1, 2).reshape(len(x), self.n_outputs)


class SineBasis(nn.Module):
    """sin(1.1^j x_f) at place j · n_inputs + f."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.n_outputs = n_inputs * N_FUNCTIONS

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_inputs) → (n, n_inputs · J)."""
        exponents = torch.arange(N_FUNCTIONS, dtype=torch.float64, device=x.device)
        frequencies = torch.pow(SINE_RATIO, exponents).to(x.dtype)
        return torch.sin(frequencies[:, None] * x[:, None, :]).reshape(len(x), self.n_outputs)


class SphericalBasis(nn.Module):
    """Y(n) ⊗ R: harmonic h and radial feature s at place h · S + s. Without directions, R alone.

    Args:
        n_lengths: columns after the three of the direction.
        directed: whether the direction is there.
    """

    N_RADIAL = 4
    """S."""

    def __init__(self, n_lengths: int, directed: bool) -> None:
        super().__init__()
        self.directed = directed
        self.sines = SineBasis(n_lengths)
        self.radial = nn.Linear(self.sines.n_outputs, self.N_RADIAL)  # W_rad, b_rad
        self.n_outputs = self.N_RADIAL * (N_HARMONICS if directed else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3 + n_lengths) → (n, n_outputs)."""
        if not self.directed:
            radial: Tensor = self.radial(self.sines(x))
            return radial
        radial = self.radial(self.sines(x[:, 3:]))
        products = low_harmonics(x[:, :3]).unsqueeze(2) * radial.unsqueeze(1)
        return products.reshape(len(x), self.n_outputs)


def low_harmonics(units: Tensor) -> Tensor:
    """(n, 9): Y_lm below degree three of unit vectors, in closed form and thus without angles.

    Complex harmonics with the Condon-Shortley phase, polar axis z, orders m ≥ 0: first m = 0 for
    l = 0, 1, 2, then the real parts of (l, m) = (1, 1), (2, 1), (2, 2), then their imaginary parts.
    """
    x, y, z = units.unbind(dim=1)
    a, b = -math.sqrt(3.0 / (8.0 * math.pi)), -math.sqrt(15.0 / (8.0 * math.pi))
    c = math.sqrt(15.0 / (32.0 * math.pi))
    return torch.stack(
        [
            torch.full_like(z, math.sqrt(1.0 / (4.0 * math.pi))),
            math.sqrt(3.0 / (4.0 * math.pi)) * z,
            math.sqrt(5.0 / (16.0 * math.pi)) * (3.0 * z * z - 1.0),
            a * x,
            b * x * z,
            c * (x * x - y * y),
            a * y,
            b * y * z,
            2.0 * c * x * y,
        ],
        dim=1,
    )


Basis = IdentityBasis | LinearBasis | UnitGaussians | SineBasis | SphericalBasis


def make_basis(
    kind: BasisKind, n_inputs: int, activation: Callable[[], nn.Module], *, directed: bool, edge: bool = True
) -> Basis:
    """A basis for so many numbers.

    Args:
        directed: whether the first three of them are a unit vector.
        edge: whether they describe an edge; the properties of an atom have no direction, and take
            sines where the edges take harmonics.
    """
    if kind == "spherical" and edge:
        return SphericalBasis(n_inputs - 3 * directed, directed)
    if kind in ("sine", "spherical"):
        return SineBasis(n_inputs)
    if kind == "gaussian":
        return UnitGaussians(n_inputs, directed)
    if kind == "linear":
        return LinearBasis(n_inputs, activation)
    return IdentityBasis(n_inputs)
