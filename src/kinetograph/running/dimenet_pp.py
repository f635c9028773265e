"""DimeNet++ for running on a CPU; the oracle is the forward pass of ``models/dimenet_pp.py``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kinetograph.kernels.chain import Chain
from kinetograph.running.directional import DirectionalInference


def _filters(layer: Any) -> Tensor:
    """(triplet_width, n_spherical, n_radial)."""
    weight: Tensor = layer.triplet_filter.weight @ layer.triplet_basis.linear.weight
    return weight.reshape(len(weight), *layer.triplet_basis.shape)


class DimeNetPlusPlusInference(DirectionalInference):
    """In compiled passes."""

    filters = staticmethod(_filters)

    def sent(self, chain: Chain, messages: int, radial: int, layer: Any) -> int:
        source = chain.dense(messages, layer.source.weight, layer.source.bias, silu=1.0)
        if layer.radial_filter == "kj":
            source = chain.multiply(source, _radial_filters(chain, radial, layer))
        return chain.dense(source, layer.down.weight, silu=1.0)

    def heard(self, chain: Chain, sums: int, radial: int, layer: Any) -> int:
        heard = chain.dense(sums, layer.up.weight, silu=1.0)
        if layer.radial_filter == "ji":
            heard = chain.multiply(heard, _radial_filters(chain, radial, layer))
        return heard


def _radial_filters(chain: Chain, radial: int, layer: Any) -> int:
    return chain.dense(radial, layer.filter_out.weight @ layer.filter_in.weight)
