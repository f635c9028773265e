"""``Model``: what a paper's network gives, what it can be asked for, and the sizes it was published in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kinetograph import kernels
from kinetograph.errors import UserError, nearest
from kinetograph.graph import Graph, GraphRequest
from kinetograph.kernels.edges import ListedEdges

Head = Literal["direct", "conservative"]
Forces = Literal["direct", "conservative", "both"]
Offering = Literal["native", "extended", "not offered"]

HEADS: tuple[Head, Head] = ("direct", "conservative")

# What can hold by construction. "net force": it vanishes; "torque": it vanishes for a molecule; "curl": the
# forces are the gradient of an energy; "smoothness": forces change continuously as atoms cross the cutoff.
PROPERTIES = (
    "translation",
    "permutation",
    "rotation",
    "reflection",
    "net force",
    "torque",
    "curl",
    "smoothness",
)
COVARIANT = frozenset({"translation", "permutation", "rotation", "reflection"})
GRADIENT = COVARIANT | {"net force", "torque", "curl"}
"""What holds for forces that are the gradient of an invariant energy."""


@dataclass(frozen=True)
class Offer:
    """Whether a model has a head, and why."""

    offering: Offering
    note: str = ""
    """Where the head is extended, what is switched on for it; where it is not offered, the reason."""


@dataclass(frozen=True)
class Published:
    """A figure from a paper, with where it stands there."""

    what: str
    """Data set and quantity, such as ``"OC20 S2F val ID, force MAE"``."""
    value: float
    unit: str
    source: str


def md17(source: str, errors: Mapping[str, float], *whose: str) -> tuple[Published, ...]:
    """Force errors after training on 1,000 frames of a molecule of MD17, by molecule and in meV/Å.

    Papers give them in kcal/mol/Å, which are 43.364 meV/Å.
    """
    return tuple(
        Published(", ".join((f"MD17 {molecule}, 1,000 frames, force MAE", *whose)), error, "meV/Å", source)
        for molecule, error in errors.items()
    )


@dataclass(frozen=True)
class Preset:
    """A named set of hyperparameters. Cutoff, elements and bond types belong to the data, not to a preset."""

    architecture: str
    about: str
    """One line: whose sizes these are."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    forces: Forces = "direct"
    learning_rate: float = 1e-3
    """Where training starts from unless told otherwise."""
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """What a model says of a graph, in units of its force scale."""

    energies: Tensor | None = None
    """(n_atoms,), one unit is force scale × 1 Å; given where the conservative head was asked for, and by
    the direct head of a model with a ``separate_energy``."""
    forces: Tensor | None = None
    """(n_atoms, 3), one unit is the force scale; given where the direct head was asked for."""


@dataclass(frozen=True)
class Inference:
    """What a model's inference form says of a graph, in units of its force scale."""

    forces: Tensor | None = None
    """(n_atoms, 3) of the direct head, where asked for."""
    energies: Tensor | None = None
    """(n_atoms,), where the conservative head was asked for, and with ``separate_energy``."""
    slopes: Tensor | None = None
    """(n_edges, 3): derivatives of their sum by edge vectors, or what makes the same forces and virial; where
    the conservative head was asked for."""


class InferenceForm(Protocol):
    """A model with its weights as they are now, in a form that only runs: no gradients of weights."""

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Inference | None:
        """The outputs of these heads; ``None`` where this graph needs the plain form."""
        ...


@runtime_checkable
class FormOfLists(Protocol):
    """An inference form that takes direct forces from a neighbour list, without a graph in between."""

    def of_list(self, atomic_numbers: Tensor, edges: ListedEdges) -> Tensor | None:
        """(n_atoms, 3) direct forces, by places where edges have an order; ``None`` where this list needs
        the graph."""
        ...


class GpuForm(Protocol):
    """A model with its weights as they are now, in torch's operations and those of ``kernels/operators``.

    It asks the device nothing: what is recorded once can be played again for other positions.
    """

    @property
    def shortest_A(self) -> float:
        """Å: graphs with shorter edges need the plain form."""
        ...

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        """As the model's forward pass, differentiable once by the vectors of edges."""
        ...


