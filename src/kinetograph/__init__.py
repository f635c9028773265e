"""Kinetograph: graph neural network force fields, their dynamics, and how good they are.

>>> import kinetograph as kg
>>> potential = kg.load("run/best.kg")  # doctest: +SKIP
>>> system = kg.read("start.extxyz")  # doctest: +SKIP
>>> kg.simulate(potential, system, kg.NoseHoover(0.5, 300.0), n_steps=1000)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib.metadata import version as _version
from pathlib import Path
from typing import TYPE_CHECKING

from kinetograph.bonds import BondRule
from kinetograph.dynamics import (
    MTK,
    Bussi,
    CellRescaling,
    Langevin,
    NoseHoover,
    TwoForces,
    VelocityVerlet,
    simulate,
)
from kinetograph.dynamics.relax import relax
from kinetograph.ensemble import EnsemblePotential
from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest, build_graph, neighbors_for
from kinetograph.model_file import load
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System, batch
from kinetograph.trajectory import Trajectory

if TYPE_CHECKING:
    from kinetograph.engines.ase import KinetographCalculator
    from kinetograph.nn.model import Head
    from kinetograph.training.fit import TrainResult

__version__ = _version("kinetograph")

__all__ = [
    "MTK",
    "BondRule",
    "Bussi",
    "CellRescaling",
    "EnsemblePotential",
    "Graph",
    "GraphRequest",
    "Langevin",
    "NeighborList",
    "NoseHoover",
    "Potential",
    "Prediction",
    "SumPotential",
    "System",
    "Trajectory",
    "TwoForces",
    "UserError",
    "VelocityVerlet",
    "batch",
    "build_graph",
    "calculator",
    "load",
    "neighbors_for",
    "read",
    "relax",
    "simulate",
    "train",
]


def read(path: Path | str, index: int = -1) -> System:
    """One structure of a file that ASE reads, the last by default.

    Raises:
        UserError: the file is missing, unreadable, or has no such structure.
    """
    from kinetograph.data.frames import read_structures

    structures = read_structures(path)
    if not -len(structures) <= index < len(structures):
        raise UserError(f"there is no structure {index}; the file has {len(structures)}", where=str(path))
    return System.from_ase(structures[index])


def train(
    config: Path | str,
    folder: Path | str,
    *,
    changes: list[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainResult:
    """Train a model as ``kinetograph train`` does.

    Args:
        config: YAML configuration.
        folder: run folder.
        changes: ``section.key=value`` changes to the configuration.

    Raises:
        UserError: see :func:`kinetograph.training.fit.train`.
    """
    from kinetograph.config import load_config
    from kinetograph.errors import needs

    with needs("lightning", extra="train"):
        from kinetograph.training.fit import train as fit

    return fit(load_config(config, changes), folder, resume=resume, overwrite=overwrite)


def calculator(
    model: Path | str | Potential, *, skin_A: float = 1.0, forces: Head | None = None
) -> KinetographCalculator:
    """An ASE calculator from a model file or a potential, so that ASE's optimisers and dynamics run on it.

    Args:
        forces: of a model file with both kinds of forces the one to answer with; conservative by default.
    """
    from kinetograph.engines.ase import KinetographCalculator

    potential = model if isinstance(model, Potential) else load(model, forces=forces)
    return KinetographCalculator(potential, skin_A=skin_A)
