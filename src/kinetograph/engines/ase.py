"""Any potential as an ASE calculator, so that ASE's optimisers and dynamics run on the same path."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import ase
import torch
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.geometry import find_mic
from ase.stress import full_3x3_to_voigt_6_stress

from kinetograph.bonds import with_bonds
from kinetograph.dynamics.state import DEFAULT_SKIN_A
from kinetograph.graph import neighbors_for
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential
from kinetograph.system import System

LONGEST_STEP_A = 1.0
"""An atom that moved further between two calls: not a step of dynamics or of a relaxation."""
ENERGY_PROPERTIES = ["energy", "free_energy"]


class KinetographCalculator(Calculator):
    """An ASE calculator on a potential: forces, and energy, energies of atoms and stress where it gives them.

    The neighbour list is kept between calls while the atoms stay the same ones and move less than
    half the skin. Bonds are those of ``atoms.info["bonds"]``. Else they are found in the first structure
    and stay, as in a run, until other atoms come or one has moved more than 1 Å since the last call: that
    is another structure, whose bonds are found anew.

    Args:
        potential: put into evaluation mode.
        skin_A: how much further than the cutoff the neighbour list reaches.
        device: where to compute; by default where the potential's parameters are.
        missing_energy: what a potential without energies answers when asked for one. ASE's
            optimisers print the energy in each step though they need only forces, hence ``"nan"``,
            with one warning; ``"error"`` raises ``PropertyNotImplementedError``.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        skin_A: float = DEFAULT_SKIN_A,
        device: torch.device | str | None = None,
        missing_energy: Literal["nan", "error"] = "nan",
    ) -> None:
        Calculator.__init__(self)
        self.potential = potential.eval()
        self.skin_A = skin_A
        self.missing_energy = missing_energy
        parameter = next(potential.parameters(), None)
        self.device = device if device is not None else "cpu" if parameter is None else parameter.device
        self.potential.to(self.device)
        self.implemented_properties = ["forces"]
        if potential.gives_energy:
            self.implemented_properties += ENERGY_PROPERTIES
        if potential.gives_atomic_energies:
            self.implemented_properties.append("energies")
        if potential.gives_stress:
            self.implemented_properties.append("stress")
        self._neighbors: NeighborList | None = None
        self._system: System | None = None

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One result, as ASE asks for it."""
        if name in self.implemented_properties:
            found = self.atoms if atoms is None else atoms
            has_no_volume = isinstance(found, ase.Atoms) and not found.pbc.all()
            if name == "stress" and allow_calculation and has_no_volume:
                raise PropertyNotImplementedError(
                    "only a structure that is periodic in three directions has a stress"
                )
            return Calculator.get_property(self, name, atoms, allow_calculation)
        if name == "energy" and self.missing_energy == "nan":
            warnings.warn(
                "this model gives forces only: its energy is reported as NaN", UserWarning, stacklevel=3
            )
            return math.nan
        raise PropertyNotImplementedError(self._why_not(name))

    def _why_not(self, name: str) -> str:
        """Why there is no such property, as a sentence."""
        if name not in (*ENERGY_PROPERTIES, "energies", "stress"):
            return f"Kinetograph's potentials give no {name}"
        if not self.potential.gives_energy:
            what = name.replace("_", " ")
            return f"this model gives forces only, no {what}: its forces are no energy's gradient"
        if name == "energies":
            return "this potential gives the energy of the whole structure, no energies of its atoms"
        return "this model gives no stress: its forces are not the gradient of its energy"

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("forces",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the potential for ``atoms``."""
        Calculator.calculate(self, atoms, properties, system_changes)
        assert isinstance(self.atoms, ase.Atoms)
        system = System.from_ase(self.atoms, device=self.device)
        if self.potential.domain is not None and "numbers" in system_changes:
            self.potential.domain.require_elements(system)
        with torch.no_grad():
            prediction = self.potential(*self._with_neighbors(system))
        self.results = {"forces": prediction.forces.cpu().numpy()}
        if prediction.energy is not None:
            self.results["energy"] = self.results["free_energy"] = prediction.energy[0].item()
        if prediction.atomic_energies is not None:
            self.results["energies"] = prediction.atomic_energies.cpu().numpy()
        if prediction.stress is not None:
            # ours and ASE's: eV/Å³, tension positive
            self.results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].cpu().numpy())

    def _with_neighbors(self, system: System) -> tuple[System, NeighborList]:
        """The system, its bonds known where they are needed, and a list that holds for it."""
        old = self._system
        if old is not None and system.bonds is None and _goes_on(old, system):
            system = replace(system, bonds=old.bonds)
        if old is not None and torch.equal(old.atomic_numbers, system.atomic_numbers):
            system = replace(system, atomic_numbers=old.atomic_numbers)  # whose elements are known
        system = with_bonds(system, self.potential.request.bond_rule)
        if self._neighbors is not None and old is not None and _same_graph(old, system):
            self._neighbors = self._neighbors.updated(system)
        else:
            self._neighbors = neighbors_for(system, self.potential.request, skin=self.skin_A)
        self._system = system
        return system, self._neighbors


def _goes_on(old: System, new: System) -> bool:
    """Whether the new structure is the old one a step later; atoms may have been wrapped into the cell."""
    if not torch.equal(old.atomic_numbers, new.atomic_numbers) or not torch.equal(old.pbc, new.pbc):
        return False
    moved = new.positions - old.positions
    if bool(moved.square().sum(dim=1).max() <= LONGEST_STEP_A**2):
        return True
    _, to_nearest_image = find_mic(moved.cpu().numpy(), new.cell[0].cpu().numpy(), new.pbc[0].cpu().numpy())
    return bool(to_nearest_image.max() <= LONGEST_STEP_A)


def _same_graph(old: System, new: System) -> bool:
    """Whether a neighbour list of the old system, with its edge types, can be brought up to date."""
    if not torch.equal(old.atomic_numbers, new.atomic_numbers) or not torch.equal(old.pbc, new.pbc):
        return False
    if old.bonds is None or new.bonds is None:
        return old.bonds is new.bonds
    return torch.equal(old.bonds, new.bonds)
