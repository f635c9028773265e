"""Random rotations of training structures."""

from __future__ import annotations

from dataclasses import replace

import torch

from kinetograph.data.dataset import Sample
from kinetograph.rotations import random_rotations


def rotated(sample: Sample, generator: torch.Generator) -> Sample:
    """The sample with each structure, its cell and its forces turned by a rotation of its own."""
    rotation = random_rotations(sample.system.n_systems, generator)
    rotation = rotation.to(sample.forces)
    forces = torch.einsum("nij,nj->ni", rotation[sample.system.system_index], sample.forces)
    return replace(sample, system=sample.system.rotated(rotation), forces=forces)
