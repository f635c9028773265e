"""Electrostatics of fixed charges: what no model with a cutoff can learn.

Two atoms with charges q interact as two Gaussian clouds of charge,

    u(r) = k qᵢ qⱼ erf(r / (√2 s)) / r,

with the Coulomb constant k and the smearing s (each cloud has the standard deviation s/√2). Beyond a
few s this is Coulomb's law: with s = 1 Å the two differ by 3 parts in 10³ at 3 Å, 6 in 10⁵ at 4 Å and 6 in
10⁷ at 5 Å. Below, u is finite and flat (√(2/π) k qᵢ qⱼ / s at r = 0), and so is what is left for a model
with a cutoff of 5 Å or more to learn. With s = 0 they are point charges.

A molecule is summed over all its pairs. In a crystal u is the long-range part of an Ewald sum: its
reciprocal half is everything there is, and no neighbours are looked up. Point charges need the other half
as well, over pairs within ``cutoff``. Both are computed by torch-pme (P. Loche et al., J. Chem. Phys. 162,
142501 (2025), doi:10.1063/5.0251713), with conducting surroundings ("tin foil").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from ase.data import atomic_numbers as number_of
from ase.data import chemical_symbols
from scipy.special import erfcinv
from torch import Tensor

from kinetograph.bonds import BondRule
from kinetograph.errors import UserError, needs
from kinetograph.graph import GraphRequest, build_graph
from kinetograph.neighbors import NeighborList
from kinetograph.potential import SpaceEnergyPotential
from kinetograph.system import System

COULOMB_EV_A = 14.399645478
"""e²/(4πε₀) in eV Å (CODATA 2018)."""

NEUTRAL_E = 1e-3
"""Elementary charges: a cell whose charges add up to less is neutral but for rounding."""

LARGEST_EWALD = 100
"""Atoms: above, the mesh is faster."""

MESH_NODES = 7
"""Order of the mesh interpolation: the highest there is."""
MESH_SPACINGS_PER_SMEARING = 2
"""With these two the forces in water are right within 1e-4 eV/Å."""


class FixedCharges(SpaceEnergyPotential):
    """A fixed charge for each element.

    Molecules, and neutral structures that are periodic throughout.

    Args:
        charges: elementary charges by chemical symbol, such as ``{"O": -0.834, "H": 0.417}``.
        smearing: s in Å; 0 for point charges.
        exclude_bonds: pairs of atoms up to so many bonds apart do not interact: 0 none, 1 bonded ones, 2 the
            ends of angles too, as in force fields for molecules.
        bond_tolerance: see :class:`~kinetograph.bonds.BondRule`.
        cutoff: Å, to which pairs are looked up: those of point charges in crystals, and the excluded ones,
            which must never be farther apart. Of no effect where there are neither.
        accuracy: dimensionless, what an Ewald sum neglects.
        method: of the sum in reciprocal space: ``"ewald"`` is exact to the accuracy, and its time grows with
            the square of the size; ``"pme"`` (a mesh) is right within about 1e-4 eV/Å and almost linear;
            ``"auto"`` takes the mesh above 100 atoms.
    """

    table: Tensor

    def __init__(
        self,
        *,
        charges: Mapping[str, float],
        smearing: float = 1.0,
        exclude_bonds: int = 0,
        bond_tolerance: float = 1.3,
        cutoff: float = 6.0,
        accuracy: float = 1e-6,
        method: Literal["auto", "ewald", "pme"] = "auto",
    ) -> None:
        super().__init__()
        with needs("torchpme", extra="additions"):
            import torchpme  # noqa: F401
        if not smearing >= 0.0:
            raise ValueError("smearing must not be negative")
        if exclude_bonds < 0:
            raise ValueError("exclude_bonds must not be negative")
        if not 0.0 < accuracy < 0.1:
            raise ValueError("accuracy must lie between 0 and 0.1")
        if method not in ("auto", "ewald", "pme"):
            raise ValueError(f"unknown method {method!r}: it can be auto, ewald or pme")
        self.smearing = smearing
        self.exclude_bonds = exclude_bonds
        self.method = method
        # What is neglected: erfc(cutoff / (√2 split)) in real space, exp(−(split k)²/2) beyond the largest k.
        self.split = smearing if smearing > 0.0 else cutoff / (math.sqrt(2.0) * float(erfcinv(accuracy)))
        self.largest_k = math.sqrt(-2.0 * math.log(accuracy)) / self.split
        self.register_buffer("table", _table(charges), persistent=False)
        # No halo holds all the atoms that act on one.
        self.request = GraphRequest(
            cutoff=cutoff if smearing == 0.0 or exclude_bonds > 0 else 1.0,
            bond_rule=BondRule(exclude_bonds, bond_tolerance) if exclude_bonds > 0 else None,
            n_layers=1_000_000_000,
        )

    def check_elements(self, elements: Iterable[int]) -> None:
        """Refuse elements without a charge.

        Raises:
            UserError: there is one.
        """
        for number in elements:
            if bool(self.table[number].isnan()):
                raise UserError(
                    f"no charge is given for {chemical_symbols[number]}",
                    where="charges",
                    mend="Give one for each element; 0 for one that has none.",
                )

    def pair_energy(self, distances: Tensor) -> Tensor:
        """u(r) of two elementary charges of one sign in eV, for distances in Å."""
        if self.smearing == 0.0:
            return COULOMB_EV_A / distances
        near = distances.clamp(min=1e-6 * self.smearing)
        return COULOMB_EV_A * torch.erf(near / (math.sqrt(2.0) * self.smearing)) / near

    def system_energies(self, system: System, neighbors: NeighborList) -> Tensor:
        charges = self.table[system.atomic_numbers].to(system.dtype)
        if bool(charges.isnan().any()):
            self.check_elements(set(system.atomic_numbers.tolist()))
        pbc = system.pbc.cpu()
        partly = pbc.any(dim=1) & ~pbc.all(dim=1)
        if bool(partly.any()):
            raise UserError(
                "charges cannot be summed for a structure that is periodic in some directions only",
                where=f"structure {int(partly.nonzero()[0])}",
                mend="Make it periodic throughout with vacuum between the images, or not periodic.",
            )
        pairs = _Pairs(self, system, neighbors)
        energies = []
        begin = 0
        for index, count in enumerate(system.atoms_per_system.tolist()):
            atoms = slice(begin, begin + count)
            begin += count
            if bool(pbc[index].all()):
                energies.append(self._of_crystal(system, index, atoms, charges[atoms], pairs))
            else:
                energies.append(self._of_molecule(system.positions[atoms], charges[atoms]))
        return torch.stack(energies) - pairs.excluded(charges)

    def _of_molecule(self, positions: Tensor, charges: Tensor) -> Tensor:
        first, second = torch.triu_indices(len(positions), len(positions), 1, device=positions.device)
        squares = (positions[second] - positions[first]).square().sum(dim=1)
        # The root of zero has no slope; where two atoms coincide nothing pulls at either.
        distances = squares.clamp(min=1e-30).sqrt()
        return (charges[first] * charges[second] * self.pair_energy(distances)).sum()

    def _of_crystal(self, system: System, index: int, atoms: slice, charges: Tensor, pairs: _Pairs) -> Tensor:
        total = float(charges.detach().double().sum())
        if abs(total) > NEUTRAL_E:
            raise UserError(
                f"the charges of the cell add up to {total:+.4g}, but a periodic structure must be neutral",
                where=f"structure {index}",
                mend="Choose charges that cancel in every structure.",
            )
        neighbors, distances = pairs.of(index, atoms.start)
        potential: Tensor = self._calculator(len(charges), system.device)(
            charges=charges.unsqueeze(1),
            cell=system.cell[index],
            positions=system.positions[atoms],
            neighbor_indices=neighbors,
            neighbor_distances=distances,
        )
        return (charges * potential[:, 0]).sum()

    def _calculator(self, n_atoms: int, device: torch.device) -> Any:
        """The library's calculator. Made anew for each sum: it keeps what it computed, graph and all."""
        import torchpme

        potential = torchpme.CoulombPotential(smearing=self.split, prefactor=COULOMB_EV_A).to(device)
        if self.method == "ewald" or (self.method == "auto" and n_atoms <= LARGEST_EWALD):
            # The library keeps wave vectors up to half of 2π over this length.
            calculator: torch.nn.Module = torchpme.EwaldCalculator(
                potential, lr_wavelength=math.pi / self.largest_k, full_neighbor_list=True
            )
        else:
            # Not P3M: the library's has its forces right only in right-angled cells along the axes.
            calculator = torchpme.PMECalculator(
                potential,
                mesh_spacing=self.split / MESH_SPACINGS_PER_SMEARING,
                interpolation_nodes=MESH_NODES,
                full_neighbor_list=True,
            )
        return calculator.to(device)


