"""Compile the kernels for GPUs without having one, at the sizes of published models; print what they need.

A program of its own: under TRITON_INTERPRET, as tests set it, nothing is compiled.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kinetograph.kernels.gpu import (
    conditional_filter,
    continuous_filter,
    gated_sum,
    legendre_sum,
    painn_message,
)

WHOLE = {"first", "neighbor", "center", "types", "left_out", "first_incoming", "incoming"}
SCALARS = {"start": "fp32", "per_length": "fp32", "n_rows": "i32"}
BLOCKS = {"BLOCK_E": 16, "BLOCK_F": 64}
MESSAGE = {"F": 128, "TYPED": True, "MOVED": True, "BLOCK_E": 8, "BLOCK_F": 64}
TRIPLETS = {"D": 64, "WEIGHTED": True, "SPARED": True, **BLOCKS}
CAPABILITIES = (80, 90)
ANGLES = {"N_L": 7, "F": 128, "BLOCK_L": 16, **BLOCKS}


def filter_of(n_layers: int) -> dict[str, Any]:
    """GAMD's, at the paper's width."""
    sizes = {"K": 128, "H": 128, "N_LAYERS": n_layers, "WEIGHTED": True, "PRECISION": "ieee"}
    return {**sizes, "BLOCK_E": conditional_filter.BLOCK_E, "BLOCK_K": conditional_filter.BLOCK_K}


KERNELS: dict[str, tuple[Any, dict[str, Any], dict[str, int]]] = {
    "continuous": (continuous_filter._convolved, {"F": 128, **BLOCKS}, {}),
    "continuous slopes": (continuous_filter._slopes, {"F": 128, **BLOCKS}, {}),
    "messages": (painn_message._messages, MESSAGE, {}),
    "messages by atoms": (painn_message._by_atoms, MESSAGE, {}),
    "messages by edges": (painn_message._by_edges, MESSAGE, {}),
    "gated": (gated_sum._summed, TRIPLETS, {}),
    "gated by first": (gated_sum._by_first, TRIPLETS, {}),
    "gated by second": (gated_sum._by_second, TRIPLETS, {}),
    "spread": (legendre_sum._spread, ANGLES, {}),
    "gathered": (legendre_sum._gathered, ANGLES, {}),
    "slopes of units": (legendre_sum._slopes, ANGLES, {}),
    "conditional, two layers": (conditional_filter._summed, filter_of(2), {"num_stages": 1, "num_warps": 8}),
    "conditional, three layers": (
        conditional_filter._summed,
        filter_of(3),
        {"num_stages": 1, "num_warps": 8},
    ),
}


def shared_bytes(kernel: Any, constants: dict[str, Any], options: dict[str, int], capability: int) -> int:
    """Compile a kernel; the memory of a multiprocessor that one of its programs needs."""
    names = list(inspect.signature(kernel.fn).parameters)

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        return SCALARS.get(name, "*i64" if name in WHOLE else "*fp32")

    source = ASTSource(
        fn=kernel,
        signature={name: kind(name) for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return int(compiled.metadata.shared)


if __name__ == "__main__":
    found = {
        name: {capability: shared_bytes(*what, capability) for capability in CAPABILITIES}
        for name, what in KERNELS.items()
    }
    sys.stdout.write(json.dumps(found))
