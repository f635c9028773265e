"""Rotations uniform over SO(3)."""

from __future__ import annotations

import torch
from torch import Tensor


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    """(n, 3, 3) rotation matrices R, a vector v becomes R v; uniform over SO(3), float64."""
    return rotations_of(torch.randn(n, 4, generator=generator, dtype=torch.float64))


def rotations_of(quaternions: Tensor) -> Tensor:
    """(n, 3, 3) rotation matrices of quaternions (w, x, y, z) of any length.

    Quaternions whose components are independent standard normal numbers give rotations uniform over
    SO(3): their directions are uniform on the unit sphere in four dimensions (Shoemake, "Uniform
    random rotations", Graphics Gems III, 1992).

    Args:
        quaternions: (n, 4), none of them zero.
    """
    w, x, y, z = (quaternions / quaternions.norm(dim=1, keepdim=True)).unbind(dim=1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
