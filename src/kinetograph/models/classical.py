"""Classical potentials with closed forms: exact oracles for the engine and for learned models.

Lennard-Jones (Jones 1924) and Morse (Morse 1929) with the truncations that simulation codes use, written
for the former:

=============  ==============================================================================
truncation     pair energy u(r) for r < cutoff
=============  ==============================================================================
``"cut"``      4ε[(σ/r)¹² − (σ/r)⁶]
``"shift"``    the same minus its value at the cutoff: same forces, continuous energy
``"switch"``   the same times S(x), x = (r − r_s)/(r_c − r_s), S = 1 − 6x⁵ + 15x⁴ − 10x³
               for r > r_s (OpenMM's switching function): smooth forces
=============  ==============================================================================

Harmonic springs on bonds; and the universal repulsion of bare nuclei by Ziegler, Biersack and Littmark, as
a core for learned models, which have never seen atoms collide.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor

from kinetograph.bonds import BondRule
from kinetograph.errors import UserError
from kinetograph.graph import COINCIDENT_A, Graph, GraphRequest, raise_coincident
from kinetograph.kernels import library
from kinetograph.kernels.pairs import lennard_jones
from kinetograph.neighbors import NeighborList
from kinetograph.nn.elements import MAX_ATOMIC_NUMBER
from kinetograph.nn.segments import sum_to
from kinetograph.potential import EnergyPotential, PairEnergyPotential, Prediction, stress_of
from kinetograph.system import System

Truncation = Literal["cut", "shift", "switch"]

ARGON_EPSILON_K = 120.0
"""Well depth of argon over Boltzmann's constant, K (Rahman 1964)."""
ARGON_SIGMA_A = 3.4
"""Diameter of argon, Å (Rahman 1964)."""

COULOMB_EV_A = 14.399645478
"""e²/(4πε₀) in eV Å (CODATA 2018)."""


class PairPotential(PairEnergyPotential):
    """An energy u(r) between all atoms, whatever their element, cut off in one of the ways above.

    Args:
        cutoff: Å.
        truncation: see the table above.
        switch_start: Å, where the switch begins; needed with ``"switch"``.
    """

    def __init__(self, *, cutoff: float, truncation: Truncation, switch_start: float | None) -> None:
        super().__init__()
        if truncation == "switch" and not (switch_start is not None and 0.0 < switch_start < cutoff):
            raise ValueError("truncation='switch' needs 0 < switch_start < cutoff")
        self.truncation = truncation
        self.switch_start = switch_start
        self.request = GraphRequest(cutoff=cutoff)

    @abstractmethod
    def whole_energy(self, distances: Tensor) -> Tensor:
        """u(r) in eV before it is cut off, for distances in Å."""

    def pair_energy(self, distances: Tensor) -> Tensor:
        """u(r) in eV, for distances (Å) below the cutoff."""
        energy = self.whole_energy(distances)
        cutoff = self.request.cutoff
        if self.truncation == "shift":
            energy = energy - self.whole_energy(distances.new_tensor(cutoff))
        elif self.truncation == "switch":
            assert self.switch_start is not None
            x = ((distances - self.switch_start) / (cutoff - self.switch_start)).clamp(min=0.0)
            energy = energy * (1.0 + x**3 * (-10.0 + x * (15.0 - 6.0 * x)))
        return energy


