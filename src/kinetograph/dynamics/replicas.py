"""Replicas that leave a batch: the others go on, to the bit, as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kinetograph.dynamics.rigid import rigid_bonds
from kinetograph.dynamics.state import Integrator, State
from kinetograph.dynamics.velocities import Inertia
from kinetograph.potential import Prediction
from kinetograph.system import subset

AnyIntegrator = TypeVar("AnyIntegrator", bound=Integrator)


def keep_replicas(state: State, keep: Sequence[int]) -> State:
    """The state of these structures of the batch alone, in this order (ascending)."""
    device = state.system.device
    systems = torch.tensor(list(keep), dtype=torch.int64, device=device)
    chosen = torch.zeros(state.system.n_systems, dtype=torch.bool, device=device)
    chosen[systems] = True
    atoms = chosen[state.system.system_index]
    new_number = atoms.cumsum(dim=0) - 1  # of an atom that stays
    system = subset(state.system, systems)
    topology = state.topology
    if topology is not None:
        topology = new_number[topology[atoms[topology[:, 0]]]]
    return replace(
        state,
        system=system,
        prediction=_prediction(state.prediction, systems, atoms),
        acceleration=state.acceleration[atoms],
        net_force=state.net_force[systems],
        neighbors=state.neighbors.subset(systems, atoms),
        inertia=_inertia(state.inertia, systems, atoms),
        rigid=None if state.rigid is None else rigid_bonds(system)[1],
        streams=tuple(state.streams[index] for index in keep),
        of_systems=_rows(state.of_systems, systems),
        of_atoms=_rows(state.of_atoms, atoms),
        topology=topology,
    )


def integrator_of(integrator: AnyIntegrator, replicas: Sequence[int]) -> AnyIntegrator:
    """The integrator with the settings of these replicas, where it has one for each."""
    assert is_dataclass(integrator)
    changed = {}
    for field in fields(integrator):
        value = getattr(integrator, field.name)
        if isinstance(value, list | tuple | np.ndarray):
            changed[field.name] = [value[replica] for replica in replicas]
    return replace(integrator, **changed) if changed else integrator


def _prediction(prediction: Prediction, systems: Tensor, atoms: Tensor) -> Prediction:
    def part(name: str) -> Tensor | None:
        value: Tensor | None = getattr(prediction, name)
        if value is None:
            return None
        return value[systems] if name in ("energy", "stress") else value[atoms]

    changed = {field.name: part(field.name) for field in fields(prediction) if field.name != "conservative"}
    return replace(prediction, **changed)  # type: ignore[arg-type]


def _inertia(inertia: Inertia, systems: Tensor, atoms: Tensor) -> Inertia:
    return Inertia(
        mass=inertia.mass[atoms],
        inverse_mass=inertia.inverse_mass[atoms],
        mass_share=None if inertia.mass_share is None else inertia.mass_share[atoms],
        degrees=inertia.degrees[systems],
    )


def _rows(variables: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in variables.items()}