class Model(nn.Module, ABC):
    """A paper's network without units: from a graph to atomic energies, direct forces, or both.

    A model is made as ``Architecture(elements, cutoff=…, forces=…, **hyperparameters)``. Sizes that
    most have are called ``width`` and ``n_layers``.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]]
    """What this architecture has; not every hyperparameter needs to allow all of it."""

    request: GraphRequest
    forces: Forces
    separate_energy: bool = False
    """Whether the direct head comes with energies that its forces are not the gradient of (GemNet-dT)."""
    true_gradient: bool = True
    """Whether the derivative of the energies along edge vectors is their whole derivative."""
    shortest_A: float = 0.0
    """Å: of edges, where the model is its own form for a GPU."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that this instance was built with."""
        return HEADS if self.forces == "both" else (self.forces,)

    @property
    @abstractmethod
    def exact(self) -> Mapping[Head, frozenset[str]]:
        """For each head of this instance which of ``PROPERTIES`` hold by construction."""

    @abstractmethod
    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        """The outputs of these heads, all of which the instance has.

        Energies may depend on geometry only through the vectors of edges and links and what is
        computed from them: forces and stress are taken from there.
        """

    @property
    def inference_request(self) -> GraphRequest:
        """What forms for running need of a graph: the edges of ``request``, with no more than they read."""
        return self.request

    def takes_operators(self, inputs: Tensor) -> bool:
        """Whether sums over edges are fused operators, which can be differentiated once.

        Where there are kernels for them, and nobody may differentiate by the weights: that is a second time
        where forces are conservative.
        """
        followed = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        return not followed and inputs.dtype == torch.float32 and kernels.triton_kernels()

    @property
    def training_request(self) -> GraphRequest:
        """What training needs of a graph, where that is less than ``request``: no triplets one by one."""
        return self.request

    def inference_form(self) -> InferenceForm | None:
        """A faster form for running on a CPU in single precision, made anew when weights have changed.

        ``None``: there is none for this model, these options or this machine.
        """
        return None

    def gpu_form(self) -> GpuForm | None:
        """A faster form for running on a GPU in single precision, made anew when weights have changed.

        ``None``: there is none for this model or these options.
        """
        return None

    def bfloat16_form(self) -> InferenceForm | None:
        """An inference form whose products have factors of bfloat16, and sums of single precision.

        For whom a few parts in a thousand of the forces are worth less than the time; ``None`` as above.
        """
        return None

    # A model of weights only has nothing to fit.
    def fit_statistics(self, graphs: Iterable[Graph], forces: Iterable[Tensor]) -> None:
        """Set whatever the model keeps of its training data besides weights, before training.

        Args:
            graphs: the training frames, made anew each time they are gone through.
            forces: their forces in units of the force scale, in the same order.
        """

    def own_loss(self, graph: Graph, forces: Tensor, progress: float) -> Tensor | None:
        """A loss in place of the usual one, for a paper that trains in stages; ``None``: the usual one.

        Args:
            forces: (n_atoms, 3) reference in units of the force scale.
            progress: share of the training that is done, 0 to 1.
        """
        return None


def option_key(name: str) -> str:
    """Where a configuration holds a hyperparameter."""
    return (
        f"model.{name}" if name in ("width", "n_layers", "max_bond_separation") else f"model.options.{name}"
    )


def check_choice(option: str, value: str | None, known: Sequence[str | None]) -> None:
    """Raise ``UserError`` if an option of a model has none of its known values."""
    if value not in known:
        names = [name for name in known if name is not None]
        raise UserError(
            f"unknown {option} {value!r}{nearest(str(value), names)}",
            where=option_key(option),
            mend=f"Known: {', '.join(names)}.",
        )


def require_offer(model: type[Model], forces: Forces) -> None:
    """Raise ``UserError`` with the reason if an architecture lacks a head that is asked for."""
    if forces not in ("direct", "conservative", "both"):
        raise UserError(f"unknown kind of forces {forces!r}", mend="Known: direct, conservative, both.")
    for head in HEADS:
        offer = model.OFFERS[head]
        if forces in (head, "both") and offer.offering == "not offered":
            raise UserError(
                f"{model.__name__} has no {head} forces: {offer.note}",
                where="model.forces",
                mend="`kinetograph models` shows which model has which forces.",
            )
