"""Functions of distance and angle together: spherical Bessel functions and Legendre polynomials."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn

from kinetograph.errors import UserError
from kinetograph.nn.model import option_key

N_SERIES_TERMS = 22
"""The power series of j_l below l + 1 is then exact to double precision for l ≤ 10."""
MAX_DEGREES = 10
"""l = 0 … 9, for which that has been seen."""


def spherical_bessel_roots(n_l: int, n_roots: int) -> Tensor:
    """(n_l, n_roots) float64: the first positive roots of j_l for l = 0 … n_l − 1."""
    return torch.tensor(_spherical_bessel_roots(n_l, n_roots))


@functools.cache
def _spherical_bessel_roots(n_l: int, n_roots: int) -> NDArray[np.float64]:
    # The roots of j_l lie between those of j_(l−1), which start as n π.
    roots = [math.pi * np.arange(1, n_roots + n_l)]
    for l in range(1, n_l):

        def function(x: float, l: int = l) -> float:
            return float(spherical_jn(l, x))

        roots.append(np.array([brentq(function, a, b, xtol=1e-14) for a, b in pairwise(roots[-1])]))
    return np.stack([row[:n_roots] for row in roots])


def _bessel_values(x: Tensor, lowest: int) -> Tensor:
    """j_l(x), where l counts up from ``lowest`` along the last dimension but one; j_0 for l < 0.

    The closed form by upward recurrence loses digits below x ≈ l, where the power series is used.
    """
    highest = lowest + x.shape[-2] - 1
    degree = torch.arange(lowest, highest + 1, dtype=x.dtype, device=x.device).clamp(min=0).unsqueeze(1)
    split = degree + 1.0
    near = x < split
    small = torch.where(near, x, 0.0)
    large = torch.where(near, 2.0 * split, x)
    # j_l = x^l / (2l+1)!! · Σ_k (−x²/2)^k / [k! (2l+3)(2l+5)…(2l+2k+1)]
    half_square = -0.5 * small * small
    term = torch.ones_like(x)
    series = torch.ones_like(x)
    for k in range(1, N_SERIES_TERMS):
        term = term * half_square / (k * (2.0 * degree + (2 * k + 1)))
        series = series + term
    below, here = torch.cos(large) / large, torch.sin(large) / large
    for k in range(highest):
        climbs = degree > k
        series = torch.where(climbs, series * small / (2 * k + 3), series)
        above = (2 * k + 1) / large * here - below
        below, here = torch.where(climbs, here, below), torch.where(climbs, above, here)
    return torch.where(near, series, here)


class _Bessel(torch.autograd.Function):
    """``_bessel_values`` with (2l+1) j_l' = l j_(l−1) − (l+1) j_(l+1) as derivative.

    The derivative is made of the same functions, so that any number of derivatives is as accurate as
    the values, and none keeps the terms of the series.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, lowest: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.lowest = lowest
        return _bessel_values(x, lowest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        first, last = ctx.lowest, ctx.lowest + x.shape[-2]
        l = torch.arange(first, last, dtype=x.dtype, device=x.device).clamp(min=0).unsqueeze(1)
        slope = (l * _bessel(x, first - 1) - (l + 1) * _bessel(x, first + 1)) / (2 * l + 1)
        return grads[0] * slope, None


def _bessel(x: Tensor, lowest: int) -> Tensor:
    values: Tensor = _Bessel.apply(x, lowest)  # type: ignore[no-untyped-call]
    return values


def spherical_bessel(l: int, x: Tensor) -> Tensor:
    """j_l(x) for x ≥ 0, differentiable any number of times, accurate in double precision."""
    return _bessel(x.reshape(1, -1), l).reshape(x.shape)


def spherical_bessel_norm(roots: Tensor) -> Tensor:
    """(n_l, n_roots): √2 / |j_(l+1)(z_ln)|, which makes j_l(z_ln x) orthonormal on the unit ball.

    As ∫₀¹ j_l(z_ln x)² x² dx = ½ j_(l+1)(z_ln)².
    """
    return math.sqrt(2.0) / _bessel(roots.double(), 1).abs()


def spherical_bessel_basis(x: Tensor, roots: Tensor, norm: Tensor | None = None) -> Tensor:
    """(n, n_l, n_roots): j_l(z_ln x) over its norm on the unit ball, for x = d/c in 0 … 1.

    Orthonormal with the weight x². Worked out in double precision and rounded to the type of ``x``.

    Args:
        roots: (n_l, n_roots), see :func:`spherical_bessel_roots`.
        norm: :func:`spherical_bessel_norm` of the roots, where it is at hand.
    """
    z = roots.double()
    norm = spherical_bessel_norm(z) if norm is None else norm
    return (norm * _bessel(x.double()[:, None, None] * z, 0)).to(x.dtype)


class SphericalBesselBasis(nn.Module):
    """:func:`spherical_bessel_basis` with its roots and norm, which stay in double precision."""

    roots: Tensor
    norm: Tensor

    def __init__(self, n_l: int, n_roots: int) -> None:
        super().__init__()
        if n_l > MAX_DEGREES:
            raise UserError(
                f"{n_l} degrees of spherical harmonics",
                where=option_key("n_spherical"),
                mend=f"Take 1 to {MAX_DEGREES}; the papers have 7.",
            )
        roots = spherical_bessel_roots(n_l, n_roots)
        self.register_buffer("roots", roots, persistent=False)
        self.register_buffer("norm", spherical_bessel_norm(roots), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n,) in 0 … 1 → (n, n_l, n_roots)."""
        return spherical_bessel_basis(x, self.roots, self.norm)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        roots, norm = self.roots, self.norm
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.roots, self.norm = roots.to(self.roots.device), norm.to(self.norm.device)
        return self


def legendre(cosine: Tensor, n_l: int) -> Tensor:
    """(n, n_l): P_l(cos θ) for l = 0 … n_l − 1, by Bonnet's recurrence."""
    values = [torch.ones_like(cosine), cosine]
    for l in range(1, n_l - 1):
        values.append(((2 * l + 1) * cosine * values[l] - l * values[l - 1]) / (l + 1))
    return torch.stack(values[:n_l], dim=1)


def zonal_harmonics(cosine: Tensor, n_l: int) -> Tensor:
    """(n, n_l): Y_l0 = √((2l+1)/4π) P_l(cos θ) for l = 0 … n_l − 1.

    From the cosine: no angle is formed, so gradients stay finite where three atoms lie on a line.
    """
    degree = torch.arange(n_l, dtype=cosine.dtype, device=cosine.device)
    return legendre(cosine, n_l) * torch.sqrt((2.0 * degree + 1.0) / (4.0 * math.pi))
