"""Blocks of steps that a GPU makes without a word to the host.

One step — list check, graph, forces, integrator, thermostat — is recorded once as a CUDA graph and played
again and again: small systems wait for the launching of kernels, large ones for every answer that the host
asks for. What a step would have asked is noted on the device and read after the block: whether an atom left
the skin of its list, atoms met, or the temperature passed its limit. Then the block counts for nothing and
is made again, with a list made at its first step, and if that does not help step by step by the loop, which
is the oracle of this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from kinetograph.dynamics.bussi import Bussi
from kinetograph.dynamics.langevin import Langevin
from kinetograph.dynamics.noise import words_of
from kinetograph.dynamics.state import Integrator, State, changed
from kinetograph.dynamics.verlet import VelocityVerlet
from kinetograph.fixed_list import FixedList
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction, SteadyForm

LONGEST_BLOCK = 50
"""Steps. Lists last about as long."""
N_WARM_UPS = 3
"""Steps before one is recorded: kernels are compiled in the first."""


class Recording(Protocol):
    """A function that can be played again."""

    def play(self) -> None: ...


Recorder = Callable[[Callable[[], None], torch.device], Recording]


class CudaGraph:
    """What a function launches on a device, as one CUDA graph.

    Raises:
        RuntimeError: the function asks the device something, or does what cannot be recorded.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._device = device
        with _ONE_AT_A_TIME, torch.cuda.device(device):
            before = torch.cuda.current_stream()
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(before)
            try:
                with torch.cuda.stream(aside):
                    for _ in range(N_WARM_UPS):
                        function()
                    # A question is refused here: a recording that fails leaves torch in disorder.
                    with _no_questions():
                        function()
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
                    function()
            finally:
                torch.cuda.set_stream(before)
                before.wait_stream(aside)

    def play(self) -> None:
        with torch.cuda.device(self._device):
            self._graph.replay()


