"""``benchmark step``: a model's fast path against its naive form, and what a whole MD step is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch

from kinetograph.benchmark.cases import Case
from kinetograph.benchmark.measure import (
    MAX_ROUNDS,
    MIN_ROUNDS,
    Action,
    Clock,
    Row,
    counted,
    in_turns,
    plainly,
    relative_error,
)
from kinetograph.benchmark.naive import Naive, gnnff_three_body, naive_form
from kinetograph.benchmark.structures import water
from kinetograph.dynamics.reporters import ns_per_day
from kinetograph.dynamics.simulate import simulate
from kinetograph.dynamics.state import State
from kinetograph.dynamics.verlet import VelocityVerlet
from kinetograph.errors import UserError
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.gnnff import GNNFF, EdgeBlock
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction, SteadyForm
from kinetograph.system import System

KELVIN = 300.0
TIMESTEP_FS = 0.5
N_STEPS, N_STEPS_OF_MANY, MANY = 20, 10, 20_000
"""Steps of a run, and those of a structure of many atoms: some of those that fly straight on would meet."""
SKIN_A = 0.5
STEPS_TO_RECORD = 10
"""Before time is taken on a GPU: the first block records."""
STILL = 1e-6
"""Force scale of the models of a run: random forces may not throw the atoms about; all else is as usual."""


def step_rows(
    cases: Mapping[str, Case], n_atoms: int, clock: Clock, peaks: Mapping[str, float], seconds: float
) -> Iterator[Row]:
    """Force calls of each case, then the whole step, one row after the other.

    A force call builds its graph from a list that is given. ``naive`` is the paper's equations as they
    stand; ``plain`` the model in torch's operations; ``fast`` what every run takes, with nothing to set.

    Args:
        n_atoms: of the box of water.
        peaks: floating-point operations a second, by precision.
        seconds: for each case; at least three rounds are made whatever they take.
    """
    for name, case in cases.items():
        system = water(min(n_atoms, case.largest)).to(clock.device)
        yield from _force_calls(name, case, system, clock, peaks, 0.7 * seconds)
        if case.three_body:
            yield from _three_body(f"{name} three-body", case, system, clock, 0.3 * seconds)
        yield whole_step(name, case, system, clock, 0.3 * seconds)


def _force_calls(
    name: str, case: Case, system: System, clock: Clock, peaks: Mapping[str, float], seconds: float
) -> list[Row]:
    potential = case.potential().to(clock.device)
    neighbors = neighbors_for(system, potential.request)
    with torch.no_grad():
        exact = case.potential(torch.float64).to(clock.device)(system, neighbors).forces
        call = partial(potential, system, neighbors)
        plain = plainly(call)
        forces: dict[str, Callable[[], torch.Tensor]] = {"plain": lambda: plain().forces}
        actions: dict[str, Action] = {"plain": plain}
        naive = _naive(potential)
        if naive is not None:
            graph = build_graph(system, neighbors, potential.request, dtype=torch.float32)
            actions = {"naive": partial(naive, graph), **actions}
            forces["naive"] = lambda: naive(graph) * potential.force_scale
        actions["fast"], forces["fast"] = call, lambda: call().forces
        precisions = dict.fromkeys(actions, "float32")
        if (rounded := _with_bfloat16(case, clock)) is not None:
            rounded_call = partial(rounded, system, neighbors)
            actions["fast, bfloat16"], forces["fast, bfloat16"] = rounded_call, lambda: rounded_call().forces
            precisions["fast, bfloat16"] = "bfloat16"
        for variant in actions:
            if variant.startswith("fast"):
                actions[variant]()  # the form for running is made
        began = clock()
        first = {variant: counted(forces[variant]) for variant in actions}
        median_s = in_turns(actions, clock, seconds, first_s=clock() - began)
        errors = {variant: relative_error(found, exact) for variant, (found, _) in first.items()}
    against = next(iter(actions))
    return [
        Row(
            case=name,
            variant=variant.partition(",")[0],
            precision=precisions[variant],
            n_atoms=system.n_atoms,
            n_edges=neighbors.n_edges,
            median_s=median_s[variant],
            speedup=median_s[against] / median_s[variant],
            against=against,
            fraction_of_peak=first[variant][1] / median_s[variant] / peaks[precisions[variant]],
            relative_error=errors[variant],
        )
        for variant in actions
    ]


def _with_bfloat16(case: Case, clock: Clock) -> LearnedPotential | None:
    if not case.bfloat16 or clock.device.type != "cpu":
        return None
    potential = case.potential()
    try:
        potential.use_precision("bfloat16")
    except UserError:  # not on this processor
        return None
    return potential


def _three_body(name: str, case: Case, system: System, clock: Clock, seconds: float) -> Iterator[Row]:
    """GNNFF's sum over triplets alone, of states by chance."""
    potential, exact = case.potential().model, case.potential(torch.float64).model
    assert isinstance(potential, GNNFF)
    assert isinstance(exact, GNNFF)
    form: Any = potential.inference_form() if clock.device.type == "cpu" else None
    if form is None:
        return
    neighbors = neighbors_for(system, potential.request)
    graph = build_graph(system, neighbors, potential.request, dtype=torch.float32)
    edges = form.network.edges(
        *(graph.center, graph.neighbor, graph.edge_vectors, graph.distances, None, graph.n_atoms)
    )
    block, exact_block = (model.edge_blocks[1] for model in (potential, exact))
    assert isinstance(block, EdgeBlock)
    assert isinstance(exact_block, EdgeBlock)
    width, _, _, edge_width, _ = block.three_body.widths
    nodes, states = torch.randn(graph.n_atoms, width).tanh(), torch.randn(graph.n_edges, edge_width).tanh()
    with torch.no_grad():
        actions: dict[str, Action] = {
            "naive": lambda: gnnff_three_body(block, nodes, states, graph, None),
            "fast": lambda: form.network.three_body(edges, 1, nodes, states),
        }
        true = gnnff_three_body(exact_block, nodes.double(), states.double(), graph, None)
        errors = {variant: relative_error(action(), true) for variant, action in actions.items()}
        median_s = in_turns(actions, clock, seconds)
    for variant in actions:
        yield Row(
            case=name,
            variant=variant,
            precision="float32",
            n_atoms=system.n_atoms,
            n_edges=graph.n_edges,
            median_s=median_s[variant],
            speedup=median_s["naive"] / median_s[variant],
            against="naive",
            relative_error=errors[variant],
        )


