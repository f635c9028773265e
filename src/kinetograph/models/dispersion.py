"""Dispersion corrections D3 and D4, computed by the libraries of their authors.

==========  ===========================================================  ====================
class       method                                                       library
==========  ===========================================================  ====================
``D3``      S. Grimme et al., J. Chem. Phys. 132, 154104 (2010),         simple-dftd3
            doi:10.1063/1.3382344; rational damping of Becke and         (package ``dftd3``)
            Johnson: J. Comput. Chem. 32, 1456 (2011),
            doi:10.1002/jcc.21759
``D4``      E. Caldeweyher et al., J. Chem. Phys. 150, 154122 (2019),    ``dftd4``
            doi:10.1063/1.5090222
==========  ===========================================================  ====================

The libraries give energy, gradient and virial themselves, in double precision on the CPU; whatever type
and device the structures have, numbers go there and back. Nothing here is differentiable by torch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.geometry import complete_cell, minkowski_reduce

from kinetograph.errors import UserError, needs
from kinetograph.graph import GraphRequest
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System

BOHR_IN_A = 0.529177210903
"""CODATA 2018."""
HARTREE_IN_EV = 27.211386245988
"""CODATA 2018."""

LAST_ELEMENT = 103
"""Lawrencium: the last element with reference data in both libraries."""

VACUUM_BOHR = 20.0
"""On either side of a slab or wire: any length will do."""

Damping: TypeAlias = Literal["bj", "zero", "bjm", "zerom"]
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

DAMPINGS: Mapping[Damping, str] = {
    "bj": "RationalDampingParam",
    "zero": "ZeroDampingParam",
    "bjm": "ModifiedRationalDampingParam",
    "zerom": "ModifiedZeroDampingParam",
}
"""Name of the library's class for each damping."""


