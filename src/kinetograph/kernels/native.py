"""The compiled kernels: which library is loaded, and how its functions are called.

There is one library for each instruction set (see ``build.py``). Where none can be used every operation
takes its plain form; :func:`choice` says what is in use and why. ``KINETOGRAPH_KERNELS`` in the environment
chooses another: ``plain``, or the name of an instruction set.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetograph.errors import UserError
from kinetograph.kernels.build import INSTRUCTION_SETS, SOURCES, library_path, source_hash

_switched_off = False


@dataclass(frozen=True)
class Choice:
    """What is in use."""

    name: str
    """An instruction set, or ``"plain"``."""
    reason: str


class Library:
    """A loaded library. Functions are called with numbers and with tensors, whose memory they see."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._functions: dict[str, Any] = {}
        self._library.kg_source_hash.restype = ctypes.c_char_p
        self.source_hash: str = self._library.kg_source_hash().decode()
        self.width = self("kg_width")
        """Floats in a register."""
        self.has_bfloat16 = bool(self("kg_has_bfloat16"))
        """Whether it has products of bfloat16."""

    def __call__(self, name: str, *arguments: Any) -> int:
        """Call a function. Whole numbers are 64 bits wide; tensors must be contiguous and on the CPU."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self._library, name)
            function.restype = ctypes.c_int64
        result: int = function(*[_argument(value) for value in arguments])
        return result


class Workspace(threading.local):
    """Memory kept from call to call, grown where it must be: fresh memory costs a page fault every 4 kB.

    Every thread has its own.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def bytes(self, name: str, n: int) -> Tensor:
        """At least so many bytes, with anything in them."""
        kept = self._kept.get(name)
        if kept is None or len(kept) < n:
            kept = self._kept[name] = torch.empty(n + n // 32, dtype=torch.uint8, device="cpu")
        return kept


def floats(*shape: int) -> Tensor:
    """A fresh tensor of the kind that the kernels write to, whatever torch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def require(dtype: torch.dtype, *tensors: Tensor | None) -> None:
    """Raise ``TypeError`` unless every tensor has this type."""
    for tensor in tensors:
        if tensor is not None and tensor.dtype != dtype:
            raise TypeError(f"{tensor.dtype} where {dtype} is needed")


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_contiguous() or value.device.type != "cpu":
            raise ValueError("kernels see contiguous tensors on the CPU only")
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return value


def has_avx512_bf16() -> bool:
    """Whether the processor has this instruction set, as far as the system says."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


@cache
def _loaded() -> tuple[Library | None, Choice]:
    asked = os.environ.get("KINETOGRAPH_KERNELS", "")
    if asked == "plain":
        return None, Choice("plain", "KINETOGRAPH_KERNELS asks for it")
    if asked and asked not in INSTRUCTION_SETS:
        raise UserError(
            f"unknown kernels {asked!r}",
            where="KINETOGRAPH_KERNELS",
            mend=f"Known here: plain, {', '.join(INSTRUCTION_SETS)}.",
        )
    capability = torch.backends.cpu.get_cpu_capability()
    best = {"AVX512": "avx512", "AVX2": "avx2"}.get(capability, "baseline")
    if best == "avx512" and has_avx512_bf16():
        best = "avx512_bf16"
    names = list(INSTRUCTION_SETS)
    tried = [asked] if asked else names[names.index(best) if best in names else 0 :]
    for name in tried:
        try:
            library = Library(str(library_path(name)))
        except (OSError, AttributeError):  # not there, or not ours
            continue
        if SOURCES.is_dir() and library.source_hash != source_hash():
            return None, Choice(
                "plain", "the compiled kernels are older than their sources: run `make kernels`"
            )
        return library, Choice(name, "asked for" if asked else f"the best for this processor ({capability})")
    if asked:
        raise UserError(
            f"there are no compiled kernels for {asked}",
            where="KINETOGRAPH_KERNELS",
            mend="Run `make kernels`, or install again where there is a C++ compiler.",
        )
    return None, Choice("plain", "no compiled kernels were installed: there was no C++ compiler")


def library() -> Library | None:
    """The library in use; ``None``: the plain forms."""
    return None if _switched_off else _loaded()[0]


def choice() -> Choice:
    """What is in use, and why."""
    return Choice("plain", "switched off") if _switched_off else _loaded()[1]


def triton_kernels() -> bool:
    """Whether a GPU may run the operators' Triton kernels, and the forms of models that are made of them."""
    return not _switched_off and _triton_works()


@cache
def _triton_works() -> bool:
    if os.environ.get("KINETOGRAPH_KERNELS") == "plain" or find_spec("triton") is None:
        return False
    try:
        from kinetograph.kernels.gpu.probe import works

        return works()
    except Exception as error:  # a missing compiler, a device that Triton does not know …
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"Triton cannot run here, plain forms do: {first_line}", UserWarning, stacklevel=2)
        return False


def only_plain_forms() -> bool:
    """Whether only they are asked for: within :func:`plain_forms`, or in the environment."""
    return _switched_off or os.environ.get("KINETOGRAPH_KERNELS") == "plain"


@contextmanager
def plain_forms() -> Iterator[None]:
    """Within, every operation takes its plain form."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before
