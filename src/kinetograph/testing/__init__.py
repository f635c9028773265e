"""Whether a potential keeps the laws that it should: for our models, and for yours.

>>> import torch
>>> from kinetograph.models.classical import LennardJones
>>> from kinetograph.testing import check_contract, structures
>>> argon = LennardJones(epsilon=0.01, sigma=3.4, cutoff=7.0, truncation="switch", switch_start=6.0)
>>> check_contract(argon, structures=structures([18], spacing=3.4))

With pytest (the extra ``testing``), a sub-class of ``kinetograph.testing.suite.PotentialContract`` has one
test for each law.
"""

from kinetograph.nn.model import COVARIANT, GRADIENT, PROPERTIES
from kinetograph.testing.computing import (
    broken_gradients,
    compiling,
    determinism,
    finiteness,
    precision,
    saving,
    single_precision,
    unused_parameters,
)
from kinetograph.testing.contract import LAWS, Contract, Law, check_contract, promises
from kinetograph.testing.cutoffs import receptive_field, smoothness
from kinetograph.testing.derivatives import curl, force_differences, stress_differences, training
from kinetograph.testing.predictions import disagreement
from kinetograph.testing.structures import randomize, special_structures, structures
from kinetograph.testing.symmetries import (
    batching,
    extensivity,
    isolated_atom,
    net_force,
    periodic_images,
    permutation,
    reflection,
    rotation,
    torque,
    translation,
)
from kinetograph.testing.table import measure_symmetries

__all__ = [
    "COVARIANT",
    "GRADIENT",
    "LAWS",
    "PROPERTIES",
    "Contract",
    "Law",
    "batching",
    "broken_gradients",
    "check_contract",
    "compiling",
    "curl",
    "determinism",
    "disagreement",
    "extensivity",
    "finiteness",
    "force_differences",
    "isolated_atom",
    "measure_symmetries",
    "net_force",
    "periodic_images",
    "permutation",
    "precision",
    "promises",
    "randomize",
    "receptive_field",
    "reflection",
    "rotation",
    "saving",
    "single_precision",
    "smoothness",
    "special_structures",
    "stress_differences",
    "structures",
    "torque",
    "training",
    "translation",
    "unused_parameters",
]
