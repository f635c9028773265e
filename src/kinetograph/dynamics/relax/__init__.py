"""Relaxation: structures moved downhill until their forces vanish, many at once."""

from kinetograph.dynamics.relax.fire import FIRE
from kinetograph.dynamics.relax.lbfgs import LBFGS
from kinetograph.dynamics.relax.loop import METHODS, relax
from kinetograph.dynamics.relax.reporters import RelaxationReporter, RelaxationTrajectory, RelaxedWriter
from kinetograph.dynamics.relax.results import RelaxationResult, Relaxed

__all__ = [
    "FIRE",
    "LBFGS",
    "METHODS",
    "RelaxationReporter",
    "RelaxationResult",
    "RelaxationTrajectory",
    "Relaxed",
    "RelaxedWriter",
    "relax",
]
