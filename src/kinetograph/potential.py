"""``Prediction`` and ``Potential``: what gives forces. Derivatives of energies are taken here only."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kinetograph import kernels
from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest, build_graph, refuse_coincident
from kinetograph.kernels.edges import forces_from_slopes
from kinetograph.neighbors import NeighborList
from kinetograph.nn.elements import MAX_ATOMIC_NUMBER
from kinetograph.nn.model import Head, InferenceForm, Model, Outputs
from kinetograph.nn.segments import sum_of_products, sum_to
from kinetograph.system import System
from kinetograph.training_domain import TrainingDomain


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch. What it cannot give is ``None``, never zero."""

    forces: Tensor
    """(n_atoms, 3) eV/Å."""
    conservative: bool
    """Whether the forces are the exact negative gradient of ``energy``."""
    energy: Tensor | None = None
    """(n_systems,) eV, in double precision whatever the type of the positions: total energies have six
    digits before the first that matters."""
    atomic_energies: Tensor | None = None
    """(n_atoms,) eV, in double precision."""
    stress: Tensor | None = None
    """(n_systems, 3, 3) eV/Å³, tension positive; NaN for structures not periodic throughout."""
    direct_forces: Tensor | None = None
    """(n_atoms, 3) eV/Å of the other head, where a model with both is asked for the two."""
    inner_forces: Tensor | None = None
    """(n_atoms, 3) eV/Å of the cheap model, where two are used for multiple time steps."""
    force_std: Tensor | None = None
    """(n_atoms,) eV/Å, of an ensemble: root mean square over its members of their distance from the mean."""


class Potential(nn.Module, ABC):
    """Gives forces for a batch of structures.

    Sub-classes set ``request`` (the neighbourhood they need) and are called with a system and a
    neighbour list that reaches at least ``request.reach``.
    """

    request: GraphRequest
    domain: TrainingDomain | None = None
    """What it was trained on; ``None`` for a classical potential."""

    @property
    def dtype(self) -> torch.dtype | None:
        """Floating-point type of the parameters, in which the potential computes; ``None`` without any."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), None)

    @property
    def gives_energy(self) -> bool:
        """Whether predictions hold an energy; not, unless a sub-class says so."""
        return False

    @property
    def gives_atomic_energies(self) -> bool:
        """Whether that energy is a sum over atoms, and predictions hold its terms."""
        return False

    @property
    def gives_stress(self) -> bool:
        """Whether predictions of periodic structures hold a stress."""
        return self.gives_energy

    @abstractmethod
    def forward(self, system: System, neighbors: NeighborList) -> Prediction: ...


class EnergyPotential(Potential):
    """An energy per atom, from edge vectors; forces and stress follow by one differentiation."""

    gives_energy = True
    gives_atomic_energies = True

    @abstractmethod
    def graph_energies(self, graph: Graph) -> Tensor:
        """(n_atoms,) eV; may depend on geometry only through ``edge_vectors`` and ``distances``."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        with torch.enable_grad():
            graph = build_graph(system, neighbors, self.request, dtype=self.dtype, differentiable=True)
            energies = self.graph_energies(graph)
            return from_energies(system, graph, energies, fitting=_fitting(self))


def _fitting(potential: nn.Module) -> bool:
    """Whether a second derivative is needed: only to fit parameters to forces."""
    return potential.training and any(p.requires_grad for p in potential.parameters())


def from_energies(
    system: System,
    graph: Graph,
    energies: Tensor,
    *,
    fitting: bool,
    direct_forces: Tensor | None = None,
    true_gradient: bool = True,
) -> Prediction:
    """Forces and stress from the energies of atoms.

    With g = dE/d(edge vector), the force on an atom is the sum of g over the edges that leave it
    minus the sum over those that arrive, and the stress is the sum of r g over the volume: every
    length enters through the edge vectors, so a strain acts on them alone. Links count as edges.
    """
    pairs = [(graph.center, graph.neighbor, graph.edge_vectors)]
    if graph.links is not None:
        pairs.append((graph.links.center, graph.links.neighbor, graph.links.vectors))
    slopes: tuple[Tensor | None, ...]
    if energies.requires_grad:
        slopes = torch.autograd.grad(
            energies.sum(), [vectors for _, _, vectors in pairs], create_graph=fitting, allow_unused=True
        )
    else:
        slopes = (None,) * len(pairs)  # no edges: isolated atoms feel nothing
    forces = torch.zeros_like(system.positions)
    with_stress = true_gradient and bool(system.pbc.all(dim=1).any())
    virial = forces.new_zeros(system.n_systems, 3, 3)
    for (center, neighbor, vectors), slope in zip(pairs, slopes, strict=True):
        if slope is None:
            continue
        slope = slope.to(system.dtype)
        forces = forces.index_add(0, center, slope).index_add(0, neighbor, -slope)
        if with_stress:
            counts = _edges_per_system(system, center)
            virial = virial + sum_of_products(vectors.detach().to(system.dtype), slope, counts)
    if not fitting:
        energies = energies.detach()
    energies = energies.double()
    return Prediction(
        forces=forces,
        conservative=true_gradient,
        energy=sum_to(system.system_index, energies, system.n_systems),
        atomic_energies=energies,
        stress=stress_of(virial, system) if with_stress else None,
        direct_forces=direct_forces,
    )