class LennardJones(PairPotential):
    """Lennard-Jones: 4ε [(σ/r)¹² − (σ/r)⁶].

    Args:
        epsilon: eV.
        sigma: Å.
        cutoff, truncation, switch_start: see :class:`PairPotential`.
    """

    def __init__(
        self,
        *,
        epsilon: float,
        sigma: float,
        cutoff: float,
        truncation: Truncation = "shift",
        switch_start: float | None = None,
    ) -> None:
        super().__init__(cutoff=cutoff, truncation=truncation, switch_start=switch_start)
        self.epsilon = epsilon
        self.sigma = sigma
        self.energy_at_cutoff = float(self.whole_energy(torch.tensor(cutoff, dtype=torch.float64)))

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        native = library()
        if native is None or system.device.type != "cpu" or system.dtype != torch.float64:
            return super().forward(system, neighbors)
        first, second, shift = neighbors.half
        sums = lennard_jones(
            native,
            *(first, second, shift, system.positions, system.cell),
            None if system.n_systems == 1 else system.system_index,
            epsilon=self.epsilon,
            sigma=self.sigma,
            cutoff=self.request.cutoff,
            taken_off=self.energy_at_cutoff if self.truncation == "shift" else 0.0,
            switch_start=self.switch_start if self.truncation == "switch" else None,
        )
        if sums.shortest < COINCIDENT_A**2:
            pair = sums.shortest_pair
            raise_coincident(system, int(first[pair]), int(second[pair]), sums.shortest)
        return Prediction(
            forces=sums.forces,
            conservative=True,
            energy=sum_to(system.system_index, sums.energies, system.n_systems),
            atomic_energies=sums.energies,
            stress=stress_of(sums.virial, system),
        )

    def whole_energy(self, distances: Tensor) -> Tensor:
        attraction = (self.sigma / distances).square() ** 3  # squares and cubes have the same bits anywhere
        return 4.0 * self.epsilon * (attraction * attraction - attraction)


class Morse(PairPotential):
    """Morse: D [(1 − exp(−a (r − r₀)))² − 1].

    Args:
        depth: D in eV.
        steepness: a in 1/Å.
        length: r₀ in Å.
        cutoff, truncation, switch_start: see :class:`PairPotential`.
    """

    def __init__(
        self,
        *,
        depth: float,
        steepness: float,
        length: float,
        cutoff: float,
        truncation: Truncation = "shift",
        switch_start: float | None = None,
    ) -> None:
        super().__init__(cutoff=cutoff, truncation=truncation, switch_start=switch_start)
        self.depth = depth
        self.steepness = steepness
        self.length = length

    def whole_energy(self, distances: Tensor) -> Tensor:
        decay = torch.exp(-self.steepness * (distances - self.length))
        return self.depth * decay * (decay - 2.0)


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
        return sum_to(graph.center, half, graph.n_atoms)


