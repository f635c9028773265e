"""A model as a potential: its outputs in units, and the way that gives them fastest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from kinetograph import kernels
from kinetograph.errors import UserError
from kinetograph.fixed_list import FixedList
from kinetograph.graph import Graph, GraphRequest, build_graph
from kinetograph.kept_form import Form, KeptForm
from kinetograph.kernels.edges import ListedEdges, forces_from_slopes
from kinetograph.kernels.spline import SHORTEST_A
from kinetograph.neighbors import NeighborList
from kinetograph.nn.elements import MAX_ATOMIC_NUMBER
from kinetograph.nn.model import (
    FormOfLists,
    GpuForm,
    Head,
    Inference,
    InferenceForm,
    Model,
    Outputs,
    require_offer,
)
from kinetograph.nn.segments import sum_to
from kinetograph.potential import (
    Potential,
    Prediction,
    SteadyForm,
    from_energies,
    is_fitting,
    stress_of,
)
from kinetograph.space import SpaceOrder
from kinetograph.system import System
from kinetograph.training_domain import require_elements

Precision = Literal["float32", "bfloat16"]


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

    def __init__(self, model: Model, elements: Sequence[int] = ()) -> None:
        super().__init__()
        self.model = model
        self.elements = tuple(elements)
        """That a system may hold; empty: whoever calls sees to it."""
        self._known: tuple[Tensor, int] | None = None
        """The atomic numbers that were found good last, and the version that the tensor had then."""
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
        self.precision: Precision = "float32"
        """Of the factors in an inference form's products; see :meth:`use_precision`."""
        self._direct: Callable[[Graph], tuple[Tensor, Tensor | None]] = self._plain_direct
        self._kept = KeptForm()
        self._has_fallen_back = False
        self._ordered: tuple[NeighborList | None, SpaceOrder | None] = (None, None)
        """A list, and the order chosen for it: one attribute, since threads may share a potential."""
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

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
            require_offer(type(self.model), head)
            raise UserError(
                f"the model has {' and '.join(self.model.heads)} forces, no {head} ones",
                mend="Train it with model.forces: both to have the two.",
            )
        self.answers = head

    def use_precision(self, precision: Precision) -> None:
        """Round the factors of products from now on to this type, where an inference form has such products.

        With ``"bfloat16"`` forces in evaluation on a CPU are off by up to three parts in a thousand; sums
        and states stay in single precision. Only GAMD has such products, in its paper's form and in the
        covariant one: elsewhere the error is larger.

        Raises:
            UserError: the processor or the model has no such products, or the model was compiled.
        """
        if precision not in ("float32", "bfloat16"):
            raise UserError(f"unknown precision {precision!r}", mend="Known: float32, bfloat16.")
        if precision == "bfloat16":
            native = kernels.library()
            why = None
            if native is None or not native.has_bfloat16:
                why = f"there are no products of bfloat16 (kernels: {kernels.choice().name})"
            elif self.force_scale.device.type != "cpu" or self.dtype != torch.float32:
                why = "products of bfloat16 are for models in single precision on a CPU"
            elif self.compiled:
                why = "a compiled model has no products of bfloat16"
            elif self.model.bfloat16_form() is None:
                why = f"{type(self.model).__name__} with these options has no form with products of bfloat16"
            if why is not None:
                raise UserError(why, mend="Leave the precision at float32.")
        self.precision = precision
        self.forget_inference_form()

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        """Energies and forces of the systems.

        Raises:
            UserError: they hold an element that the model was not made for.
        """
        self.require_elements(system.atomic_numbers)
        heads = self.model.heads if self.training else self._heads
        fast = self._fast_prediction(system, neighbors, heads)
        if fast is not None:
            return fast
        if "conservative" not in heads:
            forces, energies = self._direct_outputs(system, neighbors)
            energies = None if energies is None else self._in_eV(energies, system.atomic_numbers)
            return Prediction(
                forces=forces.to(system.dtype),
                conservative=False,
                energy=None if energies is None else sum_to(system.system_index, energies, system.n_systems),
                atomic_energies=energies,
            )
        with torch.enable_grad():
            graph, outputs = self._differentiable_outputs(system, neighbors, heads)
            assert outputs.energies is not None
            direct = None if outputs.forces is None else outputs.forces * self.force_scale
            if direct is not None and not is_fitting(self):
                direct = direct.detach()
            return from_energies(
                system,
                graph,
                self._in_eV(outputs.energies, system.atomic_numbers),
                fitting=is_fitting(self),
                direct_forces=None if direct is None else direct.to(system.dtype),
                true_gradient=self.model.true_gradient,
            )

    def require_elements(self, numbers: Tensor) -> None:
        """Raise ``UserError`` if there is an atomic number that the model was not made for.

        It would read whatever row of its tables that number happens to point at. A tensor is asked once, for
        it is the same from step to step, and the frames of a training when they are read.
        """
        if not self.elements or is_fitting(self):
            return
        version = None if numbers.is_inference() else numbers._version
        known = self._known
        if known is not None and known[0] is numbers and known[1] == version:
            return
        if not bool(torch.isin(numbers, torch.tensor(self.elements, device=numbers.device)).all()):
            require_elements(self.elements, torch.unique(numbers).tolist(), "structure")
        self._known = None if version is None else (numbers, version)

    def _direct_outputs(self, system: System, neighbors: NeighborList) -> tuple[Tensor, Tensor | None]:
        """Forces in eV/Å, and energies in the model's unit where there are separate ones."""
        form = self._gpu_form(system, ("direct",))
        if form is not None:
            graph = build_graph(system, neighbors, self.model.inference_request, dtype=self.dtype)
            if form.shortest_A == 0.0 or not bool(_too_short(graph, form)):
                said = form(graph, ("direct",))
                assert said.forces is not None
                return said.forces * self.force_scale, said.energies
            self._fall_back(graph)
        return self._direct(build_graph(system, neighbors, self._needed, dtype=self.dtype))

    def _differentiable_outputs(
        self, system: System, neighbors: NeighborList, heads: tuple[Head, ...]
    ) -> tuple[Graph, Outputs]:
        """Outputs with the graph whose edge vectors they can be differentiated by."""
        form = self._gpu_form(system, heads)
        if form is not None:
            request = self.model.inference_request
            graph = build_graph(system, neighbors, request, dtype=self.dtype, differentiable=True)
            if form.shortest_A == 0.0 or not bool(_too_short(graph, form)):
                return graph, form(graph, heads)
            self._fall_back(graph)
        graph = build_graph(system, neighbors, self._needed, dtype=self.dtype, differentiable=True)
        return graph, self.model(graph, heads)

    def _gpu_form(self, system: System, heads: tuple[Head, ...]) -> GpuForm | None:
        """The model's form for a GPU, where this is one."""
        if not self._runs_on_gpu or not kernels.triton_kernels() or self._is_followed(heads):
            return None
        if system.positions.requires_grad or system.cell.requires_grad or is_fitting(self):
            return None
        return self._form_by(self.model.gpu_form)

    def steady_form(self, system: System) -> SteadyForm | None:
        """By the model's form for a GPU, where that reads nothing but edges within a cutoff."""
        heads = self._heads
        request = self.model.inference_request
        form = self._gpu_form(system, heads)
        if form is None or request != request.edges_only() or request.n_nearest is not None:
            return None
        self.require_elements(system.atomic_numbers)
        return _OfFixedLists(self, form, heads, system)

    @property
    def _heads(self) -> tuple[Head, ...]:
        """What is asked of the model in evaluation."""
        return self.model.heads if self.also_direct else (self.answers,)

    @property
    def _needed(self) -> GraphRequest:
        """What the plain form needs of a graph."""
        learns = self.training and not kernels.only_plain_forms()
        return self.model.training_request if learns else self.request

    @property
    def _runs_on_gpu(self) -> bool:
        return self.force_scale.device.type == "cuda"

    def _is_followed(self, heads: tuple[Head, ...]) -> bool:
        """Whether somebody may differentiate direct forces by the weights."""
        followed = torch.is_grad_enabled() and "conservative" not in heads
        return followed and any(p.requires_grad for p in self.parameters())

    def _fast_prediction(
        self, system: System, neighbors: NeighborList, heads: tuple[Head, ...]
    ) -> Prediction | None:
        """By the model's inference form; ``None`` where there is none, or not for this system."""
        if self._is_followed(heads):
            return None
        form = self._inference_form()
        by_geometry = system.positions.requires_grad or system.cell.requires_grad
        if form is None or by_geometry or system.device.type != "cpu":
            return None
        request = self.model.inference_request
        plain = request == request.edges_only() and request.n_nearest is None
        space = self._space(system, neighbors) if plain else None
        said, graph = None, None
        if heads == ("direct",) and isinstance(form, FormOfLists):
            said = self._of_list(form, system, neighbors, space)
        if said is None:
            graph = build_graph(system, neighbors, request, dtype=torch.float32, order=space)
            with torch.no_grad():
                said = form(graph, heads)
        if said is None:
            assert graph is not None
            self._fall_back(graph)
            return None
        prediction = self._in_units(said, graph, system)
        return prediction if space is None else _reordered(prediction, space.place)

    def _fall_back(self, graph: Graph) -> None:
        """Say once that the plain form computes a batch that is out of the fast one's tables."""
        if not self._has_fallen_back and bool((graph.distances < SHORTEST_A).any()):
            self._has_fallen_back = True
            warnings.warn(
                f"atoms are closer than {SHORTEST_A} Å, where {type(self.model).__name__}'s fast form has no "
                "tables: a batch with such a pair takes the plain form, which is slower (said once)",
                UserWarning,
                stacklevel=2,
            )

    def _of_list(
        self, form: FormOfLists, system: System, neighbors: NeighborList, space: SpaceOrder | None
    ) -> Inference | None:
        """Direct forces without a graph in between, in the order of places where there is one."""
        rule = self.request.bond_rule
        double = system.dtype == neighbors.shift.dtype == torch.float64
        if not double or (rule is not None and rule != neighbors.bond_rule):
            return None
        edges = ListedEdges(
            center=neighbors.center,
            neighbor=neighbors.neighbor,
            shift=neighbors.shift,
            types=None if rule is None else neighbors.edge_types,
            positions=system.positions,
            cells=system.cell,
            system_index=None if system.n_systems == 1 else system.system_index,
            order=None if space is None else (space.order, space.place, space.first),
        )
        numbers = system.atomic_numbers
        with torch.no_grad():
            forces = form.of_list(numbers if space is None else numbers[space.order], edges)
        return None if forces is None else Inference(forces=forces)

    def _space(self, system: System, neighbors: NeighborList) -> SpaceOrder | None:
        """An order in which large structures are computed, chosen once for a list."""
        known, order = self._ordered
        if known is not neighbors:
            order = SpaceOrder.of(system, neighbors)
            self._ordered = neighbors, order
        return order

    def _in_units(self, said: Inference, graph: Graph | None, system: System) -> Prediction:
        """What an inference form has said; of direct forces alone there may be no graph."""
        direct = None if said.forces is None else (said.forces * self.force_scale).to(system.dtype)
        energies = None
        if said.energies is not None:
            assert graph is not None
            energies = self._in_eV(said.energies, graph.atomic_numbers)
        if energies is None or said.slopes is None:
            assert direct is not None
            return Prediction(
                forces=direct,
                conservative=False,
                energy=None if energies is None else sum_to(system.system_index, energies, system.n_systems),
                atomic_energies=energies,
            )
        native = kernels.library()
        assert native is not None
        assert graph is not None
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
            conservative=self.model.true_gradient,
            energy=sum_to(system.system_index, energies, system.n_systems),
            atomic_energies=energies,
            stress=stress_of((virial * scale).to(system.dtype), system) if self.model.true_gradient else None,
            direct_forces=direct,
        )

    def _inference_form(self) -> InferenceForm | None:
        """The model's form for running on a CPU."""
        if kernels.library() is None or self._runs_on_gpu:
            return None
        make = self.model.bfloat16_form if self.precision == "bfloat16" else self.model.inference_form
        return self._form_by(make)

    def _form_by(self, make: Callable[[], Form | None]) -> Form | None:
        """A form for running, where one may stand for the model."""
        if self.training or self.compiled or torch.is_inference_mode_enabled():
            return None
        if self.dtype != torch.float32:
            return None
        if torch.is_autocast_enabled(self.force_scale.device.type):
            return None
        return self._kept.of(self.model, make)

    def forget_inference_form(self) -> None:
        """Make the form for running anew before it is used again.

        Changes of weights in place, ``load_state_dict`` and a return from training are noticed; changes
        through ``parameter.data`` in evaluation mode, and parameters that are replaced, are not.
        """
        self._kept.forget()

    def train(self, mode: bool = True) -> LearnedPotential:
        """As of any module. Fused optimisers change weights uncounted: no inference form outlives them."""
        if mode != self.training:
            self.forget_inference_form()
        super().train(mode)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": KeptForm(), "_ordered": (None, None), "_known": None}

    def _in_eV(self, energies: Tensor, atomic_numbers: Tensor) -> Tensor:
        energies = energies.double() * self.force_scale
        return energies + self.reference_energies[atomic_numbers]

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
        if self.precision != "float32":
            raise UserError(
                f"a compiled model has no products of {self.precision}", mend="Choose one of the two."
            )
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
        self.forget_inference_form()  # weights are about to move
        kept = getattr(self, "reference_energies", None)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if kept is not None:
            self.reference_energies = kept.to(self.reference_energies.device)
        return self


