"""Labelled frames: structures with reference forces, read from a file and checked before use."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from kinetograph.errors import UserError


@dataclass(frozen=True)
class LabelledFrames:
    """Structures with forces (eV/Å), and energies (eV) and stresses (eV/Å³) where the file has them."""

    atoms: list[ase.Atoms]
    forces: list[np.ndarray[Any, Any]]
    """One (n_atoms, 3) array per structure, eV/Å."""
    energies: np.ndarray[Any, Any]
    """(n_frames,) eV, NaN where a frame has none."""
    stresses: np.ndarray[Any, Any]
    """(n_frames, 3, 3) eV/Å³, tension positive, NaN where a frame has none."""
    source: str
    """The file's path."""
    sha256: str
    """Fingerprint of the file."""

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(sorted({int(z) for frame in self.atoms for z in np.unique(frame.numbers)}))

    @property
    def n_with_energy(self) -> int:
        """How many frames have an energy."""
        return int(np.isfinite(self.energies).sum())


def read_structures(path: Path | str, index: str = ":") -> list[ase.Atoms]:
    """Structures of any format that ASE reads, labels not needed.

    Raises:
        UserError: the file is missing, empty or cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError("this is a folder, not a file", where=str(path))
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    try:
        content, kind = _source(path)
        frames = ase.io.read(content, index=index, format=kind)
    except Exception as error:  # ASE's readers raise anything; all of it means the same to the user
        raise UserError(
            f"the file cannot be read as structures ({type(error).__name__}: {error})",
            where=str(path),
            mend="Extended XYZ is the surest format.",
        ) from error
    frames = [frames] if isinstance(frames, ase.Atoms) else list(frames)
    if not frames:
        raise UserError("the file holds no structures", where=str(path))
    return frames


def _source(path: Path) -> tuple[Path | io.StringIO, str | None]:
    """The file and its format; compressed text is unpacked first: ASE's reader seeks back and forth."""
    packed: dict[str, Callable[[bytes], bytes]] = {
        ".xz": lzma.decompress,
        ".gz": gzip.decompress,
        ".bz2": bz2.decompress,
    }
    if path.suffix not in packed:
        return path, None
    content = io.StringIO(packed[path.suffix](path.read_bytes()).decode())
    kind = ase.io.formats.filetype(path.with_suffix("").name, read=False)
    return content, "extxyz" if kind == "xyz" else kind


def read_frames(path: Path | str) -> LabelledFrames:
    """Labelled frames of a file: forces in eV/Å, energies in eV, stresses in eV/Å³ with ASE's sign.

    Forces are taken from the per-atom property ``forces`` (extended XYZ) or whatever ASE's reader
    presents as the result of a calculation; energies and stresses from ``energy`` and ``stress`` alike.

    Raises:
        UserError: no such file, unreadable, a frame without forces or with an atom that is no element (X), or
            a label that is not finite.
    """
    frames = read_structures(path)
    forces, energies, stresses = [], [], []
    for number, frame in enumerate(frames):
        where = f"{path}, frame {number}"
        if len(frame) and frame.numbers.min() < 1:
            raise UserError(
                f"atom {int(frame.numbers.argmin())} is no element",
                where=where,
                mend="Give it the symbol of one, or remove it.",
            )
        values = _forces_of(frame)
        if values is None:
            raise UserError(
                "the frame has no forces",
                where=where,
                mend="Each frame needs a per-atom property 'forces' in eV/Å, as in "
                "Properties=species:S:1:pos:R:3:forces:R:3.",
            )
        if values.shape != (len(frame), 3):
            raise UserError(f"the forces have shape {values.shape}, not ({len(frame)}, 3)", where=where)
        if not np.isfinite(values).all():
            atom = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise UserError(
                f"the force on atom {atom} is not finite",
                where=where,
                mend="Remove the frame or compute it again.",
            )
        forces.append(values)
        energies.append(_energy_of(frame, where))
        stresses.append(_stress_of(frame, where))
    return LabelledFrames(
        atoms=frames,
        forces=forces,
        energies=np.array(energies),
        stresses=np.stack(stresses),
        source=str(path),
        sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
    )


def _forces_of(frame: ase.Atoms) -> np.ndarray[Any, Any] | None:
    if frame.calc is not None and "forces" in getattr(frame.calc, "results", {}):
        # apply_constraint=False: the label is the force, not the force on a frozen atom.
        return np.asarray(frame.get_forces(apply_constraint=False), dtype=float)
    for name in ("forces", "force"):
        if name in frame.arrays:
            return np.asarray(frame.arrays[name], dtype=float)
    return None


def _energy_of(frame: ase.Atoms, where: str) -> float:
    """eV, NaN where the frame has none."""
    results = getattr(frame.calc, "results", {})
    value = results.get("energy", frame.info.get("energy"))
    if value is None:
        return float("nan")
    if not isinstance(value, int | float | np.integer | np.floating) or not np.isfinite(value):
        raise UserError(
            f"the energy is {value}, not a finite number",
            where=where,
            mend="Remove the frame, or the energy.",
        )
    return float(value)


def _stress_of(frame: ase.Atoms, where: str) -> np.ndarray[Any, Any]:
    """(3, 3) eV/Å³, NaN where the frame has none."""
    results = getattr(frame.calc, "results", {})
    value = results.get("stress", frame.info.get("stress"))
    if value is None or not frame.pbc.all():
        return np.full((3, 3), np.nan)
    values = np.asarray(value, dtype=float)
    if values.size not in (6, 9) or not np.isfinite(values).all():
        raise UserError(
            "the stress is not six or nine finite numbers",
            where=where,
            mend="Give xx yy zz yz xz xy in eV/Å³, or leave it out.",
        )
    if values.size == 6:
        return np.asarray(voigt_6_to_full_3x3_stress(values))
    return values.reshape(3, 3)


def require_disjoint(first: LabelledFrames, second: LabelledFrames) -> None:
    """Raise ``UserError`` if a structure is in both: an error measured on it would say nothing.

    Structures are the same when elements, positions and cells are equal to the bit.
    """
    known = {_structure_key(atoms): number for number, atoms in enumerate(first.atoms)}
    for number, atoms in enumerate(second.atoms):
        twin = known.get(_structure_key(atoms))
        if twin is not None:
            raise UserError(
                f"the structure is also in {first.source}, frame {twin}",
                where=f"{second.source}, frame {number}",
                mend="Split by trajectory, so that no frame is on two sides.",
            )


def _structure_key(atoms: ase.Atoms) -> bytes:
    lattice = np.asarray(atoms.cell).tobytes() + atoms.pbc.tobytes()
    return hashlib.sha256(atoms.numbers.tobytes() + atoms.positions.tobytes() + lattice).digest()


def force_std(forces: Sequence[np.ndarray[Any, Any]]) -> float:
    """Standard deviation of the force components about zero, eV/Å."""
    values = np.concatenate([f.ravel() for f in forces])
    return float(np.sqrt(np.mean(values**2)))
