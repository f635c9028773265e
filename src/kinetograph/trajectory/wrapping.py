"""Positions moved back into the cell: atom by atom, or molecules in one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from ase.cell import Cell

from kinetograph.bonds import molecules
from kinetograph.errors import UserError
from kinetograph.trajectory.layout import Array
from kinetograph.trajectory.reader import Trajectory

Wrap = Literal["atoms", "molecules"]
Wrapping = Callable[[Array, Array], Array]
"""Positions (n_atoms, 3) Å and cell (3, 3) Å to positions (n_atoms, 3) Å."""


def wrapping(trajectory: Trajectory, wrap: Wrap | None) -> Wrapping:
    """What moves the atoms of a trajectory by cell vectors of its periodic directions.

    Args:
        wrap: ``atoms`` puts each into the cell; ``molecules`` joins the atoms that bonds connect and
            puts the centre of mass of each molecule into the cell; ``None`` leaves all as they are.

    Raises:
        UserError: no direction is periodic, or the file does not say what is bonded.
    """
    if wrap is None:
        return lambda positions, cell: positions
    pbc = trajectory.pbc
    if not pbc.any():
        raise UserError("no direction is periodic: there is nothing to wrap into", where=str(trajectory.path))
    if wrap == "atoms":
        return lambda positions, cell: positions - _whole_cells(positions, cell, pbc, np.floor)
    if trajectory.bonds is None:
        raise UserError(
            "the trajectory does not say which atoms are bonded",
            where=str(trajectory.path),
            mend="Wrap its atoms instead of its molecules.",
        )
    return _whole_molecules(trajectory.bonds, trajectory.masses, pbc)


def _whole_molecules(bonds: Array, masses: Array, pbc: Array) -> Wrapping:
    n_atoms = len(masses)
    molecule = molecules(torch.as_tensor(bonds), n_atoms).numpy()
    levels = _bond_levels(bonds, molecule)
    share = masses / np.bincount(molecule, weights=masses)[molecule]

    def wrapped(positions: Array, cell: Array) -> Array:
        positions = positions.copy()
        for parents, children in levels:
            bond = positions[children] - positions[parents]
            positions[children] -= _whole_cells(bond, cell, pbc, np.round)
        centres = np.stack([np.bincount(molecule, weights=share * x) for x in positions.T], axis=1)
        return np.asarray(positions - _whole_cells(centres, cell, pbc, np.floor)[molecule])

    return wrapped


def _whole_cells(vectors: Array, cell: Array, pbc: Array, rounding: Callable[[Array], Array]) -> Array:
    """(n, 3) Å: the sum of whole cell vectors that rounding the fractional coordinates gives."""
    complete = np.asarray(Cell(cell).complete())
    whole = rounding(vectors @ np.linalg.inv(complete)) * pbc
    return np.asarray(whole @ complete)


def _bond_levels(bonds: Array, molecule: Array) -> list[tuple[Array, Array]]:
    """Bonds that reach every atom once from the first atom of its molecule, nearest first.

    Returns:
        For each number of bonds from the first atom: the atoms reached (n,), and before them those
        from which they are reached (n,).
    """
    reached = np.zeros(len(molecule), dtype=bool)
    reached[np.unique(molecule, return_index=True)[1]] = True
    left = np.concatenate([bonds, bonds[:, ::-1]])
    levels: list[tuple[Array, Array]] = []
    while True:
        left = left[~reached[left[:, 1]]]
        steps = left[reached[left[:, 0]]]
        if not len(steps):
            return levels
        children, first = np.unique(steps[:, 1], return_index=True)
        levels.append((steps[first, 0], children))
        reached[children] = True
