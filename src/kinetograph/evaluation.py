"""A potential held against labelled frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from kinetograph.analysis.forces import ForceErrors, force_errors
from kinetograph.data.dataset import ForceDataset, collate
from kinetograph.data.frames import LabelledFrames
from kinetograph.potential import Potential

ATOMS_PER_BATCH = 2000
"""Keeps the edges of a batch in cache while the overhead of a call is spread over many atoms."""


def evaluate(
    potential: Potential, frames: LabelledFrames, *, progress: Callable[[int, int], None] | None = None
) -> ForceErrors:
    """Errors of a potential's forces over labelled frames.

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
) -> ForceErrors:
    """The same over frames whose neighbour lists are made."""
    device = next((p.device for p in potential.parameters()), torch.device("cpu"))
    predicted = []
    done = 0
    was_training = potential.training
    potential.eval()
    while done < len(dataset):
        end = done + 1
        atoms = dataset[done].system.n_atoms
        while end < len(dataset) and atoms + dataset[end].system.n_atoms <= ATOMS_PER_BATCH:
            atoms += dataset[end].system.n_atoms
            end += 1
        batch = collate(dataset.samples[done:end]).to(device)
        with torch.no_grad():
            predicted.append(potential(batch.system, batch.neighbors).forces.cpu().numpy())
        done = end
        if progress is not None:
            progress(done, len(dataset))
    potential.train(was_training)
    return force_errors(
        np.concatenate([sample.forces.numpy() for sample in dataset.samples]),
        np.concatenate(predicted),
        np.concatenate([sample.system.atomic_numbers.numpy() for sample in dataset.samples]),
    )
