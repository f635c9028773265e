"""Libraries to test with, and what tests of forms share made importable for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kinetograph.kernels import native
from kinetograph.kernels.build import INSTRUCTION_SETS, library_path
from kinetograph.kernels.native import Choice, Library

# pytest imports tests by path, not from their folder.
sys.path.insert(0, str(Path(__file__).parent))

CAPABILITIES = {"avx512_bf16": ("AVX512",), "avx512": ("AVX512",), "avx2": ("AVX512", "AVX2")}


def instruction_sets() -> list[object]:
    """The one in use here and the narrowest; the others are for the slow tier."""
    first = {native.choice().name, "baseline"}
    return [
        name if name in first else pytest.param(name, marks=pytest.mark.slow) for name in INSTRUCTION_SETS
    ]


@pytest.fixture(params=instruction_sets())
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Every library that this machine can run, in use for the length of the test."""
    name: str = request.param
    able = CAPABILITIES.get(name)
    if able is not None and torch.backends.cpu.get_cpu_capability() not in able:
        pytest.skip(f"this processor has no {name}")
    if name == "avx512_bf16" and not native.has_avx512_bf16():
        pytest.skip("this processor has no avx512_bf16")
    if not library_path(name).exists():
        pytest.skip("no compiled kernels: there was no C++ compiler")
    loaded = Library(str(library_path(name)))
    monkeypatch.setattr(native, "_loaded", lambda: (loaded, Choice(name, "a test")))
    return loaded


@pytest.fixture(params=[1, 3], ids=lambda n: f"{n} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many threads torch and the kernels have, for the length of the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
