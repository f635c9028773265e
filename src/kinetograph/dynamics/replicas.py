"""Replicas that leave a batch, and batches put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kinetograph.dynamics.rigid import rigid_bonds
from kinetograph.dynamics.settings import for_each
from kinetograph.dynamics.state import Integrator, State
from kinetograph.dynamics.velocities import Inertia
from kinetograph.neighbors import join
from kinetograph.potential import Prediction
from kinetograph.system import System, batch, subset

AnyIntegrator = TypeVar("AnyIntegrator", bound=Integrator)


def keep_replicas(state: State, keep: Sequence[int]) -> State:
    """The state of these structures of the batch alone, in this order (ascending).

    They go on, to the bit, as if nothing had happened.
    """
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


def require_one_for_each(integrator: Integrator, system: System) -> None:
    """Raise ``UserError`` where a setting has more or fewer numbers than there are structures."""
    assert is_dataclass(integrator)
    for field in fields(integrator):
        value = getattr(integrator, field.name)
        if isinstance(value, list | tuple | np.ndarray):
            for_each(field.name, value, system)


def joined(states: Sequence[State]) -> State:
    """The structures of several batches at the same step as one state, in this order."""
    first = states[0]
    if len(states) == 1:
        return first
    system = batch([state.system for state in states])
    atoms_before = accumulate([state.system.n_atoms for state in states], initial=0)
    topologies = [
        None if state.topology is None else state.topology + n
        for state, n in zip(states, atoms_before, strict=False)
    ]
    return replace(
        first,
        system=system,
        prediction=_joined([state.prediction for state in states]),
        acceleration=torch.cat([state.acceleration for state in states]),
        net_force=torch.cat([state.net_force for state in states]),
        neighbors=join([state.neighbors for state in states]),
        inertia=_joined([state.inertia for state in states]),
        rigid=rigid_bonds(system)[1] if any(state.rigid is not None for state in states) else None,
        streams=tuple(stream for state in states for stream in state.streams),
        of_systems=_all_rows([state.of_systems for state in states]),
        of_atoms=_all_rows([state.of_atoms for state in states]),
        topology=_column(topologies),
    )


def on_host(state: State) -> State:
    """The state in the memory of the host."""
    moved: State = _on_host(state)
    return moved


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


Part = TypeVar("Part", Prediction, Inertia)


def _joined(parts: Sequence[Part]) -> Part:
    """Tensors one after another; what a part lacks is ``None``."""
    first = parts[0]
    names = [field.name for field in fields(first) if not isinstance(getattr(first, field.name), bool)]
    columns: dict[str, Any] = {name: _column([getattr(part, name) for part in parts]) for name in names}
    return replace(first, **columns)


def _column(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.cat(known) if len(known) == len(values) else None


def _all_rows(variables: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([of_batch[name] for of_batch in variables]) for name in variables[0]}


def _on_host(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {name: _on_host(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_on_host(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _on_host(getattr(value, field.name)) for field in fields(value)})
    return value