def _edges_per_system(system: System, center: Tensor) -> Tensor:
    """(n_systems,): edges are sorted by their centres, and so by structure."""
    if system.n_systems == 1:
        return torch.full((1,), len(center))
    return torch.bincount(system.system_index[center], minlength=system.n_systems)


def stress_of(virial: Tensor, system: System) -> Tensor | None:
    """(n_systems, 3, 3): the symmetric part of V σ over V, NaN where there is no V; ``None`` where nowhere.

    The NaN is put in last: divided by, it would reach the gradients of all parameters.
    """
    periodic = system.pbc.all(dim=1)
    if not bool(periodic.any()):
        return None
    volume = torch.where(periodic, system.volume, 1.0)
    stress = 0.5 * (virial + virial.transpose(1, 2)) / volume[:, None, None]
    return torch.where(periodic[:, None, None], stress, torch.nan)


class PairEnergyPotential(Potential):
    """An energy of every pair of atoms, from their distance alone: each pair is looked at once."""

    gives_energy = True
    gives_atomic_energies = True

    @abstractmethod
    def pair_energy(self, distances: Tensor) -> Tensor:
        """(n_pairs,) eV, for distances (Å) below the cutoff."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        first, second, shift = neighbors.half
        vectors = system.positions.index_select(0, second) - system.positions.index_select(0, first)
        if bool(system.pbc.any()):
            shift = shift.to(system.dtype)
            if system.n_systems == 1:
                vectors = vectors + shift @ system.cell[0]
            else:
                cells = system.cell[system.system_index[first]]
                vectors = vectors + (shift.unsqueeze(1) @ cells).squeeze(1)
        squares = vectors.square().sum(dim=1)
        refuse_coincident(system, first, second, squares)
        # Only what lies within the cutoff: sums must not depend on when the list was made.
        chosen = torch.nonzero(squares < self.request.cutoff**2)[:, 0]
        first, second, vectors = first[chosen], second[chosen], vectors[chosen]
        with torch.enable_grad():
            distances = squares[chosen].sqrt().requires_grad_(True)
            energies = self.pair_energy(distances)
            (slope,) = torch.autograd.grad(energies.sum(), distances)
        energies = energies.detach().double()
        # −u'(r) along the vector from the first atom is the force on the second; the first has the opposite.
        pull = (slope / distances.detach()).unsqueeze(1) * vectors
        forces = sum_to(first, pull, system.n_atoms).index_add(0, second, -pull)
        halves = 0.5 * energies
        atomic = sum_to(first, halves, system.n_atoms).index_add(0, second, halves)
        virial = sum_of_products(vectors, pull, _edges_per_system(system, first))
        return Prediction(
            forces=forces,
            conservative=True,
            energy=sum_to(system.system_index, atomic, system.n_systems),
            atomic_energies=atomic,
            stress=stress_of(virial, system),
        )


class SpaceEnergyPotential(Potential):
    """An energy of whole structures, from positions and cell: for sums that reach beyond any cutoff.

    It is computed in double precision: there is no network whose time that would double.
    """

    gives_energy = True

    @abstractmethod
    def system_energies(self, system: System, neighbors: NeighborList) -> Tensor:
        """(n_systems,) eV, differentiable with respect to positions and cell."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        # A strain ε acts on positions and cell alike: r → r (1 + ε). Its derivative at zero is V σ.
        fitting, dtype = _fitting(self), system.dtype
        system = system.to(dtype=torch.float64)
        neighbors = replace(neighbors, shift=neighbors.shift.double())
        with torch.enable_grad():
            positions = system.positions.detach().requires_grad_(True)
            strain = positions.new_zeros(system.n_systems, 3, 3).requires_grad_(True)
            deformed = replace(
                system,
                positions=positions + torch.einsum("ni,nij->nj", positions, strain[system.system_index]),
                cell=system.cell + system.cell @ strain,
            )
            energy = self.system_energies(deformed, neighbors)
            slope, virial = torch.autograd.grad(
                energy.sum(), (positions, strain), create_graph=fitting, materialize_grads=True
            )
        return Prediction(
            forces=-slope.to(dtype),
            conservative=True,
            energy=energy if fitting else energy.detach(),
            stress=None if (stress := stress_of(virial, system)) is None else stress.to(dtype),
        )


