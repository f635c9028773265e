"""Compile the native kernels: ``make kernels``, and an install does the same (``hatch_build.py``).

Needs nothing but the standard library and a C++ compiler (``CC``, or else ``cc``: of C++ no library is
used, so that the driver of C links). The result needs neither: one shared library for each instruction set,
of which the best that a machine has is loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).with_name("csrc")
COMPILED = Path(__file__).with_name("compiled")

FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
)

INSTRUCTION_SETS: dict[str, tuple[str, ...]] = (
    {
        "avx512_bf16": ("-march=x86-64-v4", "-mavx512bf16"),
        "avx512": ("-march=x86-64-v4",),
        "avx2": ("-march=x86-64-v3",),
        "baseline": ("-march=x86-64-v2",),
    }
    if platform.machine() in ("x86_64", "AMD64")
    else {"baseline": ()}
)
"""Best first, with the compiler's flags."""


def library_path(instruction_set: str) -> Path:
    """Where the library for an instruction set lies."""
    return COMPILED / f"kernels-{instruction_set}.so"


def source_hash() -> str:
    """Of everything that is compiled, and how: it is kept in the libraries."""
    digest = hashlib.sha256(repr((FLAGS, INSTRUCTION_SETS)).encode())
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def compiler() -> list[str] | None:
    """The command of a C++ compiler, if there is one."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if command and shutil.which(command[0]) else None


def compile_all() -> list[Path]:
    """Compile every library; where that fails none is left, not even an old one.

    Raises:
        OSError: there is no compiler, or no way to write.
        subprocess.CalledProcessError: it refused; what it said is on stderr.
    """
    for name in INSTRUCTION_SETS:
        library_path(name).unlink(missing_ok=True)
    command = compiler()
    if command is None:
        raise FileNotFoundError("no C++ compiler: set CC, or install one")
    COMPILED.mkdir(exist_ok=True)
    definition = f'-DSOURCE_HASH="{source_hash()}"'

    def compile_one(name: str) -> Path:
        path = library_path(name)
        with tempfile.TemporaryDirectory(dir=COMPILED) as folder:
            made = Path(folder) / path.name
            sources = [str(p) for p in sorted(SOURCES.glob("*.cpp"))]
            subprocess.run(
                [*command, *FLAGS, *INSTRUCTION_SETS[name], definition, *sources, "-o", str(made)], check=True
            )
            made.replace(path)  # a library in use is never written over
        return path

    try:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(compile_one, INSTRUCTION_SETS))
    except (OSError, subprocess.CalledProcessError):
        for name in INSTRUCTION_SETS:
            library_path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    try:
        compile_all()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"the native kernels were not compiled: {error}")
