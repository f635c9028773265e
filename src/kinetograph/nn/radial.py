"""Functions of distance: radial bases, cutoff functions, envelopes."""

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


def whole_power(x: Tensor, p: int) -> Tensor:
    """xᵖ for p = 1, 2 …, by products: ``x**p`` has other last bits in some places of a tensor than in
    others, and a structure must not feel where in a batch it stands."""
    power = x
    for digit in bin(p)[3:]:
        power = power * power
        if digit == "1":
            power = power * x
    return power


def polynomial_envelope(x: Tensor, p: int) -> Tensor:
    """u(x) = 1 − (p+1)(p+2)/2 xᵖ + p(p+2) xᵖ⁺¹ − p(p+1)/2 xᵖ⁺² below x = d/c = 1, 0 beyond.

    Value, slope and curvature vanish at 1 (Gasteiger et al., DimeNet, ICLR 2020, eq. 8).
    """
    a, b, c = -0.5 * (p + 1) * (p + 2), p * (p + 2), -0.5 * p * (p + 1)
    return (1.0 + whole_power(x, p) * (a + x * (b + x * c))) * (x < 1.0)


class BesselBasis(nn.Module):
    """√(2/c) sin(f_n d/c) / d, n = 1 … N, with trainable frequencies f_n that start at n π.

    The radial basis of DimeNet (eq. 7) and GemNet, without its envelope.
    """

    def __init__(self, n_functions: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.frequencies = nn.Parameter(math.pi * torch.arange(1, n_functions + 1))

    def forward(self, distances: Tensor) -> Tensor:
        """(n,) Å → (n, n_functions) Å^(−3/2)."""
        d = distances.unsqueeze(1)
        return math.sqrt(2.0 / self.cutoff) * torch.sin(self.frequencies * (d / self.cutoff)) / d
