"""What a file holds: its elements by name, their units, and what stays the same through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from kinetograph import units

Array = np.ndarray[Any, Any]

FILE_FORMAT = ("v110", "v110")  # HDF5 of 2016: the oldest format with single-writer mode
NO_STEP = -1

VECTOR_ELEMENTS = {  # name in the file: (unit, factor from our units)
    "position": ("Angstrom", 1.0),
    "velocity": ("Angstrom fs-1", 1.0),
    "force": ("kJ mol-1 Angstrom-1", units.EV_PER_A_IN_KJ_PER_MOL_A),
}
OBSERVABLES = {  # name in the file: (field of Frame, unit)
    "potential_energy_eV": ("potential_energy", "eV"),
    "kinetic_energy_eV": ("kinetic_energy", "eV"),
    "temperature_K": ("temperature", "K"),
    "pressure_bar": ("pressure", "bar"),
    "conserved_eV": ("conserved", "eV"),
}
STRESS = "stress_eV_per_A3"


@dataclass(frozen=True)
class Frame:
    """One instant of a run. Every frame of a file has the same optional fields."""

    step: int
    time_fs: float
    positions: Array
    """(n_atoms, 3) Å, not wrapped into the cell."""
    cell: Array
    """(3, 3) Å; rows are the cell vectors."""
    velocities: Array | None = None
    """(n_atoms, 3) Å/fs."""
    forces: Array | None = None
    """(n_atoms, 3) eV/Å."""
    potential_energy: float | None = None
    """eV."""
    kinetic_energy: float | None = None
    """eV."""
    temperature: float | None = None
    """K."""
    stress: Array | None = None
    """(3, 3) eV/Å³, tension positive: that of the potential, without the part of the motion."""
    pressure: float | None = None
    """bar: minus a third of the trace of the stress, with the part of the motion."""
    conserved: float | None = None
    """eV: the quantity that the integrator conserves."""


@dataclass(frozen=True)
class Head:
    """What stays the same through a file."""

    atomic_numbers: Array
    masses: Array
    pbc: Array
    bonds: Array | None
    metadata: dict[str, Any]


def elements_of(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    """The time-dependent elements of our files, by name."""
    particles = file["particles/trajectory"]
    for name in VECTOR_ELEMENTS:
        if name in particles:
            yield name, particles[name]
    if isinstance(particles["box"].get("edges"), h5py.Group):
        yield "edges", particles["box/edges"]
    for name in (*OBSERVABLES, STRESS):
        if f"observables/{name}" in file:
            yield name, file[f"observables/{name}"]


def text_of(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
