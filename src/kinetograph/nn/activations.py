"""Activations that several papers share and torch has not."""

from __future__ import annotations

import math

from torch import Tensor, nn


class ShiftedSoftplus(nn.Module):
    """ln(½ eˣ + ½): smooth, and zero at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(x) - math.log(2.0)
