"""Random rotations of training structures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from kinetograph.data.dataset import Sample
from kinetograph.rotations import random_rotations


def rotated(sample: Sample, generator: torch.Generator, axis: Literal["any", "z"] = "any") -> Sample:
    """The sample with each structure, its cell and its labels turned by a rotation of its own."""
    n_systems = sample.system.n_systems
    rotation = random_rotations(n_systems, generator) if axis == "any" else _about_z(n_systems, generator)
    rotation = rotation.to(sample.forces)
    forces = torch.einsum("nij,nj->ni", rotation[sample.system.system_index], sample.forces)
    stresses = rotation @ sample.stresses @ rotation.transpose(1, 2)
    return replace(sample, system=sample.system.rotated(rotation), forces=forces, stresses=stresses)


def _about_z(n: int, generator: torch.Generator) -> Tensor:
    """(n, 3, 3) rotations about z by uniformly random angles."""
    angle = 2.0 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    matrix = torch.zeros(n, 3, 3, dtype=torch.float64)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.cos(angle)
    matrix[:, 1, 0] = torch.sin(angle)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    matrix[:, 2, 2] = 1.0
    return matrix