class _Pairs:
    """Pairs of atoms near each other, where they are needed: of point charges, and excluded ones."""

    def __init__(self, potential: FixedCharges, system: System, neighbors: NeighborList) -> None:
        self.potential = potential
        self.system = system
        needed = potential.smearing == 0.0 or potential.exclude_bonds > 0
        self.graph = build_graph(system, neighbors, potential.request) if needed else None
        self.ends = torch.zeros((0, 2), dtype=torch.int64, device=system.device)
        self.distances = system.positions.new_zeros(0)
        if self.graph is not None and potential.smearing == 0.0:
            self.ends = torch.stack([self.graph.center, self.graph.neighbor], dim=1)
            self.distances = self.graph.distances
        structure = system.system_index[self.ends[:, 0]]
        self.last = torch.bincount(structure, minlength=system.n_systems).cumsum(0).tolist()

    def of(self, index: int, first_atom: int) -> tuple[Tensor, Tensor]:
        """(n_pairs, 2) atoms, counted within the structure, and (n_pairs,) Å, of point charges."""
        inside = slice(self.last[index - 1] if index else 0, self.last[index])
        return self.ends[inside] - first_atom, self.distances[inside]

    def excluded(self, charges: Tensor) -> Tensor:
        """(n_systems,) eV: the energy of pairs that do not interact."""
        nothing = charges.new_zeros(self.system.n_systems)
        if self.graph is None or self.graph.edge_types is None:
            return nothing
        types = self.graph.edge_types
        apart = torch.nonzero((types > 0) & (types <= self.potential.exclude_bonds))[:, 0]
        center, neighbor = self.graph.center[apart], self.graph.neighbor[apart]
        half = 0.5 * charges[center] * charges[neighbor]
        half = half * self.potential.pair_energy(self.graph.distances[apart])
        return nothing.index_add(0, self.system.system_index[center], half)


def _table(charges: Any) -> Tensor:
    """(number of elements,) elementary charges by atomic number, NaN where none is given."""
    mend = 'Give them by chemical symbol, such as {"O": -0.834, "H": 0.417}.'
    if not isinstance(charges, Mapping) or not charges:
        raise UserError("no charges are given", where="charges", mend=mend)
    table = torch.full((len(chemical_symbols),), math.nan, dtype=torch.float64)
    for symbol, charge in charges.items():
        if symbol not in number_of:
            raise UserError(f"{symbol!r} is no element", where="charges", mend=mend)
        if isinstance(charge, bool) or not isinstance(charge, int | float) or not math.isfinite(charge):
            raise UserError(f"the charge of {symbol} is {charge!r}, not a number", where="charges", mend=mend)
        table[number_of[symbol]] = float(charge)
    return table
