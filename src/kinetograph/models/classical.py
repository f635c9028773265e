"""Classical potentials with closed forms: exact oracles for the engine and for learned models.

Lennard-Jones (Jones 1924) with the truncations that simulation codes use:

=============  ==============================================================================
truncation     pair energy u(r) for r < cutoff
=============  ==============================================================================
``"cut"``      4ε[(σ/r)¹² − (σ/r)⁶]
``"shift"``    the same minus its value at the cutoff: same forces, continuous energy
``"switch"``   the same times S(x), x = (r − r_s)/(r_c − r_s), S = 1 − 6x⁵ + 15x⁴ − 10x³
               for r > r_s (OpenMM's switching function): smooth forces
=============  ==============================================================================
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kinetograph.bonds import BondRule
from kinetograph.graph import Graph, GraphRequest
from kinetograph.potential import EnergyPotential

ARGON_EPSILON_K = 120.0
"""Well depth of argon over Boltzmann's constant, K (Rahman 1964)."""
ARGON_SIGMA_A = 3.4
"""Diameter of argon, Å (Rahman 1964)."""


class LennardJones(EnergyPotential):
    """Lennard-Jones between all atoms, whatever their element.

    Args:
        epsilon: eV.
        sigma: Å.
        cutoff: Å.
        truncation: see the table above.
        switch_start: Å, where the switch begins; needed with ``"switch"``.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        sigma: float,
        cutoff: float,
        truncation: Literal["cut", "shift", "switch"] = "shift",
        switch_start: float | None = None,
    ) -> None:
        super().__init__()
        if truncation == "switch" and not (switch_start is not None and 0.0 < switch_start < cutoff):
            raise ValueError("truncation='switch' needs 0 < switch_start < cutoff")
        self.epsilon = epsilon
        self.sigma = sigma
        self.truncation = truncation
        self.switch_start = switch_start
        self.request = GraphRequest(cutoff=cutoff)

    def pair_energy(self, distances: Tensor) -> Tensor:
        """u(r) in eV, for distances (Å) below the cutoff."""
        attraction = (self.sigma / distances) ** 6
        energy = 4.0 * self.epsilon * (attraction * attraction - attraction)
        cutoff = self.request.cutoff
        if self.truncation == "shift":
            at_cutoff = (self.sigma / cutoff) ** 6
            energy = energy - 4.0 * self.epsilon * (at_cutoff * at_cutoff - at_cutoff)
        elif self.truncation == "switch":
            assert self.switch_start is not None
            x = ((distances - self.switch_start) / (cutoff - self.switch_start)).clamp(min=0.0)
            energy = energy * (1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x)))
        return energy

    def graph_energies(self, graph: Graph) -> Tensor:
        half = 0.5 * self.pair_energy(graph.distances)
        return torch.zeros(graph.n_atoms, dtype=half.dtype, device=half.device).index_add(
            0, graph.center, half
        )


class Harmonic(EnergyPotential):
    """A harmonic spring on every bonded pair: ½ k (r − r₀)².

    Args:
        stiffness: k in eV/Å².
        length: r₀ in Å.
        cutoff: Å: bonds never grow beyond it.
    """

    def __init__(self, *, stiffness: float, length: float, cutoff: float) -> None:
        super().__init__()
        self.stiffness = stiffness
        self.length = length
        self.request = GraphRequest(cutoff=cutoff, bond_rule=BondRule(max_separation=1))

    def graph_energies(self, graph: Graph) -> Tensor:
        assert graph.edge_types is not None
        bonded = graph.edge_types == 1
        pair = 0.5 * self.stiffness * (graph.distances - self.length) ** 2
        half = torch.where(bonded, 0.5 * pair, 0.0)
        return half.new_zeros(graph.n_atoms).index_add(0, graph.center, half)
