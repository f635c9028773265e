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
    """(n_systems, 3, 3) Å; rows are the cell vectors, as in ASE. Rows of directions that are not periodic
    are kept for the record, such as the vacuum of a slab; nothing is computed from them."""
    pbc: Tensor
    """(n_systems, 3) bool."""
    system_index: Tensor
    """(n_atoms,) int64, ascending: to which structure an atom belongs."""
    velocities: Tensor | None = None
    """(n_atoms, 3) Å/fs."""
    fixed: Tensor | None = None
    """(n_atoms,) bool: atoms that never move."""
    charge: Tensor | None = None
    """(n_systems,) total charge, elementary charges, in the type of the positions."""
    spin: Tensor | None = None
    """(n_systems,) int64: number of unpaired electrons."""
    bonds: Tensor | None = None
    """(n_bonds, 2) int64: bonded pairs of atoms, each once. ``None``: not known."""
    rigid: Tensor | None = None
    """(n_rigid, 2) int64: pairs of atoms whose distance is held, each once; ``None``: none are."""
    rigid_lengths: Tensor | None = None
    """(n_rigid,) Å: their distances."""

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
        if self.n_systems == 1:
            return torch.full((1,), self.n_atoms, device=self.device)
        none = torch.zeros(self.n_systems, dtype=torch.int64, device=self.device)  # bincount asks the device
        return none.index_add(0, self.system_index, torch.ones_like(self.system_index))

    @property
    def volume(self) -> Tensor:
        """(n_systems,) Å³; NaN where a direction is not periodic."""
        a, b, c = self.cell.unbind(dim=1)
        volume = (torch.linalg.cross(a, b) * c).sum(dim=1).abs()
        return torch.where(self.pbc.all(dim=1), volume, torch.nan)

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

    def check(self) -> None:
        """Refuse what nothing can be computed from.

        Raises:
            UserError: a structure has no atoms; positions, velocities or cell are not finite; a periodic
                direction has no cell vector or the periodic ones are parallel; a bond or a rigid
                pair names an atom that its structure does not have. The message names the structure where
                there are many.
        """
        for index, count in enumerate(self.atoms_per_system.tolist()):
            if count == 0:
                raise UserError("the structure has no atoms", where=self._name(index))
        for what, vectors in (("positions", self.positions), ("velocities", self.velocities)):
            if vectors is None:
                continue
            broken = torch.nonzero(~torch.isfinite(vectors).all(dim=1))
            if len(broken):
                atom = int(broken[0])
                raise UserError(
                    f"{what} are not finite",
                    where=self._name(int(self.system_index[atom])),
                    mend="Remove the frame or repair it.",
                )
        cells, pbc = self.cell.detach().double().cpu().numpy(), self.pbc.cpu().numpy()
        for index in range(self.n_systems):
            _check_cell(cells[index], pbc[index], self._name(index))
        for what, pairs in (("bond", self.bonds), ("rigid pair", self.rigid)):
            if pairs is None or len(pairs) == 0:
                continue
            inside = ((pairs >= 0) & (pairs < self.n_atoms)).all(dim=1)
            structure = self.system_index[pairs.clamp(0, self.n_atoms - 1)]
            outside = torch.nonzero(
                ~inside | (structure[:, 0] != structure[:, 1]) | (pairs[:, 0] == pairs[:, 1])
            )
            if len(outside):
                first, second = pairs[int(outside[0])].tolist()
                raise UserError(
                    f"a {what} joins atoms {first} and {second}, which are not two atoms of one structure",
                    where="bonds" if what == "bond" else "rigid bonds",
                    mend="Atoms are counted from 0.",
                )

    def _name(self, index: int) -> str:
        return f"structure {index}" if self.n_systems > 1 else "the structure"

    @staticmethod
    def from_ase(
        atoms: ase.Atoms | Sequence[ase.Atoms],
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> System:
        """One batch from one or many ``ase.Atoms``.

        Velocities are taken where every structure has momenta; ``FixAtoms`` becomes ``fixed``;
        ``info["bonds"]``, an (n, 2) array of indices within the structure, becomes ``bonds``, and the
        numbers ``info["charge"]`` and ``info["spin"]`` become ``charge`` and ``spin``, each where every
        structure has it.

        Raises:
            UserError: a structure cannot be used (see :meth:`check`), a constraint is not ``FixAtoms``,
                or an entry of ``info`` is not what it should be.
        """
        frames = [atoms] if isinstance(atoms, ase.Atoms) else list(atoms)
        if not frames:
            raise UserError("no structures were given")
        names = [f"structure {index}" if len(frames) > 1 else "the structure" for index in range(len(frames))]
        counts = [len(frame) for frame in frames]
        offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])

        def tensor(values: list[np.ndarray[Any, Any]], kind: torch.dtype) -> Tensor:
            return torch.as_tensor(np.concatenate(values), dtype=kind, device=device)

        def numbers(key: str, kind: torch.dtype) -> Tensor | None:
            if not all(key in frame.info for frame in frames):
                return None
            values = [_number(frame.info[key], key, name) for frame, name in zip(frames, names, strict=True)]
            if kind == torch.int64:
                for value, name in zip(values, names, strict=True):
                    if value != int(value) or value < 0:
                        raise UserError(f"info[{key!r}] is {value:g}, not a whole number", where=name)
            return torch.as_tensor(values, dtype=kind, device=device)

        velocities = None
        if all(frame.has("momenta") for frame in frames):
            velocities = tensor([frame.get_velocities() / units.ASE_TIME_IN_FS for frame in frames], dtype)
        fixed = None
        if any(frame.constraints for frame in frames):
            fixed = tensor([_fixed_mask(frame) for frame in frames], torch.bool)
        bonds = None
        if all("bonds" in frame.info for frame in frames):
            pairs = [
                _bonds(frame, name) + offset
                for frame, name, offset in zip(frames, names, offsets, strict=True)
            ]
            bonds = tensor(pairs, torch.int64)
        system = System(
            positions=tensor([frame.positions for frame in frames], dtype),
            atomic_numbers=tensor([frame.numbers for frame in frames], torch.int64),
            masses=tensor([frame.get_masses() for frame in frames], dtype),
            cell=torch.as_tensor(
                np.stack([np.asarray(frame.cell) for frame in frames]), dtype=dtype, device=device
            ),
            pbc=torch.as_tensor(np.stack([frame.pbc for frame in frames]), device=device),
            system_index=torch.repeat_interleave(
                torch.arange(len(frames), device=device), torch.as_tensor(counts, device=device)
            ),
            velocities=velocities,
            fixed=fixed,
            charge=numbers("charge", dtype),
            spin=numbers("spin", torch.int64),
            bonds=bonds,
        )
        system.check()
        return system

    def to_ase(self) -> list[ase.Atoms]:
        """One ``ase.Atoms`` per structure: momenta, ``FixAtoms`` and the entries of ``info`` where known."""
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
            if self.charge is not None:
                frame.info["charge"] = float(self.charge[index])
            if self.spin is not None:
                frame.info["spin"] = int(self.spin[index])
            frames.append(frame)
        return frames


