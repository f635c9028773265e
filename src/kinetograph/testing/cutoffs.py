"""What happens as atoms come within reach of each other, and beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from kinetograph.graph import GraphRequest, build_graph, neighbors_for
from kinetograph.potential import Potential, SpaceEnergyPotential
from kinetograph.system import System
from kinetograph.testing.predictions import is_single, predict, rms, seeded
from kinetograph.testing.structures import helix


@dataclass(frozen=True)
class Signature:
    """Which pairs of atoms are edges and links: sorted (centre, neighbour) as one number each."""

    edges: tuple[int, ...]
    links: tuple[int, ...]


def signature(request: GraphRequest, system: System) -> Signature:
    request = replace(request, bond_rule=None)
    neighbors = neighbors_for(system, request)

    def pairs(one: GraphRequest) -> tuple[int, ...]:
        graph = build_graph(system, neighbors, one)
        return tuple(sorted((graph.center * system.n_atoms + graph.neighbor).tolist()))

    links: tuple[int, ...] = ()
    if request.link_cutoff is not None:
        links = pairs(GraphRequest(cutoff=request.link_cutoff))
    return Signature(pairs(request.edges_only()), links)


def smoothness(
    potential: Potential, system: System, seed: int = 0, *, n_events: int = 3, n_blind: int = 0
) -> float | None:
    """The largest jump of the force on an atom where a pair of atoms enters or leaves a neighbourhood.

    The structure shrinks and shears along a straight path. Moments at which edges (or links, or who is
    among the nearest) change are enclosed to 1e-9 of the path, which is less than a
    billionth of an ångström, and the forces on both sides compared: a jump stays, a change goes to zero.

    Args:
        n_events: how many changes of edges, and of links, are looked at.
        n_blind: how many jumps are searched for in the forces alone, which also finds those inside a cutoff.
    """
    if not is_single(system):
        return None
    generator = seeded(seed)
    strain = -0.15 * torch.eye(3, dtype=torch.float64)
    strain += 0.02 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    wobble = torch.randn(system.n_atoms, 3, generator=generator, dtype=torch.float64)
    wobble *= 0.03 * potential.request.cutoff

    def at(t: float) -> System:
        bend = torch.eye(3, dtype=torch.float64) + t * strain
        places = system.positions @ bend + t * wobble
        return replace(system, positions=places, cell=system.cell @ bend)

    def forces(t: float) -> Tensor:
        return predict(potential, at(t)).forces

    times = torch.linspace(0.0, 1.0, 25).tolist()
    events = _changes(potential.request, at, times, n_events)
    if n_blind:
        events += _leaps(forces, times, n_blind)
    if not events:
        return None
    sides = [(forces(low), forces(high)) for low, high in events]
    jump = max(float((high - low).norm(dim=1).max()) for low, high in sides)
    return jump / max(rms(torch.cat([force for side in sides for force in side])), 1e-300)


def _changes(
    request: GraphRequest, at: Callable[[float], System], times: Sequence[float], n_events: int
) -> list[tuple[float, float]]:
    """Short times around which edges or links change, up to ``n_events`` of each."""
    signatures = [signature(request, at(t)) for t in times]
    found: dict[str, list[tuple[float, float]]] = {"edges": [], "links": []}
    for kind, events in found.items():
        for index, (low, high) in enumerate(pairwise(times)):
            if len(events) == n_events:
                break
            if getattr(signatures[index], kind) != getattr(signatures[index + 1], kind):
                event = _enclose(request, at, low, high, kind)
                events += [] if event is None else [event]
    return found["edges"] + found["links"]


def _leaps(
    forces: Callable[[float], Tensor], times: Sequence[float], n_blind: int
) -> list[tuple[float, float]]:
    """Short times around which forces change most, in the steps that stand out from those beside them."""
    seen = torch.stack([forces(t) for t in times])
    change = (seen[1:] - seen[:-1]).norm(dim=2).amax(dim=1)
    beside = torch.nn.functional.pad(change, (1, 1))
    outstanding = change - torch.maximum(beside[:-2], beside[2:])
    events = []
    for index in outstanding.argsort(descending=True)[:n_blind].tolist():
        low, high = times[index], times[index + 1]
        at_low, at_high = seen[index], seen[index + 1]
        while high - low > 1e-9:
            middle = 0.5 * (low + high)
            between = forces(middle)
            if (between - at_low).norm() > (at_high - between).norm():
                high, at_high = middle, between
            else:
                low, at_low = middle, between
        events.append((low, high))
    return events


def _enclose(
    request: GraphRequest, at: Callable[[float], System], low: float, high: float, kind: str
) -> tuple[float, float] | None:
    """The first change of this kind between two times; ``None`` where an atom met only its own image."""
    before = getattr(signature(request, at(low)), kind)
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        if getattr(signature(request, at(middle)), kind) == before:
            low = middle
        else:
            high = middle
    after = getattr(signature(request, at(high)), kind)
    n = at(low).n_atoms
    changed = [pair for pair in {*before, *after} if before.count(pair) != after.count(pair)]
    return (low, high) if any(pair // n != pair % n for pair in changed) else None


def receptive_field(potential: Potential, system: System) -> float | None:
    """What changes beyond the receptive field when the last atom of a long helix is moved.

    Atomic energies where there are any, otherwise direct forces. The helix is as dense as the
    structure given, of the same elements.
    """
    if not is_single(system) or bool(system.pbc.any()) or isinstance(potential, SpaceEnergyPotential):
        return None
    reach, cutoff = potential.request.receptive_field, potential.request.cutoff
    spacing = float(torch.pdist(system.positions).min()) / 1.2
    n = int((reach + 0.5 * cutoff) / (0.7 * spacing)) + 2
    numbers = system.atomic_numbers.repeat(n // system.n_atoms + 1)[:n]
    rod = replace(
        system,
        positions=spacing * torch.as_tensor(helix(n), dtype=system.dtype),
        atomic_numbers=numbers,
        masses=torch.ones(n, dtype=system.dtype),
        system_index=torch.zeros(n, dtype=torch.int64),
        velocities=None,
        fixed=None,
        bonds=torch.stack([torch.arange(n - 1), torch.arange(1, n)], dim=1),
    )
    places = rod.positions.clone()
    places[-1] += 0.1 * spacing * torch.tensor([-0.4, 0.8, 0.5]).to(places)
    moved = replace(rod, positions=places)
    one, other = predict(potential, rod), predict(potential, moved)
    far = torch.ones(n, dtype=torch.bool)
    for last in (rod.positions[-1], places[-1]):
        far &= (rod.positions - last).norm(dim=1) > reach
    if one.atomic_energies is not None and other.atomic_energies is not None:
        change = (other.atomic_energies - one.atomic_energies)[far, None]
    elif one.energy is None:
        change = (other.forces - one.forces)[far]
    else:
        return None
    return rms(change) / max(rms(one.forces), 1e-300)
