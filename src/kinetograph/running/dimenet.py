"""DimeNet for running on a CPU; the oracle is the forward pass of ``models/dimenet.py``.

The bilinear layer's sum over k is made once for each of its basis functions, on all features of a message.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from kinetograph.kernels.chain import Chain
from kinetograph.running.directional import DirectionalInference


def _filters(layer: Any) -> Tensor:
    """(n_bilinear, n_spherical, n_radial)."""
    weight: Tensor = layer.triplet_basis.linear.weight
    return weight.reshape(len(weight), *layer.triplet_basis.shape)


class DimeNetInference(DirectionalInference):
    """In compiled passes; a message lies behind itself once for each function of the bilinear layer."""

    filters = staticmethod(_filters)

    @property
    def features_per_filter(self) -> int:
        return self.padded

    def sent(self, chain: Chain, messages: int, radial: int, layer: Any) -> int:
        source = chain.dense(messages, layer.source.weight, layer.source.bias, silu=1.0)
        if layer.radial_filter == "kj":
            source = chain.multiply(source, chain.dense(radial, layer.filter.weight))
        return source

    def heard(self, chain: Chain, sums: int, radial: int, layer: Any) -> int:
        extra = self.padded - self.width
        if layer.radial_filter == "ji":
            filters = pad(layer.filter.weight, (0, 0, 0, extra)).repeat(layer.bilinear.shape[1], 1)
            sums = chain.multiply(sums, chain.dense(radial, filters))
        return chain.dense(sums, pad(layer.bilinear, (0, extra)).flatten(1))
