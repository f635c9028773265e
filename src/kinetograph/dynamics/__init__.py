"""Molecular dynamics: integrators, thermostats, the run loop, reporters and checkpoints."""

from kinetograph.dynamics.langevin import Langevin
from kinetograph.dynamics.nose_hoover import NoseHoover
from kinetograph.dynamics.reporters import Reporter
from kinetograph.dynamics.simulate import SimulationFailed, SimulationResult, restart_path, simulate
from kinetograph.dynamics.state import Integrator, State
from kinetograph.dynamics.verlet import VelocityVerlet

__all__ = [
    "Integrator",
    "Langevin",
    "NoseHoover",
    "Reporter",
    "SimulationFailed",
    "SimulationResult",
    "State",
    "VelocityVerlet",
    "restart_path",
    "simulate",
]
