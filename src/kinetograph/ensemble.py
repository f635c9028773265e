"""``EnsemblePotential``: models of one make that differ in their seed; their mean, and where they disagree.

With members F_k, k = 1 … K, the force on an atom is F = Σ F_k / K, and ``force_std`` = (Σ |F_k − F|² / K)^½
says how far apart they are (B. Lakshminarayanan, A. Pritzel, C. Blundell, NeurIPS 2017, arXiv:1612.01474).
It is small where training data held the members together, and grows where there were none; it knows
nothing of what all members get wrong alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest, build_graph
from kinetograph.learned_potential import LearnedPotential, Precision
from kinetograph.neighbors import NeighborList
from kinetograph.nn.model import Head
from kinetograph.potential import Potential, Prediction, from_energies
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System, batch
from kinetograph.training_domain import merge

# Processor time of four members in turn over that of all at once, on one thread, in single precision:
#
#   atoms, edges            9, 72   12, 126   48, 1900   96, 4900   258, 11600   774, 35700
#   painn, direct            0.93      0.89       0.46       0.46         0.43         0.48
#   painn, conservative      1.25      1.24       0.77       0.74         0.47         0.68
#   schnet, conservative     1.22      1.15       0.76       0.76         0.78         0.44
#   gamd-covariant, direct   1.06      0.88       0.71       0.66         0.65         0.31
#
# Stacked tensors leave the cache, and their rows are gathered more slowly: only small graphs gain, and a
# member with an inference form is faster still. So on a CPU members are asked in turn, and what a structure
# is told does not depend, in the last bit, on how many others there are.
EDGES_AT_ONCE_GPU = 100_000
"""Below so many edges members are asked at once on a GPU: a bound on memory, not measured."""


class EnsemblePotential(Potential):
    """Answers with the mean of its members, and with how far they are apart.

    Args:
        members: of one architecture, with the same hyperparameters and elements; force scales and
            reference energies may differ.
        additions: potentials that stand beside every member, such as a repulsive core.

    Raises:
        UserError: fewer than two members, or members that differ in more than their weights.
    """

    def __init__(self, members: Sequence[LearnedPotential], additions: Sequence[Potential] = ()) -> None:
        super().__init__()
        _require_one_make(members)
        self.members = nn.ModuleList(members)
        self.additions = nn.ModuleList(additions)
        self.request = SumPotential(members[0], *additions).request if additions else members[0].request
        domains = [member.domain for member in members if member.domain is not None]
        self.domain = merge(domains) if domains else None
        self._stack: _Stack | None = None
        self._vmap_fails = False

    @property
    def models(self) -> list[LearnedPotential]:
        """The members, each of which is a potential by itself, without the additions."""
        return [member for member in self.members if isinstance(member, LearnedPotential)]

    @property
    def added(self) -> list[Potential]:
        """What stands beside every member."""
        return [addition for addition in self.additions if isinstance(addition, Potential)]

    @property
    def gives_energy(self) -> bool:
        return all(part.gives_energy for part in (self.models[0], *self.added))

    @property
    def gives_atomic_energies(self) -> bool:
        return all(part.gives_atomic_energies for part in (self.models[0], *self.added))

    @property
    def gives_stress(self) -> bool:
        return all(part.gives_stress for part in (self.models[0], *self.added))

    @property
    def answers(self) -> Head:
        """The kind of forces that it answers with."""
        return self.models[0].answers

    @property
    def exact(self) -> frozenset[str]:
        """What holds by construction for the members' forces holds for their mean."""
        return self.models[0].exact

    def use_forces(self, head: Head) -> None:
        """Answer from now on with this head's forces; see :meth:`LearnedPotential.use_forces`."""
        for member in self.models:
            member.use_forces(head)

    def use_compiler(self) -> None:
        """Refused: an ensemble is not compiled.

        Raises:
            UserError: always.
        """
        raise UserError("an ensemble is not compiled so far", mend="Leave --compile out for this model.")

    def use_precision(self, precision: Precision) -> None:
        """Round factors in the members' products; see :meth:`LearnedPotential.use_precision`."""
        for member in self.models:
            member.use_precision(precision)

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        prediction = mean_of(self.of_each(system, neighbors))
        for addition in self.added:
            prediction = _plus(prediction, addition(system, neighbors))
        return prediction

    def of_each(self, system: System, neighbors: NeighborList) -> list[Prediction]:
        """What every member says, without the additions, in the way that is faster."""
        if self._is_faster_at_once(neighbors):
            try:
                return self.of_each_at_once(system, neighbors)
            except RuntimeError as error:
                self._vmap_fails = True
                what = str(error).strip().splitlines()[0]
                warnings.warn(
                    f"the members of this ensemble are asked one by one, torch.vmap cannot run them: {what}",
                    UserWarning,
                    stacklevel=2,
                )
        return self.of_each_in_turn(system, neighbors)

    def _is_faster_at_once(self, neighbors: NeighborList) -> bool:
        model = self.models[0].model
        alone = model.separate_energy or model.request.link_cutoff is not None
        if alone or self.training or self._vmap_fails or neighbors.center.device.type == "cpu":
            return False
        return len(neighbors.center) < EDGES_AT_ONCE_GPU

    def of_each_in_turn(self, system: System, neighbors: NeighborList) -> list[Prediction]:
        """What every member says, one after the other."""
        return [member(system, neighbors) for member in self.models]

    def of_each_at_once(self, system: System, neighbors: NeighborList) -> list[Prediction]:
        """The same to rounding, in one pass over the stacked weights; not for links or separate energies.

        Energies are differentiated once, with respect to the edge vectors of as many copies of the graph as
        there are members: only its own member's energies depend on those of a copy.

        Raises:
            RuntimeError: the model does what torch.vmap cannot.
            UserError: the members were not made for an element of the system.
        """
        self.models[0].require_elements(system.atomic_numbers)
        n, stack, model = len(self.members), self._stacked(), self.models[0].model
        heads = (self.answers,)
        graph = build_graph(system, neighbors, self.models[0].request, dtype=self.dtype)

        def direct(parameters: dict[str, Any], buffers: dict[str, Any]) -> Tensor:
            forces: Tensor = functional_call(model, (parameters, buffers), (graph, heads)).forces
            return forces

        def energies(parameters: dict[str, Any], buffers: dict[str, Any], edge_vectors: Tensor) -> Tensor:
            distances = torch.linalg.norm(edge_vectors, dim=1)
            own = replace(graph, edge_vectors=edge_vectors, distances=distances)
            of_atoms: Tensor = functional_call(model, (parameters, buffers), (own, heads)).energies
            return of_atoms

        if self.answers == "direct":
            forces = vmap(direct)(stack.parameters, stack.buffers) * stack.force_scale[:, None, None]
            return [Prediction(forces=of.to(system.dtype), conservative=False) for of in forces]
        with torch.enable_grad():
            copies = _copies(graph, n)
            values = vmap(energies)(
                stack.parameters, stack.buffers, copies.edge_vectors.view(n, graph.n_edges, 3)
            )
            assert stack.reference_energies is not None
            values = values.double() * stack.force_scale[:, None]
            values = values + stack.reference_energies[:, system.atomic_numbers]
            together = from_energies(
                batch([system] * n),
                copies,
                values.flatten(),
                fitting=False,
                true_gradient=model.true_gradient,
            )
        return _split(together, n)

    def _stacked(self) -> _Stack:
        """The members' weights in one piece; anew where one of them has changed."""
        if self._stack is None or self._stack.versions != [tensor._version for tensor in self._stack.of]:
            models = self.models
            parameters, buffers = stack_module_state([member.model for member in models])
            of = [tensor for member in models for tensor in (*member.parameters(), *member.buffers())]
            e0 = [dict(member.named_buffers(recurse=False)).get("reference_energies") for member in models]
            known = [energies for energies in e0 if energies is not None]
            self._stack = _Stack(
                of=of,
                versions=[tensor._version for tensor in of],
                parameters=parameters,
                buffers=buffers,
                force_scale=torch.stack([member.force_scale for member in models]),
                reference_energies=torch.stack(known) if known else None,
            )
        return self._stack

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._stack = None  # another device or type
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