def _naive(potential: LearnedPotential) -> Naive | None:
    try:
        return naive_form(potential.model)
    except KeyError:
        return None


class _Timed(Potential):
    """Another potential, and the time that it takes."""

    def __init__(self, inner: LearnedPotential, clock: Clock) -> None:
        super().__init__()
        self.inner = inner
        self.request = inner.request
        self.clock = clock
        self.seconds = 0.0

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        began = self.clock()
        prediction: Prediction = self.inner(system, neighbors)
        self.seconds += self.clock() - began
        return prediction

    def steady_form(self, system: System) -> SteadyForm | None:
        return self.inner.steady_form(system)  # whose time nobody takes


class _Stopwatch:
    """A reporter that takes the time from a step's end to the last one's, and counts new lists."""

    every = 1
    takes_any_step = True

    def __init__(self, timed: _Timed, first_step: int) -> None:
        self.timed, self._from = timed, first_step
        self.steps = self.lists = 0
        self.seconds = self.force_seconds = 0.0
        self._list: NeighborList | None = None

    def report(self, state: State) -> None:
        if state.step < self._from:
            return
        if self._list is None:
            self._first_step = state.step
            self._began, self._forces_began = self.timed.clock(), self.timed.seconds
        else:
            self.steps = state.step - self._first_step
            self.lists += state.neighbors is not self._list
            self.seconds = self.timed.clock() - self._began
            self.force_seconds = self.timed.seconds - self._forces_began
        self._list = state.neighbors

    def close(self) -> None: ...


def steps_of_run(n_atoms: int) -> int:
    """For so long atoms that fly straight on do not meet."""
    return N_STEPS_OF_MANY if n_atoms >= MANY else N_STEPS


def whole_step(name: str, case: Case, system: System, clock: Clock, seconds: float) -> Row:
    """Velocity Verlet with the run loop and its guards, the list kept with a skin.

    Beside the step stand a force call and a new list by themselves, as the GAMD paper's table 3 has them.

    The forces are a millionth of the model's, since those of weights drawn by chance would throw the atoms
    about: they fly straight on at 300 K, and wear the list out somewhat faster than water does.
    """
    potential = case.potential().to(clock.device)
    potential.force_scale.fill_(STILL)
    timed = _Timed(potential, clock).eval()
    request = potential.request

    def build() -> NeighborList:
        return NeighborList.build(system, request.cutoff, skin=SKIN_A, bond_rule=request.bond_rule)

    neighbors = build()

    @torch.no_grad()  # as in a run
    def call() -> None:
        potential(system, neighbors)

    call()  # code is made, memory is there
    step_s: list[float] = []
    force_s: list[float] = []
    list_s: list[float] = []
    new_list_s: list[float] = []
    call_s: list[float] = []
    began = clock()
    on_gpu = clock.device.type == "cuda"
    recorded = STEPS_TO_RECORD if on_gpu else 0
    while len(step_s) < MIN_ROUNDS or (clock() - began < seconds and len(step_s) < MAX_ROUNDS):
        watch = _Stopwatch(timed, recorded)
        simulate(
            timed,
            system,
            VelocityVerlet(TIMESTEP_FS),
            n_steps=recorded + steps_of_run(system.n_atoms),
            initial_temperature_K=KELVIN,
            skin_A=SKIN_A,
            reporters=[watch],
            status=False,
            batch_atoms=system.n_atoms,
        )
        step_s.append(watch.seconds / watch.steps)
        force_s.append(watch.force_seconds / watch.steps)
        new_list_s.append(clock.seconds(build))
        call()  # which finds the order of this list's atoms in space anew
        call_s.append(clock.seconds(call))
        list_s.append(new_list_s[-1] * watch.lists / watch.steps)
    step, force, lists = median(step_s), median(force_s), median(list_s)
    alone = {"force_call_s": median(call_s), "new_list_s": median(new_list_s)}
    shares = {
        "force_share": force / step,
        "neighbor_share": lists / step,
        "integrator_share": 1.0 - (force + lists) / step,
    }
    return Row(
        case=name,
        variant="whole step",
        precision="float32",
        n_atoms=system.n_atoms,
        n_edges=neighbors.n_edges,
        median_s=step,
        # Within a recorded step nobody looks at a clock.
        more={**({} if on_gpu else shares), **alone, "ns_per_day": ns_per_day(1.0 / step, TIMESTEP_FS)},
    )
