"""Molecular dynamics: integrators, thermostats, barostats, the run loop, guards, reporters, checkpoints."""

from kinetograph.dynamics.guards import (
    DEFAULT_GUARDS,
    BondGuard,
    CloseAtomsGuard,
    DriftGuard,
    EnergyGuard,
    Guard,
    TemperatureGuard,
)
from kinetograph.dynamics.langevin import Langevin
from kinetograph.dynamics.loop import Failure, SimulationFailed
from kinetograph.dynamics.nose_hoover import NoseHoover
from kinetograph.dynamics.reporters import Reporter
from kinetograph.dynamics.settings import Ramp
from kinetograph.dynamics.simulate import SimulationResult, restart_path, simulate, trajectory_paths
from kinetograph.dynamics.state import Integrator, State
from kinetograph.dynamics.two_forces import TwoForces
from kinetograph.dynamics.verlet import VelocityVerlet

__all__ = [
    "DEFAULT_GUARDS",
    "BondGuard",
    "CloseAtomsGuard",
    "DriftGuard",
    "EnergyGuard",
    "Failure",
    "Guard",
    "Integrator",
    "Langevin",
    "NoseHoover",
    "Ramp",
    "Reporter",
    "SimulationFailed",
    "SimulationResult",
    "State",
    "TemperatureGuard",
    "TwoForces",
    "VelocityVerlet",
    "restart_path",
    "simulate",
    "trajectory_paths",
]