@dataclass
class _Stack:
    """The weights of all members, and what they were stacked from."""

    of: list[Tensor]
    versions: list[int]
    parameters: dict[str, Any]
    buffers: dict[str, Any]
    force_scale: Tensor
    """(n_members,) eV/Å."""
    reference_energies: Tensor | None
    """(n_members, …) eV, by atomic number."""


def mean_of(each: Sequence[Prediction]) -> Prediction:
    """The mean of the members' predictions, and the spread of their forces."""

    def mean(values: Sequence[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        # One after the other: the sum of an atom must not depend on what stands beside it in a tensor.
        return sum(known[1:], known[0]) / len(known) if len(known) == len(values) else None

    forces = mean([p.forces for p in each])
    assert forces is not None
    variance = mean([(p.forces - forces).square().sum(dim=1) for p in each])
    assert variance is not None
    return Prediction(
        forces=forces,
        conservative=all(p.conservative for p in each),
        energy=mean([p.energy for p in each]),
        atomic_energies=mean([p.atomic_energies for p in each]),
        stress=mean([p.stress for p in each]),
        direct_forces=mean([p.direct_forces for p in each]),
        force_std=variance.detach().sqrt(),
    )


def _plus(ensemble: Prediction, addition: Prediction) -> Prediction:
    """The sum of both; the spread stays, since every member has the same addition."""

    def total(first: Tensor | None, second: Tensor | None) -> Tensor | None:
        return None if first is None or second is None else first + second

    return Prediction(
        forces=ensemble.forces + addition.forces,
        conservative=ensemble.conservative and addition.conservative,
        energy=total(ensemble.energy, addition.energy),
        atomic_energies=total(ensemble.atomic_energies, addition.atomic_energies),
        stress=total(ensemble.stress, addition.stress),
        force_std=ensemble.force_std,
    )


def _copies(graph: Graph, n: int) -> Graph:
    """The edges of so many copies side by side, their vectors a leaf that requires gradients."""
    copy = torch.arange(n, device=graph.center.device)[:, None]
    first_atom = graph.n_atoms * copy
    return replace(
        graph,
        atomic_numbers=graph.atomic_numbers.repeat(n),
        system_index=(graph.system_index + graph.n_systems * copy).flatten(),
        n_systems=n * graph.n_systems,
        center=(graph.center + first_atom).flatten(),
        neighbor=(graph.neighbor + first_atom).flatten(),
        edge_vectors=graph.edge_vectors.repeat(n, 1).requires_grad_(True),
    )


def _split(together: Prediction, n: int) -> list[Prediction]:
    """The predictions for so many copies of a batch, one by one."""

    def rows(values: Tensor | None) -> list[Tensor | None]:
        return [None] * n if values is None else list(values.chunk(n))

    forces = together.forces.chunk(n)
    energy, atomic_energies, stress = map(rows, (together.energy, together.atomic_energies, together.stress))
    return [
        Prediction(
            forces=forces[k],
            conservative=together.conservative,
            energy=energy[k],
            atomic_energies=atomic_energies[k],
            stress=stress[k],
        )
        for k in range(n)
    ]


def _require_one_make(members: Sequence[LearnedPotential]) -> None:
    """Raise ``UserError`` unless members differ in nothing but the values of their weights."""
    if len(members) < 2:
        raise UserError(
            f"an ensemble needs at least two members, not {len(members)}",
            mend="Take a single model as it is.",
        )
    first = _make(members[0])
    for number, member in enumerate(members):
        make = _make(member)
        for name in sorted({*first, *make}):
            if first.get(name) != make.get(name):
                raise UserError(
                    f"members 0 and {number} are not of one make: {name} is {first.get(name)} in one "
                    f"and {make.get(name)} in the other",
                    mend="Train them together: `kinetograph train CONFIG --ensemble 4`.",
                )


def _make(member: LearnedPotential) -> dict[str, Any]:
    """Everything but the values of weights: classes, plain settings, shapes, elements, kind of forces."""
    seen = member.domain and member.domain.elements
    make: dict[str, Any] = {"elements": seen, "elements of its tables": member.elements}
    for path, part in member.named_modules():
        make[f"{path} class"] = type(part).__name__
        for name, value in vars(part).items():
            plain = isinstance(value, bool | int | float | str | GraphRequest)
            if plain and name != "training" and not name.startswith("_"):
                make[f"{path}.{name}".lstrip(".")] = value
    return make | {name: tuple(value.shape) for name, value in member.state_dict().items()}
