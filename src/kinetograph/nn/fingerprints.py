"""Fingerprints of atomic environments: the symmetry functions of Behler and Parrinello."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.nn.elements import ElementSlots
from kinetograph.nn.radial import cosine_cutoff
from kinetograph.nn.segments import sum_to

TRIPLETS_AT_ONCE = 1 << 20
"""Triplets are worked through in portions of this size, to bound memory."""
DEFAULT_SHORTEST_A = 0.5
"""Å: where the radial functions start until the shortest distance of the training data is known."""


class SymmetryFunctions(nn.Module):
    """G² for each element and G⁴ for each pair of elements among the neighbours of an atom.

    J. Behler, J. Chem. Phys. 134, 074106 (2011), doi:10.1063/1.3553717, with f the cosine cutoff function:

    - G²_i(z) = Σ_j exp[−η (d_ij − R)²] f(d_ij) over neighbours j of element z,
    - G⁴_i(y, z) = 2^(1−ζ) Σ_jk (1 + λ cos θ_jik)^ζ exp[−η′ (d_ij² + d_ik² + d_jk²)] f(d_ij) f(d_ik) f(d_jk)
      over pairs of neighbours of elements y and z, each pair once.

    They are invariant, smooth, and vanish for an isolated atom. Their parameters follow from the cutoff c: R
    runs over an even grid from the shortest distance to below c, and η = 1 / 2Δ² with its spacing Δ; λ = ±1;
    η′ = ½ (2^m / c)² with m = 0, 1, ….

    Args:
        elements: atomic numbers of neighbours that are told apart.
        cutoff: Å.
        n_radial: values of R.
        zetas: values of ζ.
        n_angular: values of η′.
    """

    shortest: Tensor
    """Å: first value of R. Set it to the shortest distance of the training data."""
    pair: Tensor

    def __init__(
        self, elements: Sequence[int], *, cutoff: float, n_radial: int, zetas: Sequence[float], n_angular: int
    ) -> None:
        super().__init__()
        if n_radial < 1 or n_angular < 1 or not zetas or min(zetas) < 1.0:
            raise ValueError(
                "symmetry functions need n_radial ≥ 1, n_angular ≥ 1, and zetas that are all ≥ 1"
            )
        self.slots = ElementSlots(elements)
        self.cutoff = cutoff
        self.n_radial = n_radial
        self.zetas = tuple(float(zeta) for zeta in zetas)
        self.n_angular = n_angular
        self.register_buffer("shortest", torch.tensor(min(DEFAULT_SHORTEST_A, 0.5 * cutoff)))
        n = self.slots.n_elements
        a, b = torch.triu_indices(n, n)
        pair = torch.zeros(n, n, dtype=torch.int64)
        pair[a, b] = pair[b, a] = torch.arange(len(a))
        self.register_buffer("pair", pair, persistent=False)
        self.n_pairs = len(a)
        self.n_features = n * n_radial + self.n_pairs * 2 * len(self.zetas) * n_angular

    def forward(self, graph: Graph) -> Tensor:
        """(n_atoms, n_features): G² by element and R, then G⁴ by pair of elements, λ, ζ and η′.

        The graph holds triplets of the kind ``"fork"``.
        """
        return torch.cat([self._radial(graph), self._angular(graph)], dim=1)

    def _radial(self, graph: Graph) -> Tensor:
        n = self.slots.n_elements
        d = graph.distances.unsqueeze(1)
        spacing = (self.cutoff - self.shortest) / self.n_radial
        centers = self.shortest + spacing * torch.arange(self.n_radial, dtype=d.dtype, device=d.device)
        values = torch.exp(-0.5 * ((d - centers) / spacing).square()) * cosine_cutoff(d, self.cutoff)
        element = self.slots(graph.atomic_numbers)[graph.neighbor]
        return sum_to(graph.center * n + element, values, graph.n_atoms * n).view(graph.n_atoms, -1)

    def _angular(self, graph: Graph) -> Tensor:
        assert graph.triplets is not None
        first, second = graph.triplets.first, graph.triplets.second
        n_rows = graph.n_atoms * self.n_pairs
        total = graph.distances.new_zeros(n_rows, 2 * len(self.zetas) * self.n_angular)
        for begin in range(0, len(first), TRIPLETS_AT_ONCE):
            portion = slice(begin, begin + TRIPLETS_AT_ONCE)
            row, values = self._triplets(graph, first[portion], second[portion])
            total = total.index_add(0, row, values)
        return total.view(graph.n_atoms, -1)

    def _triplets(self, graph: Graph, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that triplets belong to, one for each atom and pair of elements, and their values."""
        to_k = graph.edge_vectors[second] - graph.edge_vectors[first]
        near = torch.nonzero((first < second) & (to_k.square().sum(1) < self.cutoff**2))[:, 0]
        first, second = first[near], second[near]
        d_jk = torch.linalg.norm(to_k[near], dim=1)
        d_ij, d_ik = graph.distances[first], graph.distances[second]

        cosine = (graph.edge_vectors[first] * graph.edge_vectors[second]).sum(1) / (d_ij * d_ik)
        base = 1.0 + torch.stack([cosine, -cosine], dim=1)
        base = base.clamp(min=0.0)  # rounding may take it below
        angular = torch.stack([2.0 ** (1.0 - zeta) * base**zeta for zeta in self.zetas], dim=2)

        m = torch.arange(self.n_angular, dtype=d_ij.dtype, device=d_ij.device)
        eta = 0.5 * (2.0**m / self.cutoff).square()
        squares = d_ij.square() + d_ik.square() + d_jk.square()
        radial = torch.exp(-eta * squares.unsqueeze(1))
        f = cosine_cutoff(torch.stack([d_ij, d_ik, d_jk]), self.cutoff).prod(dim=0)

        element = self.slots(graph.atomic_numbers)[graph.neighbor]
        row = graph.center[first] * self.n_pairs + self.pair[element[first], element[second]]
        values = angular.flatten(1).unsqueeze(2) * (radial * f.unsqueeze(1)).unsqueeze(1)
        return row, values.flatten(1)
