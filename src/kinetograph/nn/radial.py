"""Functions of distance: radial bases and envelopes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GaussianBasis(nn.Module):
    """exp(−γ (x − μ_k)²) with n centres evenly spaced from start to stop.

    Args:
        start, stop: first and last centre, in the unit of the argument.
        n_functions: number of centres.
        gamma: sharpness, inverse square of that unit; by default the functions cross their
            neighbours' centres at e^(−1/2) of their height (width = spacing).
    """

    def __init__(self, start: float, stop: float, n_functions: int, gamma: float | None = None) -> None:
        super().__init__()
        self.start = start
        self.spacing = (stop - start) / (n_functions - 1)
        self.n_functions = n_functions
        self.gamma = 0.5 / self.spacing**2 if gamma is None else gamma

    def forward(self, x: Tensor) -> Tensor:
        """(n,) → (n, n_functions)."""
        # Made here, not kept as a buffer, so that the centres are exact in the type of the argument.
        centers = self.start + self.spacing * torch.arange(self.n_functions, dtype=x.dtype, device=x.device)
        return torch.exp(-self.gamma * (x.unsqueeze(1) - centers).square())


def cosine_cutoff(distances: Tensor, cutoff: float) -> Tensor:
    """½ [cos(π d/c) + 1] below the cutoff c, 0 beyond: value and slope vanish at c (Behler 2007)."""
    return 0.5 * (torch.cos(distances * (math.pi / cutoff)) + 1.0) * (distances < cutoff)
