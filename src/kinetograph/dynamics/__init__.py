"""Molecular dynamics: integrators, thermostats, barostats, the run loop, guards, reporters, checkpoints."""

from kinetograph.dynamics.bussi import Bussi
from kinetograph.dynamics.cell_rescaling import CellRescaling
from kinetograph.dynamics.guards import (
    DEFAULT_GUARDS,
    BondGuard,
    CloseAtomsGuard,
    DisagreementGuard,
    DriftGuard,
    EnergyGuard,
    Guard,
    TemperatureGuard,
    VolumeGuard,
)
from kinetograph.dynamics.held_bonds import hold_bonds
from kinetograph.dynamics.langevin import Langevin
from kinetograph.dynamics.loop import Failure, SimulationFailed
from kinetograph.dynamics.masses import repartition_hydrogen_mass
from kinetograph.dynamics.mtk import MTK
from kinetograph.dynamics.nose_hoover import NoseHoover
from kinetograph.dynamics.reporters import Reporter
from kinetograph.dynamics.restraints import DistanceRestraint, FlatWall, PositionRestraint, SphericalWall
from kinetograph.dynamics.settings import Ramp
from kinetograph.dynamics.simulate import SimulationResult, restart_path, simulate, trajectory_paths
from kinetograph.dynamics.state import Integrator, State
from kinetograph.dynamics.two_forces import TwoForces
from kinetograph.dynamics.verlet import VelocityVerlet

__all__ = [
    "DEFAULT_GUARDS",
    "MTK",
    "BondGuard",
    "Bussi",
    "CellRescaling",
    "CloseAtomsGuard",
    "DisagreementGuard",
    "DistanceRestraint",
    "DriftGuard",
    "EnergyGuard",
    "Failure",
    "FlatWall",
    "Guard",
    "Integrator",
    "Langevin",
    "NoseHoover",
    "PositionRestraint",
    "Ramp",
    "Reporter",
    "SimulationFailed",
    "SimulationResult",
    "SphericalWall",
    "State",
    "TemperatureGuard",
    "TwoForces",
    "VelocityVerlet",
    "VolumeGuard",
    "hold_bonds",
    "repartition_hydrogen_mass",
    "restart_path",
    "simulate",
    "trajectory_paths",
]