class ZBL(EnergyPotential):
    """Repulsion of two nuclei behind their electrons, for distances far below a bond.

    J. F. Ziegler, J. P. Biersack, U. Littmark, *The Stopping and Range of Ions in Matter* (Pergamon,
    1985), with the constants and the switch of LAMMPS's ``pair_style zbl``:

        u(r) = k Zᵢ Zⱼ φ(r/a) / r + S(r),   a = 0.4685 Å / (Zᵢ^0.23 + Zⱼ^0.23),   φ(x) = Σ c exp(−d x)

    S(r) is a constant below ``inner`` and that constant plus a cubic and a quartic in r − ``inner``
    above, such that u, u' and u'' are zero at ``outer``; there is no interaction beyond.

    Where no radii are given every pair has its own: ``outer`` is ``bond_fraction`` times the sum of the
    covalent radii (Cordero et al. 2008), ``inner`` half of it. With 0.65 the core ends at 0.63 Å for O-H and
    0.99 Å for C-C. Bonds are longer, and stay so when heat shakes them: the N₂ molecule has 0.77 of that
    sum, the uranyl ion 0.67; the dimers of chromium and molybdenum alone have less. So the core leaves
    alone the structures that models are trained on.

    Args:
        inner: Å, one radius for all pairs; needs ``outer``.
        outer: Å, one radius for all pairs.
        bond_fraction: dimensionless; of no effect where ``outer`` is given.
    """

    LENGTH_A = 0.4685
    """a₀: the screening length of two protons is half of it."""
    POWER = 0.23
    WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
    """c."""
    DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)
    """d."""

    radii: Tensor

    def __init__(
        self, *, inner: float | None = None, outer: float | None = None, bond_fraction: float = 0.65
    ) -> None:
        super().__init__()
        if outer is None and inner is not None:
            raise ValueError("inner needs outer")
        if outer is not None and not 0.0 < (outer / 2 if inner is None else inner) < outer:
            raise ValueError("0 < inner < outer is needed")
        if not bond_fraction > 0.0:
            raise ValueError("bond_fraction must be positive")
        self.outer = outer
        self.inner = outer / 2 if inner is None and outer is not None else inner
        self.bond_fraction = bond_fraction
        radii = torch.as_tensor(covalent_radii, dtype=torch.float64)
        self.register_buffer("radii", radii, persistent=False)
        self.request = GraphRequest(
            cutoff=float(2.0 * bond_fraction * radii.max()) if outer is None else outer
        )

    def check_elements(self, elements: Iterable[int]) -> None:
        """Refuse elements for which no radius is known.

        Raises:
            UserError: there is one, and no ``outer`` was given.
        """
        if self.outer is not None:
            return
        for number in elements:
            if not 0 < number <= LAST_WITH_RADIUS:
                raise UserError(
                    f"no covalent radius of {_symbol(number)} is known",
                    where="zbl",
                    mend="Give outer, a radius (Å) for all pairs.",
                )

    def bare(self, distances: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energy without S in eV, and its first and second derivative by the distance.

        Args:
            distances: Å.
            first: atomic numbers of one atom of each pair.
            second: of the other.
        """
        z_first, z_second = first.to(distances.dtype), second.to(distances.dtype)
        powers = torch.arange(MAX_ATOMIC_NUMBER + 1, dtype=distances.dtype, device=distances.device)
        powers = powers**self.POWER
        inverse_lengths = (powers[first] + powers[second]) / self.LENGTH_A
        rates = distances.new_tensor(self.DECAYS) * inverse_lengths.unsqueeze(1)
        terms = distances.new_tensor(self.WEIGHTS) * torch.exp(-rates * distances.unsqueeze(1))
        screening = terms.sum(dim=1)
        slope = -(rates * terms).sum(dim=1)
        curvature = (rates.square() * terms).sum(dim=1)
        coulomb = COULOMB_EV_A * z_first * z_second / distances
        return (
            coulomb * screening,
            coulomb * (slope - screening / distances),
            coulomb * (curvature - 2.0 * slope / distances + 2.0 * screening / distances.square()),
        )

    def pair_energy(self, distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """u(r) in eV, for distances (Å) below the outer radius of each pair; arguments as of :meth:`bare`."""
        inner, outer = self._inner_and_outer(distances, first, second)
        energy, _, _ = self.bare(distances, first, second)
        at_outer, slope, curvature = self.bare(outer, first, second)
        width = outer - inner
        cubic = (width * curvature - 3.0 * slope) / width**2 / 3.0
        quartic = (2.0 * slope - width * curvature) / width**3 / 4.0
        constant = -at_outer + width * slope / 2.0 - width**2 * curvature / 12.0
        inside = (distances - inner).clamp(min=0.0)
        return energy + constant + inside**3 * (cubic + quartic * inside)

    def _inner_and_outer(self, distances: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        if self.outer is not None and self.inner is not None:
            return torch.full_like(distances, self.inner), torch.full_like(distances, self.outer)
        outer = self.bond_fraction * (self.radii[first] + self.radii[second]).to(distances.dtype)
        return outer / 2.0, outer

    def graph_energies(self, graph: Graph) -> Tensor:
        first, second = graph.atomic_numbers[graph.center], graph.atomic_numbers[graph.neighbor]
        _, outer = self._inner_and_outer(graph.distances.detach(), first, second)
        near = torch.nonzero(graph.distances.detach() < outer)[:, 0]
        half = 0.5 * self.pair_energy(graph.distances[near], first[near], second[near])
        return sum_to(graph.center[near], half, graph.n_atoms)


LAST_WITH_RADIUS = 96
"""Curium: the last element with a covalent radius in Cordero et al. 2008."""


def _symbol(number: int) -> str:
    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else f"atomic number {number}"
