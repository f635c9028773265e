"""The folder that a generation leaves: its files, written completely or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.reference.sampling import Material
from kinetograph.trajectory import Frame, TrajectoryWriter

LABEL_FILES = ("train.extxyz", "valid.extxyz", "test.extxyz", "start.extxyz")
COLD_START = "cold_start.h5"
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class GeneratedData:
    """What a generation wrote, and where."""

    folder: Path
    train: Path
    valid: Path
    test: Path
    start: Path
    references: tuple[Path, ...]
    cold_start: Path
    n_frames: dict[str, int]
    """Labelled frames in each split."""
    mean_temperature_K: float
    """Over the labelled frames."""
    seconds: float
    """Wall time."""
    provenance: dict[str, Any]


class LabelFile:
    """Appends frames to an extended XYZ file; the first of them carries the provenance."""

    def __init__(self, file: TextIO, provenance: dict[str, Any]) -> None:
        self._file = file
        self._provenance: str | None = compact_json(provenance)

    def write(self, atoms: ase.Atoms) -> None:
        if self._provenance is not None:
            atoms.info["provenance"] = self._provenance
            self._provenance = None
        write_extxyz(self._file, atoms)


def compact_json(content: dict[str, Any]) -> str:
    """JSON in one line without backslashes, which ASE's reader of extended XYZ would not give back."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
    assert "\\" not in text, "the text for an extended XYZ file must be plain ASCII without quotes"
    return text


def labelled_atoms(frame: Frame, material: Material, info: dict[str, Any]) -> ase.Atoms:
    """A frame with momenta, forces (eV/Å) and energy (eV), as ASE writes it to extended XYZ."""
    assert frame.velocities is not None
    atoms = ase.Atoms(
        numbers=material.atomic_numbers, positions=frame.positions, cell=frame.cell, pbc=True, info=info
    )
    atoms.set_velocities(frame.velocities * units.ASE_TIME_IN_FS)
    atoms.calc = SinglePointCalculator(atoms, energy=frame.potential_energy, forces=frame.forces)
    return atoms


def trajectory_writer(path: Path, material: Material, metadata: dict[str, Any]) -> TrajectoryWriter:
    return TrajectoryWriter(
        path,
        atomic_numbers=material.atomic_numbers,
        masses=material.masses,
        pbc=np.array([True, True, True]),
        bonds=material.bonds,
        metadata=metadata,
    )


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """
    Raises:
        UserError: the folder is a file, or holds files of an earlier generation.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError("the output folder is a file", where=str(folder), mend="Choose another name.")
    existing = _generated_files(folder)
    if existing and not overwrite:
        raise UserError(
            "the folder holds generated data already",
            where=", ".join(str(path) for path in existing[:3]),
            mend="Choose another folder, or overwrite it.",
        )


@contextmanager
def finished_or_nothing(folder: Path) -> Iterator[Path]:
    """A hidden folder inside ``folder`` to write to.

    When all is done its files take their places, ``provenance.json`` last, and what is left of an
    earlier generation goes. When anything fails the folder is as it was.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    except OSError as error:
        raise UserError(
            f"the output folder cannot be written to: {error.strerror}",
            where=str(folder),
            mend="Choose another folder.",
        ) from error
    finished = False
    try:
        yield scratch
        names = sorted((path.name for path in scratch.iterdir()), key=lambda name: (name == PROVENANCE, name))
        for name in names:
            os.replace(scratch / name, folder / name)
        for path in _generated_files(folder):
            if path.name not in names:
                path.unlink()
        finished = True
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if is_new and not finished and not any(folder.iterdir()):
            folder.rmdir()


def _generated_files(folder: Path) -> list[Path]:
    named = [folder / name for name in (*LABEL_FILES, COLD_START, PROVENANCE)]
    return [path for path in named if path.exists()] + sorted(folder.glob("reference_*.h5"))