def batch(systems: Sequence[System]) -> System:
    """Many batches as one, in order.

    Charge, spin and bonds are kept where every part has them. Parts without fixed atoms or rigid
    pairs stay free.

    Raises:
        ValueError: the list is empty, or some parts have velocities and others have none.
    """
    if not systems:
        raise ValueError("cannot batch an empty list of systems")
    n_moving = sum(system.velocities is not None for system in systems)
    if 0 < n_moving < len(systems):
        raise ValueError(
            f"{n_moving} of {len(systems)} systems have velocities: give them to all or take them from all"
        )
    n_atoms = [system.n_atoms for system in systems]
    n_systems = [system.n_systems for system in systems]
    atom_offset = np.concatenate([[0], np.cumsum(n_atoms)[:-1]])
    system_offset = np.concatenate([[0], np.cumsum(n_systems)[:-1]])

    def joined(name: str) -> Tensor | None:
        parts = [getattr(system, name) for system in systems]
        return None if any(part is None for part in parts) else torch.cat(parts)

    fixed = None
    if any(system.fixed is not None for system in systems):
        fixed = torch.cat(
            [
                torch.zeros_like(s.system_index, dtype=torch.bool) if s.fixed is None else s.fixed
                for s in systems
            ]
        )
    bonds = None
    if all(system.bonds is not None for system in systems):
        bonds = torch.cat(
            [
                s.bonds + int(offset)
                for s, offset in zip(systems, atom_offset, strict=True)
                if s.bonds is not None
            ]
        )
    rigid = [
        (s.rigid + int(offset), s.rigid_lengths)
        for s, offset in zip(systems, atom_offset, strict=True)
        if s.rigid is not None
    ]
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
        fixed=fixed,
        charge=joined("charge"),
        spin=joined("spin"),
        bonds=bonds,
        rigid=torch.cat([pairs for pairs, _ in rigid]) if rigid else None,
        rigid_lengths=torch.cat([lengths for _, lengths in rigid if lengths is not None]) if rigid else None,
    )


