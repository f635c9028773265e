"""What is computed on: boxes of one density, so that edges per atom are the same at every size."""

from __future__ import annotations

import ase
import numpy as np

from kinetograph.reference.openmm_systems import (
    ARGON_REDUCED_DENSITY,
    argon_box,
    argon_numbers,
    water_box,
    water_numbers,
)
from kinetograph.reference.starts import argon_start, water_start
from kinetograph.system import System

SIZES = (774, 6282, 12255, 72279)
"""Atoms of the boxes of the GAMD paper: 258, 2094, 4085 and 24,093 molecules."""


def water(n_atoms: int) -> System:
    """A periodic box of whole molecules, at the density of every water box of this package."""
    n_molecules = max(1, round(n_atoms / 3))
    edge = water_box(n_molecules)
    positions = water_start(n_molecules, edge, np.random.default_rng(0))
    numbers = water_numbers(n_molecules)
    return System.from_ase([ase.Atoms(numbers=numbers, positions=positions, cell=[edge] * 3, pbc=True)])


def argon(n_atoms: int) -> System:
    """A periodic box of atoms, at the density of every argon box of this package."""
    edge = argon_box(n_atoms, ARGON_REDUCED_DENSITY)
    positions = argon_start(n_atoms, edge, np.random.default_rng(0))
    numbers = argon_numbers(n_atoms)
    return System.from_ase([ase.Atoms(numbers=numbers, positions=positions, cell=[edge] * 3, pbc=True)])
