"""``TwoForces``: an accurate force model and a cheap one, for multiple time steps."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor

from kinetograph.dynamics.settings import require_whole
from kinetograph.learned_potential import LearnedPotential
from kinetograph.neighbors import NeighborList
from kinetograph.nn.segments import sum_of_blocks
from kinetograph.potential import Potential, Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System


class TwoForces(Potential):
    """Answers with the accurate model; an integrator makes ``ratio`` steps with the cheap one in between.

    The cheap forces need not be a gradient. A net force that they have on a structure without fixed
    atoms is taken out wherever they enter: else it would pull the structure along between two kicks of
    the accurate force. The rest of what they do wrong is put right at the ends of each step. Restraints to
    places and walls, whose net force is meant, belong to the accurate one.

    Args:
        inner: the cheap model.
        outer: the accurate one, whose ensemble is sampled.
        ratio: inner steps in an outer one; the integrator's time step is the outer one.
    """

    def __init__(self, inner: Potential, outer: Potential, ratio: int) -> None:
        super().__init__()
        self.inner = inner
        self.outer = outer
        self.ratio = require_whole("ratio", ratio, least=1)
        self.request = SumPotential(outer, inner).request
        self.domain = outer.domain

    @staticmethod
    def of_heads(model: LearnedPotential, ratio: int) -> TwoForces:
        """The direct forces of a model inside, its conservative ones outside: one pass gives both.

        Raises:
            UserError: the model has not both.
        """
        inner, outer = copy.copy(model), copy.copy(model)  # they share the weights
        inner.use_forces("direct")
        outer.use_forces("conservative")
        outer.also_direct = True
        return TwoForces(inner, outer, ratio)

    @property
    def gives_energy(self) -> bool:
        return self.outer.gives_energy

    @property
    def gives_stress(self) -> bool:
        return self.outer.gives_stress

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        prediction: Prediction = self.outer(system, neighbors)
        if prediction.direct_forces is not None:
            inner = _balanced(prediction.direct_forces, system)
        else:
            inner = self.inner_forces(system, neighbors)
        return replace(prediction, direct_forces=None, inner_forces=inner)

    def inner_forces(self, system: System, neighbors: NeighborList) -> Tensor:
        """(n_atoms, 3) eV/Å of the cheap model."""
        prediction: Prediction = self.inner(system, neighbors)
        return _balanced(prediction.forces, system)


def _balanced(forces: Tensor, system: System) -> Tensor:
    """Forces less their mean over each structure that has no fixed atoms."""
    counts = system.atoms_per_system
    mean = sum_of_blocks(forces, counts) / counts.unsqueeze(1)
    if system.fixed is not None:
        n_fixed = sum_of_blocks(system.fixed.long(), counts)
        mean = mean * (n_fixed == 0).unsqueeze(1)
    return forces - mean[system.system_index]
