"""How much memory is free, and the most that was taken since one began to look."""

from __future__ import annotations

import ctypes
import math
import re
from pathlib import Path
from typing import Protocol

import torch

KIB = 1024


class Memory(Protocol):
    """Of one device."""

    free: float
    """Bytes, when one began to look."""

    def most_taken(self) -> float:
        """Bytes, at the worst moment since then, beyond what was taken before."""


def memory_of(device: torch.device) -> Memory:
    """Begin to look at the memory of a device."""
    return DeviceMemory(device) if device.type == "cuda" else HostMemory()


class DeviceMemory:
    """What tensors take on a CUDA device, as its allocator counts it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = torch.cuda.memory_allocated(device)
        unused = torch.cuda.memory_reserved(device) - self._before  # the allocator's own reserve
        self.free = float(torch.cuda.mem_get_info(device)[0] + unused)
        torch.cuda.reset_peak_memory_stats(device)

    def most_taken(self) -> float:
        return float(torch.cuda.max_memory_allocated(self._device) - self._before)


class HostMemory:
    """Resident memory of the process, as Linux counts it; elsewhere all is free and nothing taken."""

    def __init__(self) -> None:
        self.free = math.inf
        if not Path("/proc/meminfo").exists():
            return
        _give_back_what_is_free()
        try:  # let the high-water mark begin anew; without it too little is seen, never too much
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _resident("VmRSS")
        except OSError:
            self._before = _resident("VmHWM")
        available = _kib("/proc/meminfo", "MemAvailable")
        self.free = min(available, _limit_of_group() - _resident("VmRSS"))

    def most_taken(self) -> float:
        return 0.0 if math.isinf(self.free) else _resident("VmHWM") - self._before


def _give_back_what_is_free() -> None:
    """Memory that was freed but kept by the C library would be taken again unseen."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc
        library.malloc_trim(0)


def _resident(name: str) -> float:
    return _kib("/proc/self/status", name)


def _kib(file: str, name: str) -> float:
    """Bytes of an entry such as ``VmRSS:   1234 kB``."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path(file).read_text(), re.MULTILINE)
    return float(found[1]) * KIB if found else math.inf


def _limit_of_group() -> float:
    """Bytes that a container or a batch job may take: the least of its control group and those above."""
    try:
        (path,) = re.findall(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return math.inf
    root = Path("/sys/fs/cgroup")
    folders = [root / path, *(root / path).parents]
    files = [folder / "memory.max" for folder in folders if folder.is_relative_to(root)]
    limits = [file.read_text().strip() for file in files if file.is_file()]
    return min((float(limit) for limit in limits if limit.isdigit()), default=math.inf)
