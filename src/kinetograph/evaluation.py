"""A potential held against labelled frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kinetograph.analysis.energies import EnergyErrors, energy_errors
from kinetograph.analysis.forces import ForceErrors, force_errors
from kinetograph.analysis.stresses import StressErrors, stress_errors
from kinetograph.data.dataset import ForceDataset, collate
from kinetograph.data.frames import LabelledFrames
from kinetograph.potential import Potential

ATOMS_PER_BATCH = 2000
"""Keeps the edges of a batch in cache while the overhead of a call is spread over many atoms."""
ATOMS_PER_BATCH_WITH_TRIPLETS = 400
"""Triplets, and more so quadruplets, fill the memory sooner than edges."""


@dataclass(frozen=True)
class Errors:
    """Errors of a potential on labelled frames."""

    forces: ForceErrors
    energies: EnergyErrors | None = None
    """``None`` where the potential gives none or the frames have none."""
    stresses: StressErrors | None = None
    """``None`` likewise."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        numbers = self.forces.to_json()
        for errors in (self.energies, self.stresses):
            if errors is not None:
                numbers |= errors.to_json()
        return numbers


def evaluate(
    potential: Potential, frames: LabelledFrames, *, progress: Callable[[int, int], None] | None = None
) -> Errors:
    """Errors of a potential's forces, and energies and stresses where both sides have them.

    Args:
        progress: called with the frames done and their total.

    Raises:
        UserError: the frames hold an element that the potential was not trained on.
    """
    if potential.domain is not None:
        potential.domain.require_elements(frames.elements, where=frames.source)
    return errors_on(potential, ForceDataset(frames, potential.request), progress=progress)


def errors_on(
    potential: Potential, dataset: ForceDataset, *, progress: Callable[[int, int], None] | None = None
) -> Errors:
    """The same over frames whose neighbour lists are made."""
    device = next((p.device for p in potential.parameters()), torch.device("cpu"))
    requests = [part.request for part in potential.modules() if isinstance(part, Potential)]
    limit = ATOMS_PER_BATCH
    if any(request.triplets is not None for request in requests):
        limit = ATOMS_PER_BATCH_WITH_TRIPLETS
    if any(request.link_cutoff is not None for request in requests):
        limit = 1  # one structure at a time
    forces, energies, stresses = [], [], []
    done = 0
    was_training = potential.training
    potential.eval()
    while done < len(dataset):
        end = done + 1
        atoms = dataset[done].system.n_atoms
        while end < len(dataset) and atoms + dataset[end].system.n_atoms <= limit:
            atoms += dataset[end].system.n_atoms
            end += 1
        batch = collate(dataset.samples[done:end]).to(device)
        with torch.no_grad():
            prediction = potential(batch.system, batch.neighbors)
        forces.append(prediction.forces.cpu().numpy())
        if prediction.energy is not None:
            energies.append(prediction.energy.cpu().numpy())
        stress = prediction.stress
        if stress is None:
            stress = torch.full_like(batch.stresses, torch.nan)
        stresses.append(stress.cpu().numpy())
        done = end
        if progress is not None:
            progress(done, len(dataset))
    potential.train(was_training)
    samples = dataset.samples
    numbers = [sample.system.atomic_numbers.numpy() for sample in samples]
    return Errors(
        forces=force_errors(
            np.concatenate([sample.forces.numpy() for sample in samples]),
            np.concatenate(forces),
            np.concatenate(numbers),
        ),
        energies=energy_errors(
            np.concatenate([sample.energies.numpy() for sample in samples]), np.concatenate(energies), numbers
        )
        if energies
        else None,
        stresses=stress_errors(
            np.concatenate([sample.stresses.numpy() for sample in samples]), np.concatenate(stresses)
        ),
    )