class _Dispersion(Potential):
    """What D3 and D4 share: conversion, batches and the refusal of what the libraries cannot do.

    Pairs, triples and coordination numbers are cut off in the library; over the last ``smoothing`` (Å)
    before its cutoff the energy of pairs and triples goes to zero smoothly.
    """

    gives_energy = True
    name: str

    def __init__(
        self,
        *,
        functional: str | None,
        parameters: Mapping[str, float] | None,
        three_body: bool,
        cutoff: float,
        three_body_cutoff: float,
        smoothing: float,
    ) -> None:
        super().__init__()
        if (functional is None) == (parameters is None):
            raise UserError(
                f"{self.name} needs either a functional or damping parameters",
                where=self.name,
                mend="Give the functional that made the training data, such as functional: pbe.",
            )
        if not 0.0 <= smoothing < min(cutoff, three_body_cutoff):
            raise ValueError("smoothing must be shorter than the cutoffs, and not negative")
        self.functional = functional
        self.damping_parameters = None if parameters is None else dict(parameters)
        self.three_body = three_body
        self.cutoff = cutoff
        self.three_body_cutoff = three_body_cutoff
        self.smoothing = smoothing
        try:
            self._damping_parameters()
        except TypeError as error:
            message = str(error).split("() ")[-1]
            raise UserError(
                f"the damping parameters do not fit: {message}", where=f"{self.name}.parameters"
            ) from error
        except RuntimeError as error:
            raise UserError(
                f"no damping parameters for the functional {functional!r} are known",
                where=self.name,
                mend="Name another one, as the library spells it, or give the parameters themselves.",
            ) from error

    def check_elements(self, elements: Iterable[int]) -> None:
        """Refuse elements without reference data.

        Raises:
            UserError: there is one.
        """
        for number in elements:
            if not 0 < number <= LAST_ELEMENT:  # the libraries would give zero, or crash
                name = chemical_symbols[number] if 0 < number < len(chemical_symbols) else str(number)
                raise UserError(
                    f"{self.name.upper()} has no reference data for the element {name}",
                    mend=f"It knows H to {chemical_symbols[LAST_ELEMENT]}.",
                )

    @abstractmethod
    def _damping_parameters(self) -> Any:
        """The library's object. Made anew for each call: such objects can be neither copied nor sent."""

    @abstractmethod
    def _evaluate(
        self, numbers: Array, positions: Array, cell: Array | None, pbc: Array | None, charge: float
    ) -> dict[str, Array]:
        """Energy, gradient and virial of one structure; everything in atomic units."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        numbers = system.atomic_numbers.cpu().numpy()
        positions = system.positions.detach().double().cpu().numpy() / BOHR_IN_A
        cells = system.cell.detach().double().cpu().numpy() / BOHR_IN_A
        pbc = system.pbc.cpu().numpy()
        charges = np.zeros(system.n_systems)
        if system.charge is not None:
            charges = system.charge.double().cpu().numpy()
        self.check_elements(np.unique(numbers).tolist())
        energies = np.zeros(system.n_systems)
        forces = np.zeros_like(positions)
        stresses = np.full((system.n_systems, 3, 3), np.nan)
        begin = 0
        for index, count in enumerate(system.atoms_per_system.tolist()):
            atoms = slice(begin, begin + count)
            begin += count
            cell = np.asarray(complete_cell(cells[index] * pbc[index][:, None]))
            periodic = pbc[index].any()
            result = self._evaluate(
                numbers[atoms],
                positions[atoms],
                cell if periodic else None,
                pbc[index] if periodic else None,
                float(charges[index]),
            )
            energies[index] = result["energy"] * HARTREE_IN_EV
            forces[atoms] = -result["gradient"] * HARTREE_IN_EV / BOHR_IN_A
            if pbc[index].all():
                volume = abs(np.linalg.det(cell)) * BOHR_IN_A**3
                virial = 0.5 * (result["virial"] + result["virial"].T)
                stresses[index] = virial * HARTREE_IN_EV / volume

        def tensor(values: Array, dtype: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(values, dtype=dtype, device=system.device)

        return Prediction(
            forces=tensor(forces, system.dtype),
            conservative=True,
            energy=tensor(energies, torch.float64),
            stress=tensor(stresses, system.dtype) if bool(pbc.all(axis=1).any()) else None,
        )


class D3(_Dispersion):
    """Grimme's D3.

    Molecules, wires, slabs and crystals.

    Args:
        functional: name of the density functional whose training data lack dispersion, such as ``"pbe"``,
            ``"b3lyp"`` or ``"wb97x"``; upper and lower case are the same.
        damping: ``"bj"`` rational, ``"zero"`` to zero at short distance, ``"bjm"`` and ``"zerom"`` their
            modified forms (Smith et al. 2016).
        parameters: in the place of a functional: ``s8``, ``a1`` and ``a2`` (Bohr) for ``"bj"``, ``s8`` and
            ``rs6`` for ``"zero"``, and others that the library knows.
        three_body: whether the Axilrod-Teller-Muto term is added; plain D3 is without.
        cutoff: Å, for pairs.
        three_body_cutoff: Å, for each side of a triple; the time grows with its sixth power.
        smoothing: Å.
    """

    name = "d3"
    COUNTING_CUTOFF_A = 40.0 * BOHR_IN_A
    """For coordination numbers."""

    def __init__(
        self,
        *,
        functional: str | None = None,
        damping: Damping = "bj",
        parameters: Mapping[str, float] | None = None,
        three_body: bool = False,
        cutoff: float = 60.0 * BOHR_IN_A,
        three_body_cutoff: float = 10.0,
        smoothing: float = 1.0,
    ) -> None:
        if damping not in DAMPINGS:
            raise ValueError(f"unknown damping {damping!r}: it can be {', '.join(DAMPINGS)}")
        with needs("dftd3", extra="additions"):
            import dftd3.interface  # noqa: F401
        self.damping = damping
        super().__init__(
            functional=functional,
            parameters=parameters,
            three_body=three_body,
            cutoff=cutoff,
            three_body_cutoff=three_body_cutoff,
            smoothing=smoothing,
        )
        # No neighbour list is needed: the shortest that is cheap. But an atom acts on others far away.
        reach = max(cutoff, three_body_cutoff if three_body else 0.0) + self.COUNTING_CUTOFF_A
        self.request = GraphRequest(cutoff=1.0, n_layers=math.ceil(reach))

    def _damping_parameters(self) -> Any:
        import dftd3.interface

        kind = getattr(dftd3.interface, DAMPINGS[self.damping])
        if self.damping_parameters is None:
            return kind(method=self.functional, atm=self.three_body)
        return kind(**{"s9": float(self.three_body), **self.damping_parameters})

    def _evaluate(
        self, numbers: Array, positions: Array, cell: Array | None, pbc: Array | None, charge: float
    ) -> dict[str, Array]:
        from dftd3.interface import DispersionModel

        if cell is not None and pbc is not None:
            positions, cell = _roomy(positions, cell, pbc)
        model = DispersionModel(numbers, positions, cell, pbc)
        model.set_realspace_cutoff(
            disp2=self.cutoff / BOHR_IN_A,
            disp3=self.three_body_cutoff / BOHR_IN_A,
            cn=self.COUNTING_CUTOFF_A / BOHR_IN_A,
            width2=self.smoothing / BOHR_IN_A,
            width3=self.smoothing / BOHR_IN_A,
        )
        result: dict[str, Array] = model.get_dispersion(self._damping_parameters(), grad=True)
        return result


class D4(_Dispersion):
    """D4 of Caldeweyher and others: coefficients that follow the charges of the atoms.

    Molecules and crystals. The charges come from the total charge of the structure, zero where it is not
    given, and are worked out anew for each structure: every atom acts on every other.

    Args:
        functional: as for :class:`D3`.
        parameters: in the place of a functional: ``s8``, ``a1``, ``a2`` (Bohr) and others that the library
            knows.
        three_body: whether the Axilrod-Teller-Muto term is added; D4 as published is with it.
        cutoff: Å, for pairs.
        three_body_cutoff: Å, for each side of a triple; the time grows with its sixth power.
        smoothing: Å.
    """

    name = "d4"
    COUNTING_CUTOFF_A = 30.0 * BOHR_IN_A
    """For coordination numbers."""

    def __init__(
        self,
        *,
        functional: str | None = None,
        parameters: Mapping[str, float] | None = None,
        three_body: bool = True,
        cutoff: float = 60.0 * BOHR_IN_A,
        three_body_cutoff: float = 10.0,
        smoothing: float = 1.0,
    ) -> None:
        with needs("dftd4", extra="additions"):
            import dftd4.interface  # noqa: F401
        super().__init__(
            functional=functional,
            parameters=parameters,
            three_body=three_body,
            cutoff=cutoff,
            three_body_cutoff=three_body_cutoff,
            smoothing=smoothing,
        )
        # No neighbour list is needed, but no halo holds all the atoms that act on one.
        self.request = GraphRequest(cutoff=1.0, n_layers=1_000_000_000)

    def _damping_parameters(self) -> Any:
        from dftd4.interface import DampingParam

        if self.damping_parameters is None:
            return DampingParam(method=self.functional, atm=self.three_body)
        return DampingParam(**{"s9": float(self.three_body), **self.damping_parameters})

    def _evaluate(
        self, numbers: Array, positions: Array, cell: Array | None, pbc: Array | None, charge: float
    ) -> dict[str, Array]:
        from dftd4.interface import DispersionModel

        if pbc is not None and not pbc.all():  # the library would take it for periodic throughout
            raise UserError(
                "D4 cannot be computed for a structure that is periodic in some directions only",
                mend="Make it periodic throughout with vacuum between the images, or take D3.",
            )
        if cell is not None:
            # The library's sums for the charges are too short for skewed cells; the lattice stays the same.
            cell, _ = minkowski_reduce(cell)
        model = DispersionModel(numbers, positions, charge, cell, pbc)
        model.set_realspace_cutoff(
            disp2=self.cutoff / BOHR_IN_A,
            disp3=self.three_body_cutoff / BOHR_IN_A,
            cn=self.COUNTING_CUTOFF_A / BOHR_IN_A,
            width2=self.smoothing / BOHR_IN_A,
            width3=self.smoothing / BOHR_IN_A,
        )
        result: dict[str, Array] = model.get_dispersion(self._damping_parameters(), grad=True)
        return result


def _roomy(positions: Array, cell: Array, pbc: Array) -> tuple[Array, Array]:
    """The same structure amid a long cell along the directions that are not periodic.

    simple-dftd3 folds atoms back into the cell along every direction, periodic or not. The cell vectors of
    directions that are not periodic must have the length 1 and be at right angles to all others.
    """
    positions, cell = positions.copy(), cell.copy()
    for axis in np.flatnonzero(~pbc):
        heights = positions @ cell[axis]
        positions += (VACUUM_BOHR - heights.min()) * cell[axis]
        cell[axis] *= heights.max() - heights.min() + 2.0 * VACUUM_BOHR
    return positions, cell
