"""``hold_bonds``: which bonds of a structure are rigid, and how long they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import torch
from ase.data import atomic_numbers as number_of
from ase.data import chemical_symbols
from torch import Tensor

from kinetograph.dynamics.rigid import in_one_piece
from kinetograph.dynamics.settings import require_positive
from kinetograph.errors import UserError, nearest
from kinetograph.system import System

HYDROGEN, OXYGEN = 1, 8

Which = Literal["hydrogen", "all", "water"]
"""Bonds to hydrogen; every bond; the three sides of every water molecule."""

WATER_LENGTHS_A = {
    "tip3p": {"O-H": 0.9572, "H-H": 2.0 * 0.9572 * math.sin(math.radians(104.52 / 2.0))},
    "spc": {"O-H": 1.0, "H-H": 2.0 * math.sin(math.radians(109.47 / 2.0))},
}
"""Sides of rigid models of water: 0.9572 Å and 104.52°, also of TIP4P (W. L. Jorgensen et al., J. Chem. Phys.
79, 926 (1983)); 1 Å and 109.47°, also of SPC/E (H. J. C. Berendsen et al. 1981)."""

Lengths = Mapping[str, float] | Literal["tip3p", "spc"]
"""Å by pair of elements, such as ``{"O-H": 0.9572, "H-H": 1.5139}``, or those of a water model."""


def hold_bonds(system: System, which: Which, lengths: Lengths | None = None) -> System:
    """The system with bonds of one kind held rigid; a second call adds another kind.

    Bonds are those of ``system.bonds``. Pairs that are held already stay as they are. The bonds of a cluster
    are solved for together, in a time that grows with the cube of their number: ``"all"`` is for small
    molecules.

    Args:
        which: see :data:`Which`. Rigid water has its H-H distance held too.
        lengths: see :data:`Lengths`; a run starts by moving atoms to them. By default bonds are as long as
            they are in the structure, and water molecules have the mean sides of those of their structure.

    Raises:
        UserError: bonds are not known, there are none of this kind, or lengths lack a pair or name one that
            is not held.
    """
    if which not in get_args(Which):
        known = list(get_args(Which))
        raise UserError(
            f"unknown kind of bonds {which!r}{nearest(which, known)}",
            where="which",
            mend=f"Use {', '.join(known)}.",
        )
    pairs = _pairs(system, which)
    if lengths is None:
        positions = in_one_piece(system, pairs)
        held = torch.linalg.norm(positions[pairs[:, 1]] - positions[pairs[:, 0]], dim=1)
        if which == "water":
            held = _mean_by_kind(held, pairs, system)
    else:
        held = _given_lengths(lengths, system.atomic_numbers[pairs], held_at=system.positions)
    if system.rigid is not None and system.rigid_lengths is not None:
        new = ~torch.isin(_keys(pairs, system), _keys(system.rigid, system))
        pairs = torch.cat([system.rigid, pairs[new]])
        held = torch.cat([system.rigid_lengths, held[new]])
    return replace(system, rigid=pairs, rigid_lengths=held)


def _pairs(system: System, which: Which) -> Tensor:
    """(n_held, 2) of this kind."""
    if system.bonds is None:
        raise UserError(
            "the bonds are not known, so none can be held",
            where="bonds",
            mend="Find them first: kinetograph.bonds.with_bonds(system, BondRule()).",
        )
    if which == "water":
        pairs, missing = water_molecules(system)[:, [0, 1, 0, 2, 1, 2]].reshape(-1, 2), "no water molecule"
    elif which == "hydrogen":
        to_hydrogen = (system.atomic_numbers[system.bonds] == HYDROGEN).any(dim=1)
        pairs, missing = system.bonds[to_hydrogen], "no bond to hydrogen"
    else:
        pairs, missing = system.bonds, "no bond"
    if len(pairs) == 0:
        raise UserError(f"there is {missing} to hold", where="bonds", mend="Check the bonds, or hold none.")
    return pairs


def water_molecules(system: System) -> Tensor:
    """(n_molecules, 3) int64: oxygen and hydrogens of every molecule of water, by the system's bonds."""
    assert system.bonds is not None
    degree = torch.bincount(system.bonds.reshape(-1), minlength=system.n_atoms)
    ends = torch.cat([system.bonds, system.bonds.flip(1)])  # each bond both ways
    numbers = system.atomic_numbers[ends]
    oxygen_first = (numbers[:, 0] == OXYGEN) & (numbers[:, 1] == HYDROGEN)
    ends = ends[oxygen_first & (degree[ends[:, 0]] == 2) & (degree[ends[:, 1]] == 1)]
    arms = torch.bincount(ends[:, 0], minlength=system.n_atoms)
    ends = ends[arms[ends[:, 0]] == 2]
    ends = ends[torch.argsort(ends[:, 0] * system.n_atoms + ends[:, 1])]
    return torch.cat([ends[::2], ends[1::2, 1:]], dim=1)


def _mean_by_kind(lengths: Tensor, pairs: Tensor, system: System) -> Tensor:
    """Lengths (n_pairs,) of O-H, O-H, H-H over and over, each replaced by its mean in the structure."""
    kind = torch.tensor([0, 0, 1], device=pairs.device).repeat(len(pairs) // 3)
    group = 2 * system.system_index[pairs[:, 0]] + kind
    sums = lengths.new_zeros(2 * system.n_systems).index_add(0, group, lengths)
    counts = torch.bincount(group, minlength=2 * system.n_systems)
    return (sums / counts)[group]


def _given_lengths(lengths: Lengths, numbers: Tensor, *, held_at: Tensor) -> Tensor:
    """(n_pairs,) Å for pairs of atomic numbers (n_pairs, 2)."""
    mend = 'Give them in Å by pair of elements, such as {"O-H": 0.9572, "H-H": 1.5139}.'
    if isinstance(lengths, str):
        if lengths not in WATER_LENGTHS_A:
            raise UserError(
                f"unknown lengths {lengths!r}{nearest(lengths, list(WATER_LENGTHS_A))}",
                where="lengths",
                mend=mend,
            )
        lengths = WATER_LENGTHS_A[lengths]
    held = torch.full((len(numbers),), torch.nan, dtype=held_at.dtype, device=held_at.device)
    for name, length in lengths.items():
        symbols = name.split("-")
        if len(symbols) != 2 or not all(symbol in number_of for symbol in symbols):
            raise UserError(f"{name!r} is no pair of elements", where="lengths", mend=mend)
        require_positive(f"lengths[{name!r}]", length)
        wanted = torch.tensor([number_of[symbol] for symbol in symbols], device=numbers.device)
        same = (numbers == wanted).all(dim=1) | (numbers == wanted.flip(0)).all(dim=1)
        if not bool(same.any()):
            raise UserError(
                f"a length is given for {name}, but no such pair is held", where="lengths", mend=mend
            )
        held[same] = length
    if bool(held.isnan().any()):
        first, second = numbers[held.isnan()][0].tolist()
        raise UserError(
            f"no length is given for {chemical_symbols[first]}-{chemical_symbols[second]}",
            where="lengths",
            mend="Give one for every pair of elements that is held, or none at all.",
        )
    return held


def _keys(pairs: Tensor, system: System) -> Tensor:
    """(n_pairs,) a number for each pair, whichever of its atoms comes first."""
    ordered = pairs.sort(dim=1)[0]
    return ordered[:, 0] * system.n_atoms + ordered[:, 1]
