"""The structures that are relaxed together: they come, move each at its own pace, and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kinetograph.dynamics.relax.coordinates import CellFreedom, Coordinates
from kinetograph.dynamics.relax.methods import Memory, Method
from kinetograph.graph import GraphRequest
from kinetograph.neighbors import NeighborList, join
from kinetograph.system import System, batch, subset


@dataclass(frozen=True)
class Active:
    """A batch in the middle of its relaxation. Never changed in place."""

    numbers: list[int]
    """Their places among all that were given."""
    n_steps: list[int]
    """The moves that each has made."""
    system: System
    coordinates: Coordinates
    x: Tensor
    """(n_rows, 3) Å: where they are; see ``Coordinates``."""
    memory: Memory
    neighbors: NeighborList

    @staticmethod
    def of(
        numbers: Sequence[int],
        everything: System,
        method: Method,
        freedom: CellFreedom | None,
        request: GraphRequest,
        skin_A: float,
    ) -> Active:
        """Some of all structures before their first step."""
        system = subset(everything, numbers)
        coordinates = Coordinates.of(system, freedom)
        x = coordinates.start(system)
        return Active(
            numbers=list(numbers),
            n_steps=[0] * len(numbers),
            system=system,
            coordinates=coordinates,
            x=x,
            memory=method.start(x, coordinates.rows(system)),
            neighbors=NeighborList.build(system, request.reach, skin=skin_A, bond_rule=request.bond_rule),
        )

    def moved(self, forces: Tensor, method: Method) -> Active:
        """A step later.

        Args:
            forces: (n_rows, 3) eV/Å; see ``Coordinates``.
        """
        x, memory = method.step(self.x, forces, self.coordinates.rows(self.system), self.memory)
        return replace(
            self,
            n_steps=[n + 1 for n in self.n_steps],
            system=self.coordinates.at(x, self.system),
            x=x,
            memory=memory,
        )

    def with_neighbors(self) -> Active:
        """With the edges of those structures found anew that have moved too far for the old ones.

        In a large batch some atom always has: all edges would be found anew in each step.
        """
        stale = _stale(self.neighbors, self.system)
        if not bool(stale.any()):
            return self
        old = self.neighbors
        stale_systems = subset(self.system, torch.nonzero(stale)[:, 0])
        new = NeighborList.build(stale_systems, old.cutoff, skin=old.skin, bond_rule=old.bond_rule)
        if bool(stale.all()):
            return replace(self, neighbors=new)
        of_stale = stale[self.system.system_index]
        atoms, edges = torch.nonzero(of_stale)[:, 0], ~of_stale[old.center]
        center = torch.cat([old.center[edges], atoms[new.center]])
        order = torch.argsort(center, stable=True)

        def both(old_values: Tensor, new_values: Tensor) -> Tensor:
            return torch.cat([old_values[edges], new_values])[order]

        types = None
        if old.edge_types is not None and new.edge_types is not None:
            types = both(old.edge_types, new.edge_types)
        merged = replace(
            old,
            center=center[order],
            neighbor=both(old.neighbor, atoms[new.neighbor]),
            shift=both(old.shift, new.shift),
            positions=torch.where(of_stale.unsqueeze(1), self.system.positions, old.positions),
            cell=torch.where(stale[:, None, None], self.system.cell, old.cell),
            edge_types=types,
        )
        return replace(self, neighbors=merged)

    def kept(self, keep: Sequence[int]) -> Active:
        """These alone, by their place in the batch, ascending."""
        systems = torch.tensor(list(keep), dtype=torch.int64, device=self.system.device)
        chosen = torch.zeros(len(self.numbers), dtype=torch.bool, device=self.system.device)
        chosen[systems] = True
        rows = chosen[self.coordinates.rows(self.system).owner]
        return Active(
            numbers=[self.numbers[index] for index in keep],
            n_steps=[self.n_steps[index] for index in keep],
            system=subset(self.system, systems),
            coordinates=self.coordinates.kept(systems),
            x=self.x[rows],
            memory=self.memory.kept(rows, systems),
            neighbors=self.neighbors.subset(systems, chosen[self.system.system_index]),
        )

    def joined(self, other: Active) -> Active:
        """These and others behind them."""
        return Active(
            numbers=self.numbers + other.numbers,
            n_steps=self.n_steps + other.n_steps,
            system=batch([self.system, other.system]),
            coordinates=self.coordinates.joined(other.coordinates),
            x=torch.cat([self.x, other.x]),
            memory=self.memory.joined(other.memory),
            neighbors=join([self.neighbors, other.neighbors]),
        )


def _stale(neighbors: NeighborList, system: System) -> Tensor:
    """(n_systems,) bool: which structures' edges no longer hold; see ``NeighborList.is_stale``."""
    far = (system.positions - neighbors.positions).square().sum(dim=1) > (0.5 * neighbors.skin) ** 2
    stale = (system.cell != neighbors.cell).flatten(1).any(dim=1)
    stale[system.system_index[far]] = True
    return stale