class SumPotential(Potential):
    """The sum of several potentials, such as a model and a repulsive core.

    Its request covers every part. Energies and stress are given where every part gives them. The training
    domain is that of its first part.
    """

    def __init__(self, *parts: Potential) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        rules = [part.request.bond_rule for part in parts if part.request.bond_rule is not None]
        if len({rule.tolerance for rule in rules}) > 1:
            raise ValueError(f"the parts ask for different bond rules: {rules}")
        reach = max(part.request.reach for part in parts)
        self.request = GraphRequest(
            cutoff=reach,
            bond_rule=max(rules, key=lambda rule: rule.max_separation, default=None),
            n_layers=max(math.ceil(part.request.receptive_field / reach) for part in parts),
        )
        self.domain = parts[0].domain

    @property
    def gives_energy(self) -> bool:
        return all(part.gives_energy for part in self._potentials)

    @property
    def gives_atomic_energies(self) -> bool:
        return all(part.gives_atomic_energies for part in self._potentials)

    @property
    def gives_stress(self) -> bool:
        return all(part.gives_stress for part in self._potentials)

    @property
    def answers(self) -> Head:
        """The kind of forces that the learned parts answer with; conservative where there are none."""
        learned = [part.answers for part in self._potentials if isinstance(part, LearnedPotential)]
        return "direct" if "direct" in learned else "conservative"

    def use_forces(self, head: Head) -> None:
        """Choose the head of the learned parts; see :meth:`LearnedPotential.use_forces`."""
        for part in self._potentials:
            if isinstance(part, LearnedPotential):
                part.use_forces(head)

    def use_compiler(self) -> None:
        """Compile the learned parts; see :meth:`LearnedPotential.use_compiler`."""
        for part in self._potentials:
            if isinstance(part, LearnedPotential):
                part.use_compiler()

    @property
    def _potentials(self) -> list[Potential]:
        return [part for part in self.parts if isinstance(part, Potential)]

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        predictions: list[Prediction] = [part(system, neighbors) for part in self.parts]

        def total(values: list[Tensor | None]) -> Tensor | None:
            known = [value for value in values if value is not None]
            return torch.stack(known).sum(dim=0) if len(known) == len(values) else None

        return Prediction(
            forces=torch.stack([p.forces for p in predictions]).sum(dim=0),
            conservative=all(p.conservative for p in predictions),
            energy=total([p.energy for p in predictions]),
            atomic_energies=total([p.atomic_energies for p in predictions]),
            stress=total([p.stress for p in predictions]),
            force_std=_only([p.force_std for p in predictions]),
        )


def _only(values: list[Tensor | None]) -> Tensor | None:
    """Of one part that is an ensemble; of several, whose errors are independent, the root of the squares."""
    known = [value for value in values if value is not None]
    return torch.stack(known).square().sum(dim=0).sqrt() if known else None


