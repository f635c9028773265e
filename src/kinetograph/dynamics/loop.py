"""The run loop: steps, reporters, guards and checkpoints, for one structure or a batch of replicas."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import ase.io
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from torch import Tensor

from kinetograph.dynamics.blocks import LONGEST_BLOCK, Block, Blocks, blocks_for
from kinetograph.dynamics.checkpoint import RunDescription
from kinetograph.dynamics.files import Outputs, failed_path
from kinetograph.dynamics.guards import Guard, TemperatureGuard
from kinetograph.dynamics.noise import Streams
from kinetograph.dynamics.replicas import integrator_of, keep_replicas
from kinetograph.dynamics.reporters import Reporter
from kinetograph.dynamics.state import Integrator, State
from kinetograph.errors import RunFailed, UserError
from kinetograph.potential import Potential

SECONDS_PER_CHECKPOINT = 30.0
N_LAST_GOOD_FRAMES = 5
FEWEST_ONE_BY_ONE = 10
"""Steps made one by one after a block that failed."""


class SimulationFailed(RunFailed):
    """The run went wrong: a guard stopped every structure of it.

    The trajectories, the last checkpoint and files with the last good frames are kept.
    """


@dataclass(frozen=True)
class Failure:
    """A structure that a guard stopped."""

    replica: int
    """Its place among all that the run began with."""
    step: int
    """The step that was not taken any more."""
    reason: str
    last_frames: Path | None = None
    """A file with the frames before it; ``None`` where the run writes no files."""

    def sentence(self, n_replicas: int) -> str:
        """For a person."""
        who = "the run" if n_replicas == 1 else f"replica {self.replica}"
        text = f"{who} went wrong at step {self.step}: {self.reason}."
        if self.last_frames is not None:
            text += f" Its trajectory is kept; the last good frames are in {self.last_frames}."
        return text


class Averages:
    """Sums over the steps made in this call, by replica."""

    def __init__(self, n_replicas: int) -> None:
        self.temperature_K, self.net_force_eV_per_A, self.n_steps = torch.zeros(
            3, n_replicas, dtype=torch.float64
        )
        self._streams: Streams = ()
        self._rows = torch.zeros(0, dtype=torch.int64)

    def add(self, state: State) -> None:
        """Count one step."""
        if state.streams is not self._streams:
            self._streams, self._rows = state.streams, torch.tensor(_replicas(state))
        self.temperature_K.index_add_(0, self._rows, state.temperature.cpu())
        net = torch.linalg.vector_norm(state.net_force, dim=1).cpu()
        self.net_force_eV_per_A.index_add_(0, self._rows, net)
        self.n_steps.index_add_(0, self._rows, torch.ones_like(net))

    def add_block(self, block: Block) -> None:
        """Count the steps of a block."""
        rows = torch.tensor(_replicas(block.state))
        self.temperature_K.index_add_(0, rows, block.temperature_K.cpu())
        self.net_force_eV_per_A.index_add_(0, rows, block.net_force_eV_per_A.cpu())
        self.n_steps.index_add_(0, rows, torch.full((len(rows),), float(block.n_steps), dtype=torch.float64))


@dataclass
class Loop:
    """The run of one batch."""

    potential: Potential
    integrator: Integrator
    """Of the replicas that still run."""
    description: RunDescription
    guards: Sequence[Guard]
    outputs: Outputs | None
    n_steps: int
    checkpoint_every: int | None
    n_replicas: int
    """Of all batches."""
    failures: list[Failure] = field(default_factory=list)
    """Of this batch, those before a restart included."""
    announce: Callable[[str], None] | None = None
    """Tells a person at once what happened."""
    wall_s: float = 0.0
    _last_checkpoint: float = field(default_factory=time.monotonic)
    _last_good: deque[State] = field(default_factory=lambda: deque(maxlen=N_LAST_GOOD_FRAMES))
    _blocks: Blocks | None = None
    _longest_block: int = LONGEST_BLOCK
    """Of late; halved where a block failed, a step longer after each that went well."""
    _one_by_one_until: int = 0
    """Step up to which no block is tried: one failed, or there are none for these structures."""

    def run(self, state: State, reporters: Sequence[Reporter], averages: Averages, *, resumed: bool) -> State:
        """From a state to the last step; what is left of the batch.

        Raises:
            SimulationFailed: no structure is left.
            KeyboardInterrupt, SystemExit: a signal stopped the run after a whole step.
        """
        whole_integrator = self.integrator
        self.integrator = integrator_of(whole_integrator, _replicas(state))
        try:
            if not resumed:
                for reporter in reporters:
                    reporter.report(state)
                self._checkpoint(state)
            with _stop_requests() as stop:
                started = time.perf_counter()
                while state.step < self.n_steps and stop.signal is None:
                    self._last_good.append(state)
                    block = self._block(state, reporters)
                    if block is not None:
                        state = block.state
                        averages.add_block(block)
                    else:
                        state = self._guarded_step(state, whole_integrator)
                        averages.add(state)
                    for reporter in reporters:
                        if state.step % reporter.every == 0:
                            reporter.report(state)
                    self._save_when_due(state)
                    self.wall_s = time.perf_counter() - started
                self._checkpoint(state)
                if self.outputs is not None:
                    self.outputs.finish()
        except BaseException:
            if self.outputs is not None:
                self.outputs.abandon()
            raise
        if stop.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        if stop.signal is not None:
            raise KeyboardInterrupt
        return state

    def _block(self, state: State, reporters: Sequence[Reporter]) -> Block | None:
        """Steps until somebody looks, all at once where a GPU can do that and they went well."""
        if state.step < self._one_by_one_until:
            return None
        n = min(self._unwatched(state.step, reporters), self._longest_block)
        if n < 2:
            return None
        try:
            if self._blocks is None or not self._blocks.suits(state):
                self._blocks = None  # its memory is free before there is another
                limits = self._temperature_limits(state)
                self._blocks = blocks_for(self.integrator, self.potential, state, limits)
            block = None if self._blocks is None else self._blocks.advance(state, n)
        except UserError:
            block = None  # the step by itself will say it, and of which structure
        except Exception as error:  # what a device refuses to record is no reason not to run
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"steps are made one by one, none is recorded: {first_line}", stacklevel=2)
            self._blocks = block = None
        if self._blocks is None:
            self._one_by_one_until = self.n_steps
        elif block is None or self._wrong(block.state):
            self._longest_block = max(2, n // 2)
            self._one_by_one_until = state.step + max(n, FEWEST_ONE_BY_ONE)
            return None
        elif n == self._longest_block:
            self._longest_block = min(LONGEST_BLOCK, n + 1)
        return block

    def _unwatched(self, step: int, reporters: Sequence[Reporter]) -> int:
        """Steps to the next that a reporter, a guard or a checkpoint waits for."""
        every = [reporter.every for reporter in reporters if not getattr(reporter, "takes_any_step", False)]
        every += [guard.every for guard in self.guards if not isinstance(guard, TemperatureGuard)]
        if self.checkpoint_every is not None:
            every.append(self.checkpoint_every)
        return min([LONGEST_BLOCK, self.n_steps - step, *(k - step % k for k in every)])

    def _temperature_limits(self, state: State) -> Tensor | None:
        """(n_systems,) K: the lowest that the guards of temperatures set."""
        limits = [guard.limits_K(state) for guard in self.guards if isinstance(guard, TemperatureGuard)]
        return torch.stack(limits).amin(dim=0) if limits else None

    def _wrong(self, state: State) -> dict[int, str]:
        """What guards say of a state, those whose turn it is."""
        wrong: dict[int, str] = {}
        for guard in self.guards:
            if state.step % guard.every == 0:
                wrong = {**guard.check(state, self.integrator), **wrong}
        return wrong

    def _guarded_step(self, state: State, whole_integrator: Integrator) -> State:
        """One step of all that are well; those that are not leave, and the others make it without them."""
        while True:
            try:
                new = self.integrator.step(state, self.potential)
            except UserError as error:
                wrong = self._refused(state, error)
            else:
                wrong = self._wrong(new)
                if not wrong:
                    return new
            for index, reason in wrong.items():
                self._note_failure(state, index, reason)
            keep = [index for index in range(state.system.n_systems) if index not in wrong]
            if not keep:
                if self.outputs is not None:
                    self.outputs.flush()
                sentences = [failure.sentence(self.n_replicas) for failure in self.failures]
                raise SimulationFailed(" ".join(sentences))
            state = keep_replicas(state, keep)
            self.integrator = integrator_of(whole_integrator, _replicas(state))

    def _refused(self, state: State, error: UserError) -> dict[int, str]:
        """Which structures the step is refused for: fused atoms, or atoms that lost their neighbours."""
        n = state.system.n_systems
        if n == 1:
            return {0: error.what}
        reasons = {}
        for index in range(n):
            alone = keep_replicas(state, [index])
            try:
                integrator_of(self.integrator, [index]).step(alone, self.potential)
            except UserError as own:
                reasons[index] = own.what
        if not reasons:
            raise error
        return reasons

    def _note_failure(self, state: State, index: int, reason: str) -> None:
        """Remember it, after the last good frames are written."""
        replica = state.streams[index].replica
        path = None
        if self.outputs is not None:
            writer = self.outputs.writers[replica]
            writer.flush()
            path = failed_path(writer.path)
            _write_frames(path, self._last_good, replica, self.integrator.timestep_fs)
        self.failures.append(Failure(replica, state.step + 1, reason, path))
        if self.announce is not None and self.n_replicas > 1:
            self.announce(self.failures[-1].sentence(self.n_replicas))

    def _save_when_due(self, state: State) -> None:
        """A checkpoint where it is time for one; an error of the one before as soon as it is known."""
        if self.outputs is not None:
            self.outputs.look()
        due = time.monotonic() - self._last_checkpoint > SECONDS_PER_CHECKPOINT
        if self.checkpoint_every is not None:
            due = state.step % self.checkpoint_every == 0
        if due:
            self._checkpoint(state)

    def _checkpoint(self, state: State) -> None:
        if self.outputs is not None:
            failures = [(f.replica, f.step, f.reason) for f in self.failures]
            self.outputs.save(state, self.description, failures)
        self._last_checkpoint = time.monotonic()


def close_all(reporters: Sequence[Reporter]) -> None:
    """Close every reporter, then raise the first error if there was one."""
    errors: list[Exception] = []
    for reporter in reporters:
        try:
            reporter.close()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _replicas(state: State) -> list[int]:
    return [stream.replica for stream in state.streams]


@dataclass
class _StopRequest:
    signal: int | None = None


@contextmanager
def _stop_requests() -> Iterator[_StopRequest]:
    """Let the first SIGINT or SIGTERM stop the loop after a whole step; a second one acts at once."""
    request = _StopRequest()
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: signals go elsewhere
        pass
    try:
        yield request
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)


def _write_frames(path: Path, states: Sequence[State], replica: int, timestep_fs: float) -> None:
    """The frames of one replica as extended XYZ, energies and forces with them."""
    frames = []
    for state in states:
        index = _replicas(state).index(replica)
        own = state.system.system_index == index
        atoms = replace(state.system, fixed=None).to_ase()[index]
        energy = state.prediction.energy
        results: dict[str, Any] = {"forces": state.prediction.forces[own].cpu().numpy()}
        if energy is not None:
            results["energy"] = float(energy[index])
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info = {"step": state.step, "time_fs": state.step * timestep_fs}
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")


def mean(total: Tensor, averages: Averages) -> float:
    """Over all replicas and steps; NaN where there were none."""
    n = float(averages.n_steps.sum())
    return float(total.sum()) / n if n else math.nan
