"""Random rotations of training structures."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kinetograph.data.dataset import Sample


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    """(n, 3, 3) rotation matrices, uniform over SO(3), from random unit quaternions (Shoemake 1992)."""
    q = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).unbind(dim=1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def rotated(sample: Sample, generator: torch.Generator) -> Sample:
    """The sample with each structure, its cell and its forces turned by a rotation of its own."""
    rotation = random_rotations(sample.system.n_systems, generator)
    rotation = rotation.to(sample.forces)
    forces = torch.einsum("nij,nj->ni", rotation[sample.system.system_index], sample.forces)
    return replace(sample, system=sample.system.rotated(rotation), forces=forces)
