"""What looks on while a run goes: trajectory, live status, and a watch on the model's training domain."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics.pressure import pressure_bar
from kinetograph.dynamics.state import Integrator, State
from kinetograph.dynamics.status_line import StatusLine, time_left
from kinetograph.graph import build_graph
from kinetograph.potential import Potential
from kinetograph.trajectory import Frame, TrajectoryWriter

SECONDS_PER_DAY = 86400.0
FS_PER_NS = 1e6


class Reporter(Protocol):
    """Called with every state whose step is a multiple of ``every``; reads, and changes nothing."""

    @property
    def every(self) -> int: ...

    def report(self, state: State) -> None: ...

    def close(self) -> None: ...


class Running(Protocol):
    """What knows the integrator of the structures that are left."""

    @property
    def integrator(self) -> Integrator: ...


class TrajectoryReporter:
    """Appends frames to a file for each structure.

    Args:
        writers: by replica.
        run: whose integrator it is.
    """

    def __init__(self, writers: Mapping[int, TrajectoryWriter], run: Running, *, every: int) -> None:
        self.every = every
        self.writers = writers
        self._run = run

    def report(self, state: State) -> None:
        integrator = self._run.integrator
        conserved = integrator.conserved_quantity(state)
        counts = state.system.atoms_per_system.tolist()

        def parts(values: Tensor) -> Sequence[Any]:
            return [part.numpy() for part in torch.split(values.cpu(), counts)]

        stress = state.prediction.stress
        pressures = None if stress is None else pressure_bar(state)
        periodic = state.system.pbc.all(dim=1).tolist()
        positions, velocities = parts(state.positions), parts(state.velocities)
        forces = parts(state.prediction.forces)

        def number(values: Tensor | None, index: int) -> float | None:
            return None if values is None else float(values[index])

        for index, stream in enumerate(state.streams):
            self.writers[stream.replica].append(
                Frame(
                    step=state.step,
                    time_fs=state.step * integrator.timestep_fs,
                    positions=positions[index],
                    cell=state.system.cell[index].cpu().numpy(),
                    velocities=velocities[index],
                    forces=forces[index],
                    potential_energy=number(state.prediction.energy, index),
                    kinetic_energy=number(state.kinetic_energy, index),
                    temperature=number(state.temperature, index),
                    stress=stress[index].cpu().numpy() if stress is not None and periodic[index] else None,
                    pressure=number(pressures, index) if periodic[index] else None,
                    conserved=number(conserved, index),
                )
            )

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class DomainReporter:
    """Warns once for each way in which a run leaves what the model was trained on, and counts them all."""

    def __init__(self, potential: Potential, announce: Callable[[str], None], *, every: int) -> None:
        self.every = every
        self.warnings: list[str] = []
        """The first sentence of each kind."""
        self.counts: Counter[str] = Counter()
        """How many reports had each kind, by its first sentence."""
        self.n_reports = 0
        self._potential = potential
        self._announce = announce
        self._first_of_kind: dict[str, str] = {}

    def report(self, state: State) -> None:
        domain = self._potential.domain
        if domain is None:
            return
        self.n_reports += 1
        graph = build_graph(state.system, state.neighbors, self._potential.request)
        for sentence in domain.outside(state.system, graph):
            kind = re.sub(r"\d[\d.eE+-]*", "#", sentence)
            if kind not in self._first_of_kind:
                self._first_of_kind[kind] = sentence
                self.warnings.append(sentence)
                self._announce(f"step {state.step}: {sentence}")
            self.counts[self._first_of_kind[kind]] += 1

    def close(self) -> None:
        for sentence, count in self.counts.items():
            self._announce(f"{count} of {self.n_reports} checked steps: {sentence}")


class StatusReporter:
    """Live status on stderr: a line that changes on a terminal, a line now and then elsewhere."""

    every = 1
    takes_any_step = True
    """Whether steps may be left out: it looks at a clock."""

    def __init__(
        self,
        integrator: Integrator,
        n_steps: int,
        *,
        console: Console | None = None,
        seconds: float = 0.5,
        seconds_between_lines: float = 15.0,
    ) -> None:
        self._line = StatusLine(
            n_steps, console=console, seconds=seconds, seconds_between_lines=seconds_between_lines
        )
        self._integrator = integrator
        self._n_steps = n_steps
        self.begin_batch(n_replicas=1)

    def begin_batch(self, *, n_replicas: int, name: str = "", later_atom_steps: int = 0) -> None:
        """Say what the next states are of.

        Args:
            n_replicas: with how many the batch began.
            name: such as "batch 2 of 3".
            later_atom_steps: steps times atoms of the batches that follow.
        """
        self._n_replicas = n_replicas
        self._name = name
        self._later_atom_steps = later_atom_steps
        self._first: tuple[int, float] | None = None

    def report(self, state: State) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (state.step, now)
        if self._line.is_due(always=state.step >= self._n_steps):
            self._show(state, now)

    def announce(self, sentence: str) -> None:
        """Print a sentence of its own."""
        self._line.announce(sentence)

    def close(self) -> None:
        self._line.close()

    def _show(self, state: State, now: float) -> None:
        assert self._first is not None
        kelvin = float(state.temperature.mean())
        line = f"{self._name}  " if self._name else ""
        line += f"step {state.step}/{self._n_steps}"
        if self._n_replicas > 1:
            line += f"  {len(state.streams)} of {self._n_replicas} replicas"
        line += f"  {state.step * self._integrator.timestep_fs / units.PS_IN_FS:.3f} ps  {kelvin:.1f} K"
        if state.prediction.energy is not None:
            line += f"  {float((state.prediction.energy + state.kinetic_energy).mean()):.4f} eV"
        n_done, elapsed = state.step - self._first[0], now - self._first[1]
        if n_done > 0 and elapsed > 0:
            rate = n_done / elapsed
            total = rate * len(state.streams)
            line += f"  {ns_per_day(total, self._integrator.timestep_fs):.3g} ns/day"
            later = self._later_atom_steps / state.system.n_atoms
            line += "  " + time_left((self._n_steps - state.step + later) / rate)
        self._line.show(line, state.step, self._n_steps)


def ns_per_day(steps_per_second: float, timestep_fs: float) -> float:
    """Simulated time per day of wall time."""
    return steps_per_second * SECONDS_PER_DAY * timestep_fs / FS_PER_NS
