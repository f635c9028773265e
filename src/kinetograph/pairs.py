"""Every pair of atoms within a distance, periodic images included: the search below all neighbour lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.geometry import complete_cell
from torch import Tensor
from vesin import NeighborList as VesinList

from kinetograph import kernels
from kinetograph.errors import UserError
from kinetograph.kernels.cell_list import edges_by_bins
from kinetograph.kernels.edges import pairs_within
from kinetograph.system import System


def edges_within(system: System, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """Directed edges closer than ``reach`` (Å): centre, neighbour and shift, canonically sorted.

    An atom and its own image are a pair; an atom and itself are not.

    Raises:
        UserError: positions are not finite.
    """
    if not bool(torch.isfinite(system.positions).all()):
        raise UserError("positions are not finite", where="pair search")
    periodic = system.cell[system.pbc.all(dim=1)]
    if not bool(torch.isfinite(system.cell).all()) or bool((torch.linalg.det(periodic) == 0.0).any()):
        raise UserError("a cell is not finite or has no volume", where="pair search")
    if system.device.type != "cpu":
        cells = _complete_cells(system).to(system.device)
        where = (system.positions.detach().double(), cells, system.pbc, system.atoms_per_system)
        center, neighbor, shift = edges_by_bins(*where, reach)
        return center, neighbor, shift.to(system.dtype)
    native = kernels.library()
    if native is not None:
        center, neighbor, shift = pairs_within(
            native,
            system.positions.detach().double(),
            _complete_cells(system),
            system.pbc,
            system.atoms_per_system,
            reach,
        )
        return center, neighbor, shift.to(system.dtype)
    return _plain_edges_within(system, reach)


def _plain_edges_within(system: System, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same by vesin, structure by structure."""
    positions = system.positions.detach().double().numpy()
    cells = system.cell.detach().double().numpy()
    pbc = system.pbc.numpy()
    counts = system.atoms_per_system.numpy()
    search = VesinList(cutoff=reach, full_list=True)
    centers, neighbors, shifts = [], [], []
    offset = 0
    for index, count in enumerate(counts):
        i, j, s = search.compute(
            points=positions[offset : offset + count],
            box=_periodic_box(cells[index], pbc[index]),
            periodic=pbc[index],
            quantities="ijS",
        )
        i, j, s = i.astype(np.int64), j.astype(np.int64), s.astype(np.int64)
        order = _canonical_order(i, j, s, int(count))
        centers.append(i[order] + offset)
        neighbors.append(j[order] + offset)
        shifts.append(s[order])
        offset += int(count)
    return (
        torch.as_tensor(np.concatenate(centers)),
        torch.as_tensor(np.concatenate(neighbors)),
        torch.as_tensor(np.concatenate(shifts)).to(system.dtype),
    )


@dataclass(frozen=True)
class Pair:
    """Two atoms and how far apart they are."""

    first: int
    second: int
    distance: float
    """Å, to the nearest image."""


def shortest_pair(system: System, reach: float) -> Pair | None:
    """The two atoms nearest to each other, or ``None`` where none are closer than ``reach`` (Å)."""
    center, neighbor, shift = edges_within(system, reach)
    if len(center) == 0:
        return None
    offset = torch.einsum("ei,eij->ej", shift, system.cell[system.system_index[center]])
    distance = torch.linalg.norm(system.positions[neighbor] + offset - system.positions[center], dim=1)
    nearest = int(distance.argmin())
    first, second = sorted((int(center[nearest]), int(neighbor[nearest])))
    return Pair(first, second, float(distance[nearest]))


def _complete_cells(system: System) -> Tensor:
    """(n_systems, 3, 3) float64: with vectors at right angles to the others along open directions."""
    cells = system.cell.detach().double()
    if bool(system.pbc.all()):
        return cells
    pairs = zip(cells.cpu().numpy(), system.pbc.cpu().numpy(), strict=True)
    return torch.from_numpy(np.stack([complete_cell(cell * pbc[:, None]) for cell, pbc in pairs]))


def _periodic_box(cell: np.ndarray[Any, Any], pbc: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The periodic rows of a cell, the others replaced by vectors at right angles to them."""
    if not pbc.any():
        return np.zeros((3, 3))
    return np.asarray(complete_cell(cell * pbc[:, None]))


def _canonical_order(
    center: np.ndarray[Any, Any], neighbor: np.ndarray[Any, Any], shift: np.ndarray[Any, Any], n_atoms: int
) -> np.ndarray[Any, Any]:
    """Order by (centre, neighbour, shift), as one sort of one integer key."""
    if len(center) == 0:
        return np.zeros(0, dtype=np.int64)
    lowest = shift.min(axis=0)
    span = shift.max(axis=0) - lowest + 1
    moved = shift - lowest
    image = (moved[:, 0] * span[1] + moved[:, 1]) * span[2] + moved[:, 2]
    return np.argsort((center * n_atoms + neighbor) * int(span.prod()) + image, kind="stable")