def subset(system: System, keep: Sequence[int] | Tensor) -> System:
    """Some structures of a batch, their atoms, bonds and rigid pairs numbered anew.

    Args:
        keep: (n_keep,) which structures, ascending.

    Raises:
        ValueError: the numbers do not ascend, or there is no such structure.
    """
    systems = torch.as_tensor(keep, dtype=torch.int64, device=system.device)
    if len(systems) and (
        int(systems[0]) < 0 or int(systems[-1]) >= system.n_systems or bool((systems.diff() <= 0).any())
    ):
        raise ValueError(f"{systems.tolist()} are not ascending numbers of {system.n_systems} structures")
    chosen = torch.zeros(system.n_systems, dtype=torch.bool, device=system.device)
    chosen[systems] = True
    atoms = chosen[system.system_index]
    new_atom, new_system = atoms.cumsum(dim=0) - 1, chosen.cumsum(dim=0) - 1

    def of_pairs(pairs: Tensor | None) -> Tensor | None:
        return None if pairs is None else new_atom[pairs[atoms[pairs[:, 0]]]]

    def of(where: Tensor, values: Tensor | None) -> Tensor | None:
        return None if values is None else values[where]

    lengths = system.rigid_lengths
    if system.rigid is not None and lengths is not None:
        lengths = lengths[atoms[system.rigid[:, 0]]]
    return System(
        positions=system.positions[atoms],
        atomic_numbers=system.atomic_numbers[atoms],
        masses=system.masses[atoms],
        cell=system.cell[chosen],
        pbc=system.pbc[chosen],
        system_index=new_system[system.system_index[atoms]],
        velocities=of(atoms, system.velocities),
        fixed=of(atoms, system.fixed),
        charge=of(chosen, system.charge),
        spin=of(chosen, system.spin),
        bonds=of_pairs(system.bonds),
        rigid=of_pairs(system.rigid),
        rigid_lengths=lengths,
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


def _bonds(frame: ase.Atoms, where: str) -> np.ndarray[Any, Any]:
    """(n_bonds, 2) of ``info["bonds"]``."""
    try:
        pairs = np.asarray(frame.info["bonds"])
    except ValueError:  # rows of different lengths
        pairs = np.zeros(1)
    if pairs.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    mend = 'Give info["bonds"] as pairs of atoms (n_bonds, 2), counted from 0, or leave it out.'
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise UserError("the bonds are not pairs of whole numbers", where=where, mend=mend)
    if pairs.min() < 0 or pairs.max() >= len(frame):
        first, second = pairs[((pairs < 0) | (pairs >= len(frame))).any(axis=1)][0]
        raise UserError(
            f"a bond joins atoms {first} and {second}, but there are {len(frame)} atoms",
            where=where,
            mend=mend,
        )
    return pairs.astype(np.int64)


def _number(value: Any, key: str, where: str) -> float:
    if isinstance(value, int | float | np.integer | np.floating) and np.isfinite(value):
        return float(value)
    raise UserError(
        f"info[{key!r}] is {value!r}, not a number",
        where=where,
        mend="Give the total of the structure, or leave it out.",
    )


def _check_cell(cell: np.ndarray[Any, Any], pbc: np.ndarray[Any, Any], where: str) -> None:
    if not np.isfinite(cell).all():
        raise UserError("the cell is not finite", where=where)
    if not pbc.any():
        return
    lengths = np.linalg.norm(cell, axis=1)
    for axis in range(3):
        if pbc[axis] and lengths[axis] < 1e-6:
            raise UserError(
                f"direction {'abc'[axis]} is periodic but its cell vector is missing",
                where=where,
                mend="Give the cell, or switch periodicity off along that direction.",
            )
    rows = cell[pbc] / lengths[pbc][:, None]
    if np.linalg.matrix_rank(rows, tol=1e-6) < len(rows):
        raise UserError(
            "the cell is singular: its periodic vectors are parallel or lie in one plane",
            where=where,
            mend="Give cell vectors that span the periodic directions.",
        )