_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def _no_questions() -> Iterator[None]:
    """Within, what would wait for the device raises."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@dataclass(frozen=True)
class Block:
    """Steps that went well."""

    state: State
    n_steps: int
    temperature_K: Tensor
    """(n_systems,): its sum over the steps."""
    net_force_eV_per_A: Tensor
    """(n_systems,): the sum over the steps of its length."""


class Blocks:
    """Makes blocks of steps from states that differ in nothing but the motion.

    Args:
        form: the potential.
        limits_K: (n_systems,) temperatures that no step may pass.
        record: how a step is recorded.
    """

    def __init__(
        self,
        integrator: Integrator,
        form: SteadyForm,
        state: State,
        limits_K: Tensor,
        record: Recorder = CudaGraph,
    ) -> None:
        self.integrator, self.form, self.record = integrator, form, record
        self.like, self.limits = state, limits_K.clone()
        self.kept = words_of(state.streams, state.system.device)  # a recording reads their memory
        self.recording: Recording | None = None
        self._prepare(state.neighbors)

    def _prepare(self, neighbors: NeighborList) -> None:
        """Memory for what a step reads and writes."""
        state = self.like
        self.list = FixedList(neighbors, state.system.n_atoms, self.form.request)
        self.held: NeighborList = neighbors
        self.now = {name: value.clone() for name, value in _moving(state).items()}
        self.temperature, self.net_force = torch.zeros(2, *state.temperature.shape).to(state.temperature)
        self.recording = None

    def _state(self) -> State:
        """The state that the memory holds, its parts in that memory."""
        return _with(self.like, self.now, cast(NeighborList, self.list))

    def _step(self) -> None:
        new = self.integrator.step(self._state(), cast(Potential, self.form))
        self.list.note(~(new.temperature <= self.limits).all())  # so is what is no number
        self.temperature.add_(new.temperature)
        self.net_force.add_(torch.linalg.vector_norm(new.net_force, dim=1))
        for name, value in _moving(new).items():
            self.now[name].copy_(value)

    def suits(self, state: State) -> bool:
        """Whether the state is one of those that this was made for."""
        own, like = _moving(state), self.now
        return (
            self.form.is_current()
            and state.streams is self.like.streams
            and state.inertia is self.like.inertia
            and own.keys() == like.keys()
            and all(own[name].shape == like[name].shape for name in own)
            and state.system.cell is self.like.system.cell
        )

    def advance(self, state: State, n_steps: int) -> Block | None:
        """So many steps; ``None`` where they have to be made one by one."""
        neighbors = state.neighbors
        for again in (False, True):
            if again:
                made = (neighbors.cutoff, neighbors.skin, neighbors.bond_rule)
                neighbors = NeighborList.build(state.system, made[0], skin=made[1], bond_rule=made[2])
            if neighbors is not self.held:
                if not self.list.fill(neighbors):
                    self._prepare(neighbors)
                self.held = neighbors
            if self._play(state, n_steps):
                new = _with(self.like, {k: v.clone() for k, v in self.now.items()}, neighbors)
                new = changed(new, step=state.step + n_steps)
                return Block(new, n_steps, self.temperature.clone(), self.net_force.clone())
        return None

    def _play(self, state: State, n_steps: int) -> bool:
        """Make the steps in the memory; whether all went well."""
        if self.recording is None:
            self._load(state)
            self.recording = self.record(self._step, state.system.device)
        self._load(state)
        for _ in range(n_steps):
            self.recording.play()
        if int(self.now["step"]) != state.step + n_steps:
            raise RuntimeError("a recorded step does nothing")
        return not bool(self.list.bad)

    def _load(self, state: State) -> None:
        for name, value in _moving(state).items():
            self.now[name].copy_(value)
        self.list.clear()
        self.temperature.zero_()
        self.net_force.zero_()


def blocks_for(
    integrator: Integrator, potential: Potential, state: State, limits_K: Tensor | None
) -> Blocks | None:
    """Blocks of a run on a GPU; ``None`` where steps need the host.

    That is so for lists without a skin, rigid bonds, barostats and Nosé–Hoover chains, ramps, and potentials
    without a form for a GPU that reads nothing but edges.

    Args:
        limits_K: of the guard of temperatures; ``None``: none.
    """
    if state.system.device.type != "cuda" or state.rigid is not None or state.neighbors.skin == 0.0:
        return None
    plain = type(integrator) in (VelocityVerlet, Langevin, Bussi)
    constant = isinstance(integrator.target_temperature_K, int | float | None)
    form = potential.steady_form(state.system) if plain and constant else None
    if form is None:
        return None
    if limits_K is None:
        limits_K = torch.full_like(state.temperature, torch.inf)
    return Blocks(integrator, form, state, limits_K)


def _moving(state: State) -> dict[str, Tensor]:
    """What a step changes, by name."""
    step: int | Tensor = state.step  # of a state in a recording it is on the device
    parts: dict[str, Any] = {
        "positions": state.positions,
        "velocities": state.velocities,
        "acceleration": state.acceleration,
        "net_force": state.net_force,
        "step": step if isinstance(step, Tensor) else torch.tensor(step).to(state.system.device),
        **{f"prediction.{name}": value for name, value in vars(state.prediction).items()},
        **{f"of_systems.{name}": value for name, value in state.of_systems.items()},
        **{f"of_atoms.{name}": value for name, value in state.of_atoms.items()},
    }
    return {name: value for name, value in parts.items() if isinstance(value, Tensor)}


def _with(state: State, moving: Mapping[str, Tensor], neighbors: NeighborList) -> State:
    """The state with these in their places."""

    def of(kind: str) -> dict[str, Tensor]:
        return {name.split(".", 1)[1]: v for name, v in moving.items() if name.startswith(f"{kind}.")}

    known = {name: value for name, value in vars(state.prediction).items() if not isinstance(value, Tensor)}
    return changed(
        state,
        system=changed(state.system, positions=moving["positions"], velocities=moving["velocities"]),
        acceleration=moving["acceleration"],
        net_force=moving["net_force"],
        step=moving["step"],
        prediction=Prediction(**{**known, **of("prediction")}),
        of_systems=of("of_systems"),
        of_atoms=of("of_atoms"),
        neighbors=neighbors,
    )
