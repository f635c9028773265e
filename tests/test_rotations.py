"""Rotations against SciPy's, and that the random ones are uniform."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from kinetograph.rotations import random_rotations, rotations_of


def test_rotations_of_quaternions_are_those_of_scipy(rng: np.random.Generator) -> None:
    quaternions = 3.0 * rng.normal(size=(50, 4))
    expected = Rotation.from_quat(quaternions, scalar_first=True).as_matrix()
    np.testing.assert_allclose(rotations_of(torch.as_tensor(quaternions)).numpy(), expected, atol=1e-13)


def test_random_rotations_are_uniform() -> None:
    n = 20_000
    rotations = random_rotations(n, torch.Generator().manual_seed(4))
    # every element is uniform on [-1, 1] (Archimedes), the angle has the density (1 − cos θ)/π
    assert rotations.mean(dim=0).abs().max() < 4.0 / np.sqrt(3 * n)
    assert (rotations.square().mean(dim=0) - 1.0 / 3.0).abs().max() < 4.0 * np.sqrt(4.0 / 45.0 / n)
    cosine = 0.5 * (torch.einsum("nii->n", rotations) - 1.0)
    assert abs(float(cosine.mean()) + 0.5) < 4.0 * 0.5 / np.sqrt(n)
