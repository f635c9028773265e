"""What stops a replica that has left physics: cheap checks, each with a threshold and a sentence.

A model that is asked about structures unlike those it was trained on may answer anything. Guards do not
ask the model: they look at what no molecule does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor

from kinetograph import units
from kinetograph.bonds import find_bonds
from kinetograph.dynamics.settings import hottest, require_positive, require_whole
from kinetograph.dynamics.state import Integrator, State
from kinetograph.errors import UserError
from kinetograph.system import System

NONMETALS = (1, 6, 7, 8, 9, 15, 16, 17, 34, 35, 53)
"""Elements whose bonds to each other last: others touch and part as they please in melts and crystals."""
RUNAWAY_FLOOR_K = 100.0
"""Cold runs count as this warm: a cold start may heat itself by relaxing."""


class Guard(Protocol):
    """Looks at every state whose step is a multiple of ``every``."""

    @property
    def every(self) -> int: ...

    def prepare(self, state: State, integrator: Integrator) -> State:
        """The state with what later ones are compared with: kept in checkpoints, and left as it is there."""

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        """What is wrong with structures of the batch, by their place in it; empty where all are well."""


@dataclass(frozen=True)
class TemperatureGuard:
    """Temperatures far above what they should be, and numbers that are not finite."""

    factor: float = 20.0
    """Times the temperature that the run should have, or begins with."""
    max_temperature_K: float | None = None
    """The limit itself, instead."""
    every: int = 1

    def __post_init__(self) -> None:
        require_positive("factor", self.factor)
        if self.max_temperature_K is not None:
            require_positive("max_temperature_K", self.max_temperature_K)

    def prepare(self, state: State, integrator: Integrator) -> State:
        if "temperature_limit_K" in state.of_systems:
            return state
        target = integrator.target_temperature_K
        meant = hottest(0.0 if target is None else target, state.system).clamp(min=RUNAWAY_FLOOR_K)
        return state.keeping(temperature_limit_K=self.factor * torch.maximum(state.temperature, meant))

    def limits_K(self, state: State) -> Tensor:
        """(n_systems,) K."""
        limits = state.of_systems["temperature_limit_K"]
        return limits if self.max_temperature_K is None else torch.full_like(limits, self.max_temperature_K)

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        limits = self.limits_K(state)
        healthy = state.temperature <= limits  # NaN compares false
        if bool(healthy.all()):
            return {}
        reasons = {}
        for index in torch.nonzero(~healthy)[:, 0].tolist():
            kelvin, limit = float(state.temperature[index]), float(limits[index])
            own = state.system.system_index == index
            if not bool(torch.isfinite(state.prediction.forces[own]).all()):
                reasons[index] = "the forces are not finite"
            elif not math.isfinite(kelvin):
                reasons[index] = "the velocities are not finite"
            else:
                reasons[index] = f"the temperature is {kelvin:.0f} K, above the limit of {limit:.0f} K"
        return reasons


@dataclass(frozen=True)
class EnergyGuard:
    """Potential energies that no material has: a hole in the model, or an explosion."""

    max_change_eV_per_atom: float = 2.0
    """From the start; melting takes 0.1, breaking every bond of a solid some 5."""
    every: int = 10

    def __post_init__(self) -> None:
        require_positive("max_change_eV_per_atom", self.max_change_eV_per_atom)
        require_whole("every", self.every, least=1)

    def prepare(self, state: State, integrator: Integrator) -> State:
        energy = state.prediction.energy
        if energy is None or "start_energy_eV" in state.of_systems:
            return state
        return state.keeping(start_energy_eV=energy.double())

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        energy, start = state.prediction.energy, state.of_systems.get("start_energy_eV")
        if energy is None or start is None:
            return {}
        change = (energy - start) / state.system.atoms_per_system
        wrong = torch.nonzero(~(change.abs() <= self.max_change_eV_per_atom))[:, 0].tolist()
        return {
            index: f"the potential energy is {float(change[index]):+.2f} eV per atom from that of the start, "
            f"the limit is {self.max_change_eV_per_atom:g}"
            for index in wrong
        }


@dataclass(frozen=True)
class DriftGuard:
    """What the integrator should conserve and does not: the time step is too long, or forces lie."""

    max_drift_K: float = 300.0
    """The drift of the conserved quantity as a temperature: spread over all degrees of freedom."""
    every: int = 10

    def __post_init__(self) -> None:
        require_positive("max_drift_K", self.max_drift_K)
        require_whole("every", self.every, least=1)

    def prepare(self, state: State, integrator: Integrator) -> State:
        conserved = integrator.conserved_quantity(state)
        if conserved is None or "start_conserved_eV" in state.of_systems:
            return state
        return state.keeping(start_conserved_eV=conserved)

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        drift = drift_K(state, integrator)
        if drift is None:
            return {}
        wrong = torch.nonzero(~(drift.abs() <= self.max_drift_K))[:, 0].tolist()
        return {
            index: f"the conserved quantity has drifted by as much as {float(drift[index]):+.0f} K would, "
            f"the limit is {self.max_drift_K:g} K"
            for index in wrong
        }


@dataclass(frozen=True)
class CloseAtomsGuard:
    """Atoms closer than physics allows."""

    least_fraction: float = 0.6
    """Of the sum of two covalent radii. The shortest bond there is, H–H, has 1.2."""
    every: int = 50

    def __post_init__(self) -> None:
        require_positive("least_fraction", self.least_fraction)
        require_whole("every", self.every, least=1)

    def prepare(self, state: State, integrator: Integrator) -> State:
        return state

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        pairs = _Pairs.within_neighbors(state)
        reasons: dict[int, str] = {}
        for edge in torch.nonzero(~(pairs.distance >= self.least_fraction * pairs.radii))[:, 0].tolist():
            limit = self.least_fraction * float(pairs.radii[edge])
            sentence = (
                f"{pairs.name(edge)} are {float(pairs.distance[edge]):.2f} Å apart, below {limit:.2f} Å"
            )
            reasons.setdefault(pairs.structure(edge), sentence)
        return reasons


@dataclass(frozen=True)
class BondGuard:
    """Bonds between nonmetals that broke or formed since the start; switch it off where reactions are meant.

    Bonds of the start are pairs closer than ``start`` times the sum of their covalent radii.
    """

    start: float = 1.3
    broken: float = 1.8
    """A bond is broken beyond this many times the sum of covalent radii."""
    formed: float = 1.1
    """Another pair is bonded below this many times the sum."""
    every: int = 50

    def __post_init__(self) -> None:
        for name in ("start", "broken", "formed"):
            require_positive(name, getattr(self, name))
        require_whole("every", self.every, least=1)

    def prepare(self, state: State, integrator: Integrator) -> State:
        if state.topology is not None:
            return state
        bonds = state.system.bonds
        if bonds is None:
            bonds = find_bonds(state.system, self.start)
        lasting = _is_nonmetal(state.system.atomic_numbers)[bonds].all(dim=1)
        return replace(state, topology=bonds[lasting])

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        reasons: dict[int, str] = {}
        if state.topology is None:
            return reasons
        bonds = _Pairs.of(state.system, state.topology)
        for bond in torch.nonzero(~(bonds.distance <= self.broken * bonds.radii))[:, 0].tolist():
            sentence = f"the bond between {bonds.name(bond)} broke: {float(bonds.distance[bond]):.2f} Å"
            reasons.setdefault(bonds.structure(bond), sentence)
        pairs = _Pairs.within_neighbors(state)
        nonmetal = _is_nonmetal(state.system.atomic_numbers)
        near = pairs.distance < self.formed * pairs.radii
        near = near & nonmetal[pairs.first] & nonmetal[pairs.second]
        known = _keys(state.topology.min(dim=1).values, state.topology.max(dim=1).values, state.system)
        new = near & ~torch.isin(_keys(pairs.first, pairs.second, state.system), known)
        for edge in torch.nonzero(new)[:, 0].tolist():
            sentence = f"a bond formed between {pairs.name(edge)}: {float(pairs.distance[edge]):.2f} Å"
            reasons.setdefault(pairs.structure(edge), sentence)
        return reasons


@dataclass(frozen=True)
class VolumeGuard:
    """Cells that collapse or burst under a barostat."""

    max_factor: float = 3.0
    """Between the volume and that of the start, either way."""
    every: int = 10

    def __post_init__(self) -> None:
        if not 1.0 < self.max_factor < math.inf:
            raise UserError(
                f"max_factor is {self.max_factor}", where="max_factor", mend="It must be above one."
            )
        require_whole("every", self.every, least=1)

    def prepare(self, state: State, integrator: Integrator) -> State:
        if not hasattr(integrator, "pressure_bar") or "start_volume_A3" in state.of_systems:
            return state
        return state.keeping(start_volume_A3=state.system.volume)

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        start = state.of_systems.get("start_volume_A3")
        if start is None:
            return {}
        factor = state.system.volume / start
        healthy = (factor <= self.max_factor) & (factor >= 1.0 / self.max_factor)
        return {
            index: f"the volume is {float(factor[index]):.3g} times that of the start, "
            f"the limit is {self.max_factor:g} either way"
            for index in torch.nonzero(~healthy)[:, 0].tolist()
        }


@dataclass(frozen=True)
class DisagreementGuard:
    """Members of an ensemble that do not agree on a force: none of them was trained on such a structure.

    It has nothing to watch where the potential is a single model.
    """

    max_force_std_eV_per_A: float = 1.0
    """Of the root mean square over members of |F − mean F|, for any atom."""
    every: int = 10

    def __post_init__(self) -> None:
        require_positive("max_force_std_eV_per_A", self.max_force_std_eV_per_A)
        require_whole("every", self.every, least=1)

    def prepare(self, state: State, integrator: Integrator) -> State:
        return state

    def check(self, state: State, integrator: Integrator) -> dict[int, str]:
        std = state.prediction.force_std
        if std is None:
            return {}
        reasons: dict[int, str] = {}
        index = state.system.system_index
        for atom in torch.nonzero(~(std <= self.max_force_std_eV_per_A))[:, 0].tolist():
            structure = int(index[atom])
            number = atom - int((index < structure).sum())
            symbol = chemical_symbols[int(state.system.atomic_numbers[atom])]
            sentence = (
                f"the members of the ensemble disagree on the force on atom {number} ({symbol}) "
                f"by {float(std[atom]):.2f} eV/Å, the limit is {self.max_force_std_eV_per_A:g}"
            )
            reasons.setdefault(structure, sentence)
        return reasons


DEFAULT_GUARDS: tuple[Guard, ...] = (
    TemperatureGuard(),
    EnergyGuard(),
    DriftGuard(),
    CloseAtomsGuard(),
    BondGuard(),
    VolumeGuard(),
    DisagreementGuard(),
)


def drift_K(state: State, integrator: Integrator) -> Tensor | None:
    """(n_systems,) K: 2 ΔH'/(N_f k) since the start; ``None`` where nothing is known to be conserved."""
    start = state.of_systems.get("start_conserved_eV")
    conserved = None if start is None else integrator.conserved_quantity(state)
    if start is None or conserved is None:
        return None
    return 2.0 * (conserved - start) / (state.inertia.degrees * units.BOLTZMANN_EV_PER_K)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of atoms of a batch with their distances (Å) and the sums of their covalent radii (Å)."""

    system: System
    first: Tensor
    second: Tensor
    distance: Tensor

    @staticmethod
    def within_neighbors(state: State) -> _Pairs:
        """Every listed pair once, images apart."""
        neighbors, system = state.neighbors, state.system
        once = neighbors.center <= neighbors.neighbor
        first, second, shift = neighbors.center[once], neighbors.neighbor[once], neighbors.shift[once]
        offset = torch.einsum("ei,eij->ej", shift.to(system.dtype), system.cell[system.system_index[first]])
        vectors = system.positions[second] + offset - system.positions[first]
        return _Pairs(system, first, second, torch.linalg.norm(vectors, dim=1))

    @staticmethod
    def of(system: System, pairs: Tensor) -> _Pairs:
        """These pairs, by their nearest images; cells are wider than two bonds."""
        first, second = pairs.unbind(dim=1)
        vectors = system.positions[second] - system.positions[first]
        structure = system.system_index[first]
        lattice = system.cell * system.pbc.unsqueeze(2)
        turns = torch.einsum("ei,eij->ej", vectors, torch.linalg.pinv(lattice)[structure]).round()
        vectors = vectors - torch.einsum("ei,eij->ej", turns, lattice[structure])
        return _Pairs(system, first, second, torch.linalg.norm(vectors, dim=1))

    @property
    def radii(self) -> Tensor:
        table = torch.as_tensor(covalent_radii, dtype=self.distance.dtype, device=self.distance.device)
        radius = table[self.system.atomic_numbers]
        return radius[self.first] + radius[self.second]

    def structure(self, index: int) -> int:
        return int(self.system.system_index[self.first[index]])

    def name(self, index: int) -> str:
        """Such as "atoms 3 (O) and 17 (H)", numbered within their structure."""
        before = int((self.system.system_index < self.structure(index)).sum())
        numbers = self.system.atomic_numbers
        a, b = int(self.first[index]), int(self.second[index])
        return (
            f"atoms {a - before} ({chemical_symbols[int(numbers[a])]}) "
            f"and {b - before} ({chemical_symbols[int(numbers[b])]})"
        )


def _is_nonmetal(numbers: Tensor) -> Tensor:
    return torch.isin(numbers, torch.tensor(NONMETALS, device=numbers.device))


def _keys(first: Tensor, second: Tensor, system: System) -> Tensor:
    return first * system.n_atoms + second