class _OfFixedLists:
    """A learned potential on a GPU, called with lists of fixed size."""

    def __init__(
        self, potential: LearnedPotential, form: GpuForm, heads: tuple[Head, ...], system: System
    ) -> None:
        self.potential, self.form, self.heads = potential, form, heads
        self.request = potential.model.inference_request
        periodic = bool(system.pbc.all(dim=1).any())
        self.gives_stress = "conservative" in heads and potential.model.true_gradient and periodic

    def is_current(self) -> bool:
        potential = self.potential
        return self.heads == potential._heads and potential._form_by(potential.model.gpu_form) is self.form

    def __call__(self, system: System, neighbors: FixedList) -> Prediction:
        potential, conservative = self.potential, "conservative" in self.heads
        dtype = potential.force_scale.dtype
        with torch.set_grad_enabled(conservative):
            graph = neighbors.graph(system, dtype, differentiable=conservative)
            neighbors.note(_too_short(graph, self.form))
            said = self.form(graph, self.heads)
            n_atoms = system.n_atoms
            direct = energies = None
            if said.forces is not None:
                direct = (said.forces.detach()[:n_atoms] * potential.force_scale).to(system.dtype)
            if said.energies is not None:
                energies = potential._in_eV(said.energies[:n_atoms], system.atomic_numbers)
            if conservative:
                assert energies is not None
                return from_energies(
                    system,
                    graph,
                    energies,
                    fitting=False,
                    direct_forces=direct,
                    true_gradient=potential.model.true_gradient,
                    with_stress=self.gives_stress,
                )
        assert direct is not None
        return Prediction(
            direct,
            conservative=False,
            energy=None if energies is None else sum_to(system.system_index, energies, system.n_systems),
            atomic_energies=energies,
        )


def _too_short(graph: Graph, form: GpuForm) -> Tensor:
    """() bool: whether an edge is shorter than the form can take."""
    return (graph.distances < form.shortest_A).any()


def _reordered(prediction: Prediction, place: Tensor) -> Prediction:
    """What is known of each atom, in the order outside."""
    energies, direct = prediction.atomic_energies, prediction.direct_forces
    return replace(
        prediction,
        forces=prediction.forces[place],
        atomic_energies=None if energies is None else energies[place],
        direct_forces=None if direct is None else direct[place],
    )


def _forget(potential: LearnedPotential, _: object) -> None:
    potential.forget_inference_form()
