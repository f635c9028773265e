"""``System``: one batch of structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import ase
import numpy as np
import torch
from torch import Tensor

from kinetograph import units
from kinetograph.errors import UserError


@dataclass(frozen=True)
class System:
    """One or many structures, as flat tensors.

    All tensors live on one device. ``positions``, ``masses``, ``cell`` and ``velocities`` share one
    floating-point type.
    """

    positions: Tensor
    """(n_atoms, 3) Å; atoms need not lie inside the cell."""
    atomic_numbers: Tensor
    """(n_atoms,) int64."""
    masses: Tensor
    """(n_atoms,) amu."""
    cell: Tensor
    """(n_systems, 3, 3) Å; rows are the cell vectors, as in ASE. Zero rows where not periodic."""
    pbc: Tensor
    """(n_systems, 3) bool."""
    system_index: Tensor
    """(n_atoms,) int64, ascending: to which structure an atom belongs."""
    velocities: Tensor | None = None
    """(n_atoms, 3) Å/fs."""
    fixed: Tensor | None = None
    """(n_atoms,) bool: atoms that never move."""
    charge: Tensor | None = None
    """(n_systems,) total charge, elementary charges."""
    spin: Tensor | None = None
    """(n_systems,) number of unpaired electrons."""
    bonds: Tensor | None = None
    """(n_bonds, 2) int64: bonded pairs of atoms, each once. ``None``: not known."""

    @property
    def n_atoms(self) -> int:
        return int(self.positions.shape[0])

    @property
    def n_systems(self) -> int:
        return int(self.cell.shape[0])

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        return self.positions.dtype

    @property
    def atoms_per_system(self) -> Tensor:
        """(n_systems,) int64."""
        return torch.bincount(self.system_index, minlength=self.n_systems)

    @property
    def volume(self) -> Tensor:
        """(n_systems,) Å³; meaningful where all three directions are periodic."""
        volume: Tensor = torch.linalg.det(self.cell).abs()
        return volume

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> System:
        """The same batch on another device or in another floating-point type."""
        changed: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            changed[field.name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return replace(self, **changed)

    def rotated(self, rotation: Tensor) -> System:
        """The batch with each structure turned.

        Args:
            rotation: (3, 3) or (n_systems, 3, 3) orthogonal matrices R; a position r becomes R r.
        """
        matrix = rotation.to(self.positions)
        if matrix.ndim == 2:
            matrix = matrix.expand(self.n_systems, 3, 3)
        per_atom = matrix[self.system_index]

        def turn(vectors: Tensor) -> Tensor:
            return torch.einsum("nij,nj->ni", per_atom, vectors)

        return replace(
            self,
            positions=turn(self.positions),
            cell=torch.einsum("sij,skj->ski", matrix, self.cell),
            velocities=None if self.velocities is None else turn(self.velocities),
        )

    @staticmethod
    def from_ase(
        atoms: ase.Atoms | Sequence[ase.Atoms],
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> System:
        """One batch from one or many ``ase.Atoms``.

        Velocities are taken where every structure has momenta; ``FixAtoms`` becomes ``fixed``;
        ``info["bonds"]``, an (n, 2) array of indices within the structure, becomes ``bonds``.

        Raises:
            UserError: positions or cell are not finite, or a periodic direction has no cell vector.
        """
        frames = [atoms] if isinstance(atoms, ase.Atoms) else list(atoms)
        if not frames:
            raise UserError("no structures were given")
        for index, frame in enumerate(frames):
            _check_frame(frame, f"structure {index}" if len(frames) > 1 else "the structure")
        counts = [len(frame) for frame in frames]
        offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])

        def tensor(values: list[np.ndarray[Any, Any]], kind: torch.dtype) -> Tensor:
            return torch.as_tensor(np.concatenate(values), dtype=kind, device=device)

        velocities = None
        if all(frame.has("momenta") for frame in frames):
            velocities = tensor([frame.get_velocities() / units.ASE_TIME_IN_FS for frame in frames], dtype)
        fixed = None
        if any(frame.constraints for frame in frames):
            fixed = tensor([_fixed_mask(frame) for frame in frames], torch.bool)
        bonds = None
        if all("bonds" in frame.info for frame in frames):
            pairs = [
                np.asarray(frame.info["bonds"], dtype=np.int64).reshape(-1, 2) + offset
                for frame, offset in zip(frames, offsets, strict=True)
            ]
            bonds = tensor(pairs, torch.int64)
        return System(
            positions=tensor([frame.positions for frame in frames], dtype),
            atomic_numbers=tensor([frame.numbers for frame in frames], torch.int64),
            masses=tensor([frame.get_masses() for frame in frames], dtype),
            cell=torch.as_tensor(
                np.stack([np.asarray(frame.cell) * frame.pbc[:, None] for frame in frames]),
                dtype=dtype,
                device=device,
            ),
            pbc=torch.as_tensor(np.stack([frame.pbc for frame in frames]), device=device),
            system_index=torch.repeat_interleave(
                torch.arange(len(frames), device=device), torch.as_tensor(counts, device=device)
            ),
            velocities=velocities,
            fixed=fixed,
            bonds=bonds,
        )

    def to_ase(self) -> list[ase.Atoms]:
        """One ``ase.Atoms`` per structure, with momenta, ``FixAtoms`` and ``info["bonds"]`` where known."""
        from ase.constraints import FixAtoms

        frames = []
        for index in range(self.n_systems):
            mask = self.system_index == index
            frame = ase.Atoms(
                numbers=self.atomic_numbers[mask].cpu().numpy(),
                positions=self.positions[mask].double().cpu().numpy(),
                cell=self.cell[index].double().cpu().numpy(),
                pbc=self.pbc[index].cpu().numpy(),
            )
            frame.set_masses(self.masses[mask].double().cpu().numpy())
            if self.velocities is not None:
                frame.set_velocities(self.velocities[mask].double().cpu().numpy() * units.ASE_TIME_IN_FS)
            if self.fixed is not None and bool(self.fixed[mask].any()):
                frame.set_constraint(FixAtoms(mask=self.fixed[mask].cpu().numpy()))
            if self.bonds is not None:
                first = int(torch.nonzero(mask)[0])
                inside = mask[self.bonds[:, 0]]
                frame.info["bonds"] = (self.bonds[inside] - first).cpu().numpy()
            frames.append(frame)
        return frames


def batch(systems: Sequence[System]) -> System:
    """Many batches as one, in order. Optional fields are kept where every part has them."""
    if not systems:
        raise ValueError("cannot batch an empty list of systems")
    n_atoms = [system.n_atoms for system in systems]
    n_systems = [system.n_systems for system in systems]
    atom_offset = np.concatenate([[0], np.cumsum(n_atoms)[:-1]])
    system_offset = np.concatenate([[0], np.cumsum(n_systems)[:-1]])

    def joined(name: str) -> Tensor | None:
        parts = [getattr(system, name) for system in systems]
        return None if any(part is None for part in parts) else torch.cat(parts)

    bonds = None
    if all(system.bonds is not None for system in systems):
        bonds = torch.cat(
            [
                s.bonds + int(offset)
                for s, offset in zip(systems, atom_offset, strict=True)
                if s.bonds is not None
            ]
        )
    return System(
        positions=torch.cat([s.positions for s in systems]),
        atomic_numbers=torch.cat([s.atomic_numbers for s in systems]),
        masses=torch.cat([s.masses for s in systems]),
        cell=torch.cat([s.cell for s in systems]),
        pbc=torch.cat([s.pbc for s in systems]),
        system_index=torch.cat(
            [s.system_index + int(offset) for s, offset in zip(systems, system_offset, strict=True)]
        ),
        velocities=joined("velocities"),
        fixed=joined("fixed"),
        charge=joined("charge"),
        spin=joined("spin"),
        bonds=bonds,
    )


def _fixed_mask(frame: ase.Atoms) -> np.ndarray[Any, Any]:
    from ase.constraints import FixAtoms

    mask = np.zeros(len(frame), dtype=bool)
    for constraint in frame.constraints:
        if not isinstance(constraint, FixAtoms):
            raise UserError(
                f"the constraint {type(constraint).__name__} is not supported",
                mend="Only FixAtoms is; remove the others from the structure.",
            )
        mask[constraint.index] = True
    return mask


def _check_frame(frame: ase.Atoms, where: str) -> None:
    if len(frame) == 0:
        raise UserError("the structure has no atoms", where=where)
    if not np.isfinite(frame.positions).all():
        raise UserError("positions are not finite", where=where, mend="Remove the frame or repair it.")
    if not frame.pbc.any():
        return
    cell = np.asarray(frame.cell)
    if not np.isfinite(cell).all():
        raise UserError("the cell is not finite", where=where)
    lengths = np.linalg.norm(cell, axis=1)
    for axis in range(3):
        if frame.pbc[axis] and lengths[axis] < 1e-6:
            raise UserError(
                f"direction {'abc'[axis]} is periodic but its cell vector is missing",
                where=where,
                mend="Give the cell, or switch periodicity off along that direction.",
            )
    rows = cell[frame.pbc] / lengths[frame.pbc][:, None]
    if np.linalg.matrix_rank(rows, tol=1e-6) < len(rows):
        raise UserError(
            "the cell is singular: its periodic vectors are parallel or lie in one plane",
            where=where,
            mend="Give cell vectors that span the periodic directions.",
        )
