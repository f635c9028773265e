"""The sum of several potentials."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kinetograph.graph import GraphRequest
from kinetograph.learned_potential import LearnedPotential, Precision
from kinetograph.neighbors import NeighborList
from kinetograph.nn.model import Head
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System


class SumPotential(Potential):
    """The sum of several potentials, such as a model and a repulsive core.

    Its request covers every part. Energies and stress are given where every part gives them. The training
    domain is that of its first part.
    """

    def __init__(self, *parts: Potential) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        rules = [part.request.bond_rule for part in parts if part.request.bond_rule is not None]
        if len({rule.tolerance for rule in rules}) > 1:
            raise ValueError(f"the parts ask for different bond rules: {rules}")
        reach = max(part.request.reach for part in parts)
        self.request = GraphRequest(
            cutoff=reach,
            bond_rule=max(rules, key=lambda rule: rule.max_separation, default=None),
            n_layers=max(math.ceil(part.request.receptive_field / reach) for part in parts),
        )
        self.domain = parts[0].domain

    @property
    def gives_energy(self) -> bool:
        return all(part.gives_energy for part in self._potentials)

    @property
    def gives_atomic_energies(self) -> bool:
        return all(part.gives_atomic_energies for part in self._potentials)

    @property
    def gives_stress(self) -> bool:
        return all(part.gives_stress for part in self._potentials)

    @property
    def answers(self) -> Head:
        """The kind of forces that the learned parts answer with; conservative where there are none."""
        learned = [part.answers for part in self._potentials if isinstance(part, LearnedPotential)]
        return "direct" if "direct" in learned else "conservative"

    def use_forces(self, head: Head) -> None:
        """Choose the head of the learned parts; see :meth:`LearnedPotential.use_forces`."""
        for part in self._potentials:
            if isinstance(part, LearnedPotential):
                part.use_forces(head)

    def use_compiler(self) -> None:
        """Compile the learned parts; see :meth:`LearnedPotential.use_compiler`."""
        for part in self._potentials:
            if isinstance(part, LearnedPotential):
                part.use_compiler()

    def use_precision(self, precision: Precision) -> None:
        """Round factors in the learned parts' products; see :meth:`LearnedPotential.use_precision`."""
        for part in self._potentials:
            if isinstance(part, LearnedPotential):
                part.use_precision(precision)

    @property
    def _potentials(self) -> list[Potential]:
        return [part for part in self.parts if isinstance(part, Potential)]

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        predictions: list[Prediction] = [part(system, neighbors) for part in self.parts]

        def total(values: list[Tensor | None]) -> Tensor | None:
            known = [value for value in values if value is not None]
            return torch.stack(known).sum(dim=0) if len(known) == len(values) else None

        return Prediction(
            forces=torch.stack([p.forces for p in predictions]).sum(dim=0),
            conservative=all(p.conservative for p in predictions),
            energy=total([p.energy for p in predictions]),
            atomic_energies=total([p.atomic_energies for p in predictions]),
            stress=total([p.stress for p in predictions]),
            force_std=_only([p.force_std for p in predictions]),
        )


def _only(values: list[Tensor | None]) -> Tensor | None:
    """Of one part that is an ensemble; of several, whose errors are independent, the root of the squares."""
    known = [value for value in values if value is not None]
    return torch.stack(known).square().sum(dim=0).sqrt() if known else None
