"""What a figure was measured on, and the most that the machine can do."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from kinetograph import kernels
from kinetograph.benchmark.measure import Clock
from kinetograph.kernels.filter import EdgeNetwork

PEAK_SIZE = 2048
IN_CACHE = (96, 128)
"""Rows and width of a product whose operands stay in the first cache."""
REPEATS = 200


def facts(clock: Clock) -> dict[str, Any]:
    """Processor, threads, load and versions, for a person and for a file."""
    import kinetograph

    chosen = kernels.choice()
    return {
        "kinetograph": kinetograph.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": clock.n_threads,
        "device": str(clock.device)
        if clock.device.type == "cpu"
        else torch.cuda.get_device_name(clock.device),
        "kernels": f"{chosen.name}: {chosen.reason}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "clock": clock.name,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peaks(clock: Clock) -> dict[str, float]:
    """Floating-point operations a second by precision."""
    return {
        str(dtype).removeprefix("torch."): peak_flops(clock, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }


def peak_flops(clock: Clock, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second of the machine's best matrix product.

    The better of torch's on large matrices and, on one thread in single precision, of our own on a
    tile that stays in cache; the best of several.
    """
    left, right = torch.randn(2, PEAK_SIZE, PEAK_SIZE, device=clock.device).to(dtype)
    torch.mm(left, right)
    best = max(2.0 * PEAK_SIZE**3 / clock.seconds(lambda: torch.mm(left, right)) for _ in range(5))
    library = kernels.library()
    if library is None or dtype != torch.float32 or clock.device.type != "cpu" or clock.n_threads != 1:
        return best
    n_rows, width = IN_CACHE
    network = EdgeNetwork(library, [(torch.randn(width, width), None, "none")])
    rows = torch.randn(n_rows, width)

    def ours() -> None:
        for _ in range(REPEATS):
            network(rows)

    ours()
    return max(best, *(REPEATS * 2.0 * n_rows * width**2 / clock.seconds(ours) for _ in range(5)))
