"""What a relaxation shows on its way, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.dynamics.relax.coordinates import free_forces, largest_of
from kinetograph.potential import Prediction
from kinetograph.system import System, batch, subset


@dataclass(frozen=True)
class Frames:
    """The structures that are computed together, with the forces on them."""

    numbers: list[int]
    """Their places among all that were given, from 0."""
    n_steps: list[int]
    """The moves that each has made."""
    system: System
    prediction: Prediction
    max_force: Tensor
    """(n_systems,) eV/Å: see ``Relaxed``."""
    max_stress: Tensor | None
    """(n_systems,) eV/Å³: see ``Relaxed``."""

    @staticmethod
    def of(
        numbers: list[int],
        n_steps: list[int],
        system: System,
        prediction: Prediction,
        max_stress: Tensor | None,
    ) -> Frames:
        sizes = torch.linalg.vector_norm(free_forces(system, prediction), dim=1)
        largest = largest_of(system.system_index, sizes, system.n_systems)
        return Frames(numbers, n_steps, system, prediction, largest, max_stress)

    def structure(self, index: int) -> Relaxed:
        """One of them as if it ended here, not converged."""
        of_atoms = self.system.system_index == index
        energy, stress = self.prediction.energy, self.prediction.stress
        return Relaxed(
            number=self.numbers[index],
            n_steps=self.n_steps[index],
            system=subset(self.system, [index]),
            converged=False,
            energy_eV=None if energy is None else float(energy[index]),
            max_force_eV_per_A=float(self.max_force[index]),
            max_stress_eV_per_A3=None if self.max_stress is None else float(self.max_stress[index]),
            forces=self.prediction.forces[of_atoms],
            stress=None if stress is None else stress[index],
        )


@dataclass(frozen=True)
class Relaxed:
    """One structure at the end of its relaxation."""

    number: int
    """Its place among those that were given, from 0."""
    n_steps: int
    """Moves made; its forces were asked for once more than that."""
    system: System
    """Where it ended: relaxed, after its last step, or where it failed."""
    converged: bool
    energy_eV: float | None = None
    """``None`` where the potential gives none."""
    max_force_eV_per_A: float | None = None
    """The largest force on a free atom; of forces that are no gradient, without a net force or torque."""
    max_stress_eV_per_A3: float | None = None
    """The largest component of the stress less the target's, along what is free of the cell. ``None`` where
    the cell is held."""
    forces: Tensor | None = None
    """(n_atoms, 3) eV/Å, also on fixed atoms; ``None`` where the potential refused the structure."""
    stress: Tensor | None = None
    """(3, 3) eV/Å³, where the potential gives it."""
    failure: str | None = None
    """What went wrong, in words."""
    warnings: tuple[str, ...] = ()
    """How the structure lies outside what the model was trained on."""


@dataclass(frozen=True)
class RelaxationResult:
    """All structures, in the order in which they were given."""

    structures: list[Relaxed]
    n_evaluations: int
    """How many times the forces on a structure were computed."""
    wall_s: float

    @property
    def system(self) -> System:
        """Where they ended, as one batch."""
        return batch([relaxed.system for relaxed in self.structures])

    @property
    def n_converged(self) -> int:
        return sum(relaxed.converged for relaxed in self.structures)

    @property
    def n_failed(self) -> int:
        return sum(relaxed.failure is not None for relaxed in self.structures)
