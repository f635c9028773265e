"""Every kernel compiles for GPUs that are not here, and fits into their multiprocessors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LARGEST_BYTES = {"80": 166_912, "90": 232_448}
"""Of memory that a program may share, by compute capability (CUDA C++ programming guide, its table)."""


def test_kernels_compile_and_fit_at_the_sizes_of_published_models() -> None:
    pytest.importorskip("triton")
    script = Path(__file__).with_name("compiled_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 13
    for name, needs in found.items():
        for capability, most in LARGEST_BYTES.items():
            assert needs[capability] <= most, f"{name}, {capability}"