class LearnedPotential(Potential):
    """A model in units: its energies and forces times the scale of the training forces.

    ``force_scale`` (eV/Å) is the standard deviation of the training force components. No mean force
    is subtracted: by symmetry it is zero, and a constant vector would break covariance. Energies
    come out as Σ_i (E0 of the element + force scale × 1 Å × the model's energy), where E0 is fitted to
    the training energies and zero where there were none.

    A model with both heads answers with its conservative one, unless :meth:`use_forces` chose the other.
    """

    force_scale: Tensor
    reference_energies: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.request = model.request
        self.register_buffer("force_scale", torch.tensor(1.0))
        if "conservative" in model.heads or model.separate_energy:
            # In double precision always, as the energies that they are added to.
            zeros = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
            self.register_buffer("reference_energies", zeros)
        self.answers: Head = "conservative" if "conservative" in model.heads else "direct"
        self.also_direct = False
        """Whether conservative answers hold the direct forces too."""
        self.compiled = False  # a plain attribute: a run that resumes asks whether it is as it was
        self._direct: Callable[[Graph], tuple[Tensor, Tensor | None]] = self._plain_direct
        self._weights: list[Tensor] | None = None
        self._form: InferenceForm | None = None
        self._form_version: tuple[int, ...] | None = None

    @property
    def gives_energy(self) -> bool:
        return self.answers == "conservative" or self.model.separate_energy

    @property
    def gives_atomic_energies(self) -> bool:
        return self.gives_energy

    @property
    def gives_stress(self) -> bool:
        return self.answers == "conservative" and self.model.true_gradient

    @property
    def exact(self) -> frozenset[str]:
        """What holds by construction for the forces that it answers with."""
        return self.model.exact[self.answers]

    def use_forces(self, head: Head) -> None:
        """Answer from now on with this head's forces.

        Raises:
            UserError: the model was not built with that head.
        """
        if head not in self.model.heads:
            raise UserError(
                f"the model has {' and '.join(self.model.heads)} forces, no {head} ones",
                mend="Train it with model.forces: both to have the two.",
            )
        self.answers = head

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        heads = self.model.heads if self.training or self.also_direct else (self.answers,)
        fast = self._fast_prediction(system, neighbors, heads)
        if fast is not None:
            return fast
        if "conservative" not in heads:
            graph = build_graph(system, neighbors, self.request, dtype=self.dtype)
            forces, energies = self._direct(graph)
            energies = None if energies is None else self._in_eV(energies, system)
            return Prediction(
                forces=forces.to(system.dtype),
                conservative=False,
                energy=None if energies is None else sum_to(system.system_index, energies, system.n_systems),
                atomic_energies=energies,
            )
        with torch.enable_grad():
            graph = build_graph(system, neighbors, self.request, dtype=self.dtype, differentiable=True)
            outputs = self.model(graph, heads)
            direct = None if outputs.forces is None else outputs.forces * self.force_scale
            if direct is not None and not _fitting(self):
                direct = direct.detach()
            return from_energies(
                system,
                graph,
                self._in_eV(outputs.energies, system),
                fitting=_fitting(self),
                direct_forces=None if direct is None else direct.to(system.dtype),
                true_gradient=self.model.true_gradient,
            )

    def _fast_prediction(
        self, system: System, neighbors: NeighborList, heads: tuple[Head, ...]
    ) -> Prediction | None:
        """By the model's inference form; ``None`` where there is none, or not for this system."""
        form = self._inference_form()
        if form is None or system.device.type != "cpu":
            return None
        graph = build_graph(system, neighbors, self.request, dtype=torch.float32)
        said = form(graph, heads)
        if said is None:
            return None
        direct = None if said.forces is None else (said.forces * self.force_scale).to(system.dtype)
        if said.energies is None or said.slopes is None:
            assert direct is not None
            return Prediction(forces=direct, conservative=False)
        energies = self._in_eV(said.energies, system)
        native = kernels.library()
        assert native is not None
        forces, virial = forces_from_slopes(
            native,
            *(
                graph.center,
                graph.neighbor,
                said.slopes,
                graph.edge_vectors,
                system.n_atoms,
                system.n_systems,
            ),
            None if system.n_systems == 1 else system.system_index,
        )
        scale = float(self.force_scale)
        return Prediction(
            forces=(forces * scale).to(system.dtype),
            conservative=True,
            energy=sum_to(system.system_index, energies, system.n_systems),
            atomic_energies=energies,
            stress=stress_of((virial * scale).to(system.dtype), system),
            direct_forces=direct,
        )

    def _inference_form(self) -> InferenceForm | None:
        """The model's form for running, made anew when its weights have changed."""
        if self.training or self.compiled or kernels.library() is None or self.dtype != torch.float32:
            return None
        if self._weights is None:
            self._weights = [*self.model.parameters(), *self.model.buffers()]
        version = tuple(weight._version for weight in self._weights)
        if version != self._form_version:
            self._form, self._form_version = self.model.inference_form(), version
        return self._form

    def _in_eV(self, energies: Tensor, system: System) -> Tensor:
        energies = energies.double() * self.force_scale
        return energies + self.reference_energies[system.atomic_numbers]

    def _plain_direct(self, graph: Graph) -> tuple[Tensor, Tensor | None]:
        outputs: Outputs = self.model(graph, ("direct",))
        assert outputs.forces is not None
        return outputs.forces * self.force_scale, outputs.energies

    def use_compiler(self) -> None:
        """Run from now on through ``torch.compile``, for any number of atoms and edges.

        The first call takes about half a minute; forces change by rounding only.

        Raises:
            UserError: the model answers with conservative forces, which are not compiled yet.
        """
        if self.answers != "direct":
            raise UserError(
                "only direct forces can be compiled so far",
                mend="Choose the direct ones with --forces direct."
                if "direct" in self.model.heads
                else "Leave --compile out for this model.",
            )
        self.compiled = True
        self._direct = torch.compile(self._plain_direct, dynamic=True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._weights = self._form = self._form_version = None  # weights are about to move
        kept = getattr(self, "reference_energies", None)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if kept is not None:
            self.reference_energies = kept.to(self.reference_energies.device)
        return self
