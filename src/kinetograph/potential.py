"""``Prediction`` and ``Potential``: what gives forces. Derivatives of energies are taken here only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from kinetograph.errors import UserError
from kinetograph.fixed_list import FixedList
from kinetograph.graph import Graph, GraphRequest, build_graph, refuse_coincident
from kinetograph.neighbors import NeighborList
from kinetograph.nn.segments import EACH_ALONE_ON, sum_of_products, sum_to
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

    def steady_form(self, system: System) -> SteadyForm | None:
        """The potential for steps that are recorded on a GPU; ``None`` where there is no such form."""
        return None


class SteadyForm(Protocol):
    """A potential that is called with lists of fixed size and asks the device nothing.

    What it cannot answer for is noted in the list. Cells and boundary conditions must stay as they are.
    """

    @property
    def request(self) -> GraphRequest: ...

    def __call__(self, system: System, neighbors: FixedList) -> Prediction: ...

    def is_current(self) -> bool:
        """Whether the potential would give this form again: same weights, same heads."""
        ...


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
            return from_energies(system, graph, energies, fitting=is_fitting(self))


def is_fitting(potential: nn.Module) -> bool:
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
    with_stress: bool | None = None,
) -> Prediction:
    """Forces and stress from the energies of atoms, of the first ones where a graph has more than the system.

    With g = dE/d(edge vector), the force on an atom is the sum of g over the edges that leave it
    minus the sum over those that arrive, and the stress is the sum of r g over the volume: every
    length enters through the edge vectors, so a strain acts on them alone. Links count as edges.

    Args:
        with_stress: by default where a structure is periodic, which is asked of the device.
    """
    if torch.is_inference_mode_enabled():
        raise UserError(
            "an energy cannot be differentiated in torch.inference_mode",
            where="conservative forces",
            mend="Use torch.no_grad instead.",
        )
    energies = energies[: system.n_atoms]
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
    forces = system.positions.new_zeros(graph.n_atoms, 3)
    if with_stress is None:
        with_stress = true_gradient and bool(system.pbc.all(dim=1).any())
    virial = forces.new_zeros(system.n_systems, 3, 3)
    for (center, neighbor, vectors), slope in zip(pairs, slopes, strict=True):
        if slope is None:
            continue
        slope = slope.to(system.dtype)
        forces = forces.index_add(0, center, slope).index_add(0, neighbor, -slope)
        if with_stress:
            virial = virial + _virial(system, graph.system_index, center, vectors, slope)
    if not fitting:
        energies = energies.detach()
    energies = energies.double()
    return Prediction(
        forces=forces[: system.n_atoms],
        conservative=true_gradient,
        energy=sum_to(system.system_index, energies, system.n_systems),
        atomic_energies=energies,
        stress=stress_from(virial, system) if with_stress else None,
        direct_forces=direct_forces,
    )


def _virial(system: System, structure: Tensor, center: Tensor, vectors: Tensor, slopes: Tensor) -> Tensor:
    """(n_systems, 3, 3): the sum of vectors times slopes over edges.

    Args:
        structure: that each atom belongs to.
        center: (n_edges,) ascending atoms.
    """
    vectors = vectors.detach().to(system.dtype)
    if system.n_systems == 1:
        return sum_of_products(vectors, slopes, torch.full((1,), len(vectors)))
    if system.device.type not in EACH_ALONE_ON:
        return sum_to(structure[center], vectors.unsqueeze(2) * slopes.unsqueeze(1), system.n_systems)
    return sum_of_products(vectors, slopes, torch.bincount(structure[center], minlength=system.n_systems))


def stress_of(virial: Tensor, system: System) -> Tensor | None:
    """(n_systems, 3, 3): the symmetric part of V σ over V, NaN where there is no V; ``None`` where nowhere.

    The NaN is put in last: divided by, it would reach the gradients of all parameters.
    """
    return stress_from(virial, system) if bool(system.pbc.all(dim=1).any()) else None


def stress_from(virial: Tensor, system: System) -> Tensor:
    """(n_systems, 3, 3): as :func:`stress_of`, where some structure is known to be periodic."""
    periodic = system.pbc.all(dim=1)
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
        virial = _virial(system, system.system_index, first, vectors, pull)
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
        fitting, dtype = is_fitting(self), system.dtype
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
