"""The laws as a contract: which of them a potential has to keep, and how exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from kinetograph.errors import UserError
from kinetograph.learned_potential import LearnedPotential
from kinetograph.nn.model import GRADIENT, PROPERTIES
from kinetograph.potential import Potential
from kinetograph.system import System
from kinetograph.testing.computing import (
    broken_gradients,
    determinism,
    finiteness,
    precision,
    single_precision,
)
from kinetograph.testing.cutoffs import receptive_field, smoothness
from kinetograph.testing.derivatives import curl, force_differences, stress_differences, training
from kinetograph.testing.structures import elements_of, special_structures, structures
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

SAFETY = 30.0
"""Rounding may be this many times what single against double precision shows. Laws compare two evaluations,
at places that are rounded anew and several times as far from the origin as an edge is long."""
LEAST_AMPLIFICATION = 10.0
"""No sum over tens of neighbours and several layers is trusted to round better than this."""
MAX_AMPLIFICATION = 1000.0
"""Largest allowed loss: a part in 10⁴ in single precision. More is an ill-conditioned formula."""
DIFFERENCES = 1e-6
"""Error of fourth-order finite differences; see ``derivatives.STEP_A``."""
JUMP = 1e-6
"""Forces change by less than this over a billionth of an ångström; a jump is a part of the force."""
HIDDEN = 1e-10
"""Second differences of forces over 1e-8 Å. Curvature gives 1e-13 or so, single precision 1e-8 and more."""

Bound = Literal["rounding", "amplification", "differences", "jump", "hidden", "zero"]


@dataclass(frozen=True)
class Law:
    """A sentence, the measure of how far it is from true, and how far it may be."""

    sentence: str
    measure: Callable[[Potential, System], float | None]
    bound: Bound
    promise: str | None = None
    """The entry of ``PROPERTIES`` that makes it hold; ``None``: it holds for every potential."""
    double_only: bool = False
    """Whether it is measured in double precision alone: finite differences see nothing else."""


LAWS: dict[str, Law] = {
    "finiteness": Law("everything predicted is a finite number", finiteness, "zero"),
    "determinism": Law("the same call gives the same bits", determinism, "zero"),
    "translation": Law(
        "a moved structure, with atoms put into other cells, has the same forces",
        translation,
        "rounding",
        "translation",
    ),
    "rotation": Law("forces turn with the structure", rotation, "rounding", "rotation"),
    "reflection": Law("a mirrored structure has mirrored forces", reflection, "rounding", "reflection"),
    "permutation": Law(
        "the order in which atoms are listed changes nothing",
        permutation,
        "rounding",
        "permutation",
    ),
    "extensivity": Law(
        "twice as much of it has the same forces and twice the energy", extensivity, "rounding"
    ),
    "periodic images": Law(
        "other cell vectors of the same lattice change nothing", periodic_images, "rounding"
    ),
    "batching": Law("a structure in a batch is as it is alone", batching, "rounding"),
    "net force": Law("the forces add up to zero", net_force, "rounding", "net force"),
    "torque": Law("the torques on a molecule add up to zero", torque, "rounding", "torque"),
    "isolated atom": Law("an atom alone feels nothing", isolated_atom, "rounding", "rotation"),
    "receptive field": Law(
        "what lies beyond request.receptive_field changes nothing", receptive_field, "rounding"
    ),
    "single precision": Law(
        "single precision agrees with double", single_precision, "amplification", double_only=True
    ),
    "precision": Law("double precision is double throughout", precision, "hidden", double_only=True),
    "forces": Law(
        "forces are the negative derivative of the energy",
        force_differences,
        "differences",
        double_only=True,
    ),
    "stress": Law(
        "stress is the derivative of the energy by strain, over the volume",
        stress_differences,
        "differences",
        double_only=True,
    ),
    "curl": Law("forces are a gradient", curl, "differences", "curl", double_only=True),
    "smoothness": Law(
        "forces do not jump as atoms cross a cutoff",
        smoothness,
        "jump",
        "smoothness",
        double_only=True,
    ),
    "training": Law(
        "gradients by the weights are those of finite differences",
        training,
        "differences",
        double_only=True,
    ),
}


def promises(potential: Potential) -> frozenset[str]:
    """What a potential says holds by construction, or what follows from its kind.

    A model says it itself (``LearnedPotential.exact``). Other potentials with an energy have conservative
    forces; whether these are smooth, only ``exact=`` can tell. Of direct forces nothing but translation and
    permutation goes without saying.
    """
    if isinstance(potential, LearnedPotential):
        return potential.exact
    return GRADIENT if potential.gives_energy else frozenset({"translation", "permutation"})


class Contract:
    """A potential, the structures to try it on, and what it promises.

    Args:
        potential: with random weights if it has any (``randomize``): a fresh network can hide errors.
        exact: which of ``PROPERTIES`` it must keep; see :func:`promises` for what it is by default.
        structures: by default :func:`~kinetograph.testing.structures` of the elements it knows.
        dtype: test a copy in this floating-point type.
        accuracy: what the potential itself promises, such as that of a lattice sum, relative to the rms
            force; laws need not hold better than this where it is more than rounding.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        exact: Collection[str] | None = None,
        structures: Mapping[str, System] | None = None,
        dtype: torch.dtype | None = None,
        accuracy: float = 0.0,
    ) -> None:
        self.accuracy = accuracy
        self.potential = potential if dtype is None else copy.deepcopy(potential).to(dtype=dtype)
        self.exact = promises(potential) if exact is None else frozenset(exact)
        unknown = self.exact - set(PROPERTIES)
        if unknown:
            raise ValueError(f"unknown properties {sorted(unknown)}; there are {', '.join(PROPERTIES)}")
        self.structures = dict(structures) if structures else default_structures(potential)

    @cached_property
    def amplification(self) -> float:
        """How much larger than machine epsilon rounding is: single against double, the worst seen."""
        seen = [single_precision(self.potential, system) or 0.0 for system in self.structures.values()]
        return min(max(LEAST_AMPLIFICATION, *seen), MAX_AMPLIFICATION)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the potential computes; without parameters that of the structures, float64."""
        return self.potential.dtype or torch.float64

    def tolerance(self, law: str) -> float:
        """The largest residual that is allowed."""
        bound = LAWS[law].bound
        if bound == "rounding":
            rounding = SAFETY * self.amplification * torch.finfo(self.dtype).eps
            return max(rounding, self.accuracy)
        return {
            "zero": 0.0,
            "amplification": MAX_AMPLIFICATION,
            "differences": DIFFERENCES,
            "jump": JUMP,
            "hidden": HIDDEN,
        }[bound]

    def excused(self, law: str) -> str | None:
        """Why the law is not asked of this potential, or ``None`` where it is."""
        wanted = LAWS[law]
        if wanted.promise is not None and wanted.promise not in self.exact:
            return f"{wanted.promise} is not promised"
        if wanted.double_only and self.dtype != torch.float64:
            return "measured in double precision only"
        if law in ("forces", "stress") and not self.potential.gives_energy:
            return "there is no energy"
        return None

    def residuals(self, law: str) -> dict[str, float]:
        """The residual on every structure for which the law means something."""
        measure = LAWS[law].measure
        found = {name: measure(self.potential, system) for name, system in self.structures.items()}
        return {name: residual for name, residual in found.items() if residual is not None}

    def broken(self, law: str) -> list[str]:
        """A sentence for every structure on which the law is broken; none where it is excused."""
        if self.excused(law) is not None:
            return []
        tolerance, residuals = self.tolerance(law), self.residuals(law)
        return [
            f"{law!r} is broken on the structure {name!r}: {LAWS[law].sentence}, "
            f"but the residual is {residual:.2e} where {tolerance:.2e} is allowed"
            for name, residual in residuals.items()
            if not residual <= tolerance
        ]

    def check(self, law: str) -> None:
        """Raise ``AssertionError`` where this law is broken."""
        broken = self.broken(law)
        if broken:
            raise AssertionError("\n".join(broken))

    def check_special(self) -> None:
        """Forces and gradients stay finite where angles are undefined and distances tied.

        Raises:
            AssertionError: they do not; a potential that refuses such a structure is in order.
        """
        spacing = float(torch.pdist(next(iter(self.structures.values())).positions).min())
        elements = torch.unique(torch.cat([s.atomic_numbers for s in self.structures.values()])).tolist()
        tried = {**special_structures(elements, spacing=spacing), **_largest(self.structures)}
        for name, system in tried.items():
            try:
                broken = broken_gradients(self.potential, system)
                missing = finiteness(self.potential, system)
            except UserError:  # refused with a reason, such as too few neighbours: better than any number
                continue
            if missing or broken:
                raise AssertionError(
                    f"on the structure {name!r} something is not finite: a prediction, or the gradient of "
                    f"{', '.join(broken) or 'nothing'}"
                )


def _largest(made: Mapping[str, System]) -> dict[str, System]:
    name = max(made, key=lambda key: made[key].n_atoms)
    return {name: made[name]}


def default_structures(potential: Potential) -> dict[str, System]:
    """Structures of the elements that a potential knows; no isolated atom where it would be refused."""
    request = potential.request
    refuses = request.n_nearest is not None and request.nearest_required
    return structures(elements_of(potential), isolated=not refuses)


def check_contract(
    potential: Potential,
    *,
    exact: Collection[str] | None = None,
    structures: Mapping[str, System] | None = None,
    dtype: torch.dtype | None = None,
    accuracy: float = 0.0,
) -> None:
    """Every law on every structure.

    Arguments are those of :class:`Contract`.

    Raises:
        AssertionError: naming each law that is broken, the structure, the residual and what is allowed.
    """
    contract = Contract(potential, exact=exact, structures=structures, dtype=dtype, accuracy=accuracy)
    broken = [sentence for law in LAWS for sentence in contract.broken(law)]
    if broken:
        raise AssertionError("\n".join(broken))
    contract.check_special()
