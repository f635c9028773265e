"""``State``: everything a run needs to go on. ``Integrator``: what turns one state into the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from kinetograph import units
from kinetograph.bonds import with_bonds
from kinetograph.dynamics.noise import Streams, streams_of
from kinetograph.dynamics.rigid import RigidBonds, rigid_bonds
from kinetograph.dynamics.settings import Temperature
from kinetograph.dynamics.velocities import (
    Inertia,
    inertia_of,
    kinetic_energy,
    per_atom,
    per_system,
    without_drift,
)
from kinetograph.errors import UserError
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System

DEFAULT_SKIN_A = 1.0


@dataclass(frozen=True)
class State:
    """One instant of a run; a batch where the system is one. Never changed in place."""

    system: System
    """Positions (not wrapped) and velocities in double precision."""
    prediction: Prediction
    """What the potential says of these positions."""
    acceleration: Tensor
    """(n_atoms, 3) Å/fs²: from the predicted forces, without that of the centre of mass where it is held."""
    net_force: Tensor
    """(n_systems, 3) eV/Å: the sum of the predicted forces; not zero for models with direct forces."""
    neighbors: NeighborList
    """The list that the state owns; brought up to date at each force evaluation."""
    inertia: Inertia
    rigid: RigidBonds | None
    """Holds the distances of the system's rigid pairs; ``None`` where there are none."""
    step: int
    streams: Streams
    """Where the random numbers of each structure come from."""
    of_systems: Mapping[str, Tensor] = field(default_factory=dict)
    """(n_systems, …) by name: what the integrator keeps of each structure, such as heat or a thermostat."""
    of_atoms: Mapping[str, Tensor] = field(default_factory=dict)
    """(n_atoms, …) by name: what it keeps of each atom."""
    topology: Tensor | None = None
    """(n_bonds, 2): bonds of the start that are to last, where a guard watches them."""

    @property
    def positions(self) -> Tensor:
        return self.system.positions

    @property
    def velocities(self) -> Tensor:
        assert self.system.velocities is not None
        return self.system.velocities

    @cached_property
    def kinetic_energy(self) -> Tensor:
        """(n_systems,) eV."""
        return kinetic_energy(self.system)

    @cached_property
    def temperature(self) -> Tensor:
        """(n_systems,) K: 2 K / (N_f k)."""
        return 2.0 * self.kinetic_energy / (self.inertia.degrees * units.BOLTZMANN_EV_PER_K)

    def keeping(self, **of_systems: Tensor) -> State:
        """The state with these variables of its structures."""
        return changed(self, of_systems={**self.of_systems, **of_systems})


Frozen = TypeVar("Frozen", State, System)


def changed(item: Frozen, **values: Any) -> Frozen:
    """``dataclasses.replace`` without its checks, which take longer than a small tensor operation."""
    new = object.__new__(type(item))
    old = item.__dict__
    new.__dict__.update({name: old[name] for name in item.__dataclass_fields__}, **values)
    return new


class Integrator(Protocol):
    """Advances states by one time step. A frozen dataclass: its fields describe it in checkpoints."""

    @property
    def timestep_fs(self) -> float: ...
    @property
    def remove_com(self) -> bool: ...
    @property
    def target_temperature_K(self) -> Temperature | None:
        """Of the thermostat; ``None`` without one."""

    def init(
        self,
        system: System,
        potential: Potential,
        seed: int | Sequence[int],
        *,
        skin_A: float = DEFAULT_SKIN_A,
    ) -> State:
        """The state at step 0. Velocities the system does not have are zero.

        Args:
            seed: of the random numbers, one or one for each structure.
        """

    def step(self, state: State, potential: Potential) -> State: ...

    def conserved_quantity(self, state: State) -> Tensor | None:
        """(n_systems,) eV: constant but for the error of the integration; ``None`` without an energy."""


def first_state(
    system: System, potential: Potential, seed: int | Sequence[int], *, skin_A: float, remove_com: bool
) -> State:
    """A state at step 0: double precision, bonds known where needed, drift removed, forces evaluated."""
    if not skin_A >= 0.0:
        raise UserError("the skin of the neighbour list is negative", where="skin_A", mend="Use 0 or more.")
    system = with_bonds(system.to(dtype=torch.float64), potential.request.bond_rule)
    inertia = inertia_of(system, remove_com=remove_com)
    velocities = torch.zeros_like(system.positions) if system.velocities is None else system.velocities
    velocities = torch.where(inertia.inverse_mass > 0, velocities, 0.0)
    system = replace(system, velocities=without_drift(velocities, system, inertia))
    rigid = None
    if system.rigid is not None and len(system.rigid):
        system, rigid = rigid_bonds(system)
    neighbors = NeighborList.build(
        system, potential.request.reach, skin=skin_A, bond_rule=potential.request.bond_rule
    )
    prediction = potential(system, neighbors)
    acceleration, net_force = accelerations(prediction.forces, system, inertia)
    return State(
        system=system,
        prediction=prediction,
        acceleration=acceleration,
        net_force=net_force,
        neighbors=neighbors,
        inertia=inertia,
        rigid=rigid,
        step=0,
        streams=streams_of(seed, system.n_systems),
    )


def accelerations(forces: Tensor, system: System, inertia: Inertia) -> tuple[Tensor, Tensor]:
    """a = F/m − ΣF/M, the last term where the centre of mass is held; and the net force ΣF."""
    net_force = per_system(forces, system)
    if inertia.mass_share is not None:
        forces = forces - inertia.mass_share * per_atom(net_force, system)
    return forces * inertia.inverse_mass, net_force


def evaluated(state: State, potential: Potential) -> State:
    """The state with the forces at its positions. The neighbour list is never stale."""
    neighbors = state.neighbors.updated(state.system)
    prediction = potential(state.system, neighbors)
    acceleration, net_force = accelerations(prediction.forces, state.system, state.inertia)
    return changed(
        state,
        neighbors=neighbors,
        prediction=prediction,
        acceleration=acceleration,
        net_force=net_force,
    )


def moving(state: State, velocities: Tensor) -> State:
    """The state with other velocities."""
    return changed(state, system=changed(state.system, velocities=velocities))


def total_energy(state: State) -> Tensor | None:
    """(n_systems,) eV: kinetic and potential; ``None`` where the forces are no gradient of an energy."""
    if state.prediction.energy is None or not state.prediction.conservative:
        return None
    return state.kinetic_energy + state.prediction.energy
