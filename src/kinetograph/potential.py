"""``Prediction`` and ``Potential``: what gives forces. Derivatives of energies are taken here only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph, GraphRequest, build_graph
from kinetograph.neighbors import NeighborList
from kinetograph.nn.heads import Trunk
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
    """(n_systems,) eV."""
    atomic_energies: Tensor | None = None
    """(n_atoms,) eV."""
    stress: Tensor | None = None
    """(n_systems, 3, 3) eV/Å³, tension positive; NaN for structures not periodic throughout."""


class Potential(nn.Module, ABC):
    """Gives forces for a batch of structures.

    Sub-classes set ``request`` (the neighbourhood they need) and are called with a system and a
    neighbour list that reaches at least ``request.cutoff``.
    """

    request: GraphRequest
    domain: TrainingDomain | None = None
    """What it was trained on; ``None`` for a classical potential."""

    @property
    def dtype(self) -> torch.dtype | None:
        """Floating-point type of the parameters, in which the potential computes; ``None`` without any."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), None)

    @abstractmethod
    def forward(self, system: System, neighbors: NeighborList) -> Prediction: ...


class DirectPotential(Potential):
    """Forces straight from a model, not the gradient of an energy."""

    @abstractmethod
    def graph_forces(self, graph: Graph) -> Tensor:
        """(n_atoms, 3) eV/Å."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        graph = build_graph(system, neighbors, self.request, dtype=self.dtype)
        return Prediction(forces=self.graph_forces(graph).to(system.dtype), conservative=False)


class EnergyPotential(Potential):
    """An energy per atom, from edge vectors; forces and stress follow by one differentiation.

    With g = dE/d(edge vector), the force on an atom is the sum of g over the edges that leave it
    minus the sum over those that arrive, and the stress is the sum of r g over the volume: every
    length enters through the edge vectors, so a strain acts on them alone.
    """

    @abstractmethod
    def graph_energies(self, graph: Graph) -> Tensor:
        """(n_atoms,) eV; may depend on geometry only through ``edge_vectors`` and ``distances``."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        # A second derivative is needed only to fit parameters to forces.
        fitting = self.training and any(p.requires_grad for p in self.parameters())
        with torch.enable_grad():
            graph = build_graph(system, neighbors, self.request, dtype=self.dtype, differentiable=True)
            energies = self.graph_energies(graph)
            (slope,) = torch.autograd.grad(
                energies.sum(), graph.edge_vectors, create_graph=fitting, allow_unused=True
            )
        if slope is None:  # no edges: isolated atoms feel nothing
            slope = torch.zeros_like(graph.edge_vectors)
        if not fitting:
            energies = energies.detach()
        energies, slope = energies.to(system.dtype), slope.to(system.dtype)
        forces = torch.zeros_like(system.positions)
        forces = forces.index_add(0, graph.center, slope).index_add(0, graph.neighbor, -slope)
        energy = energies.new_zeros(system.n_systems).index_add(0, system.system_index, energies)
        return Prediction(
            forces=forces,
            conservative=True,
            energy=energy,
            atomic_energies=energies,
            stress=_stress(system, graph, slope),
        )


def _stress(system: System, graph: Graph, slope: Tensor) -> Tensor | None:
    periodic = system.pbc.all(dim=1)
    if not bool(periodic.any()):
        return None
    vectors = graph.edge_vectors.detach() if not slope.requires_grad else graph.edge_vectors
    outer = vectors.to(system.dtype).unsqueeze(2) * slope.unsqueeze(1)
    if system.n_systems == 1:
        virial = outer.sum(dim=0, keepdim=True)
    else:
        virial = outer.new_zeros(system.n_systems, 3, 3)
        virial = virial.index_add(0, system.system_index[graph.center], outer)
    virial = 0.5 * (virial + virial.transpose(1, 2))
    volume = torch.where(periodic, system.volume, torch.nan)
    return virial / volume[:, None, None]


class SumPotential(Potential):
    """The sum of several potentials, such as a model and a repulsive core.

    Its request covers every part. Energy and stress are given where every part gives them.
    """

    def __init__(self, *parts: Potential) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        rules = {part.request.bond_rule for part in parts} - {None}
        if len(rules) > 1:
            raise ValueError(f"the parts ask for different bond rules: {rules}")
        self.request = GraphRequest(
            cutoff=max(part.request.cutoff for part in parts),
            bond_rule=next(iter(rules), None),
            n_layers=max(part.request.n_layers for part in parts),
        )

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
        )


class DirectModel(DirectPotential):
    """A model's features, read by its force head, in units of the training forces.

    ``force_scale`` (eV/Å) is the standard deviation of the training force components. No mean is
    subtracted: by symmetry it is zero, and a constant vector would break covariance.
    """

    force_scale: Tensor

    def __init__(self, model: Trunk) -> None:
        super().__init__()
        self.model = model
        self.request = model.request
        self.register_buffer("force_scale", torch.tensor(1.0))
        self.compiled = False  # a plain attribute: a run that resumes asks whether it is as it was
        self._run: Callable[[Graph], Tensor] = self._plain

    def graph_forces(self, graph: Graph) -> Tensor:
        return self._run(graph)

    def _plain(self, graph: Graph) -> Tensor:
        forces: Tensor = self.model.head(self.model(graph), graph)
        return forces * self.force_scale

    def use_compiler(self) -> None:
        """Run from now on through ``torch.compile``, for any number of atoms and edges.

        The first call takes about half a minute; forces change by rounding only.
        """
        self.compiled = True
        self._run = torch.compile(self._plain, dynamic=True)
