"""A potential held against labelled frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from ase.data import chemical_symbols

from kinetograph.analysis.forces import ForceErrors, force_errors
from kinetograph.data.dataset import ForceDataset, collate
from kinetograph.data.frames import LabelledFrames
from kinetograph.errors import UserError
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
        unknown = set(frames.elements) - set(potential.domain.elements)
        if unknown:
            names = ", ".join(chemical_symbols[z] for z in sorted(unknown))
            raise UserError(f"the model never saw the element {names}", where=frames.source)
    dataset = ForceDataset(frames, potential.request)
    predicted = []
    done = 0
    while done < len(dataset):
        end = done + 1
        atoms = dataset[done].system.n_atoms
        while end < len(dataset) and atoms + dataset[end].system.n_atoms <= ATOMS_PER_BATCH:
            atoms += dataset[end].system.n_atoms
            end += 1
        batch = collate(dataset.samples[done:end])
        with torch.no_grad():
            predicted.append(potential(batch.system, batch.neighbors).forces.cpu().numpy())
        done = end
        if progress is not None:
            progress(done, len(dataset))
    return force_errors(
        np.concatenate(frames.forces),
        np.concatenate(predicted),
        np.concatenate([atoms.numbers for atoms in frames.atoms]),
    )
