"""Multiple time steps against plain velocity Verlet: what they gain, where they break, what they change.

    export OMP_NUM_THREADS=1
    python benchmarks/multiple_time_steps.py speed MODEL START
    python benchmarks/multiple_time_steps.py drift MODEL START --ratios 2,4,8 --temperature-K 300
    python benchmarks/multiple_time_steps.py observables MODEL START --ratios 4 --temperature-K 300

MODEL gives the conservative forces outside. Inside are its own direct ones, or those of other models,
``--inner direct CHEAP``. ``--timesteps-fs`` is the inner step, with which the plain run is made.
Structures of START, evenly chosen, run in one batch. Tables are Markdown; ``--json`` keeps them.

``speed`` measures processor time in turns, and the costs of single force calls. ``drift`` is at constant
energy: the heating of all degrees of freedom per ps by a straight line through the total energy, and the
scatter about it. ``observables`` runs both ways in a thermostat, from the same structures, and compares
replica by replica, so that what they share through their starts is no evidence.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

import kinetograph as kg
from kinetograph import model_file, units
from kinetograph.analysis.statistics import t_factor
from kinetograph.data.frames import read_structures
from kinetograph.dynamics import SimulationFailed, TwoForces
from kinetograph.dynamics.state import Integrator, State
from kinetograph.graph import neighbors_for
from kinetograph.potential import Potential
from kinetograph.system import System, subset

Array = NDArray[np.float64]

BIN_WIDTH_A = 0.05
LARGEST_R_A = 6.0
LAGS_PS = (1.0, 3.0)
"""Diffusion is the slope of the mean square displacement between these."""
SAMPLE_FS = 24.0
"""A multiple of every step."""


@dataclass(frozen=True)
class Way:
    """Forces and the time step that they are integrated with."""

    name: str
    potential: Potential
    timestep_fs: float


@dataclass(frozen=True)
class Table:
    """Of texts, for a person and for a file."""

    head: list[str]
    rows: list[list[str]]

    def show(self) -> None:
        for row in (self.head, ["---"] * len(self.head), *self.rows):
            print("| " + " | ".join(row) + " |", flush=True)


class Samples:
    """A reporter that keeps energies, positions and velocities of a batch in memory."""

    def __init__(self, system: System, every: int, energy: Callable[[State], torch.Tensor]) -> None:
        self.every = every
        self.n_replicas = system.n_systems
        self.whole = np.ones(self.n_replicas, dtype=bool)
        """(n_replicas,): not stopped by a guard."""
        self._energy = energy
        self._frames: list[list[Array]] = []

    def report(self, state: State) -> None:
        alive = [stream.replica for stream in state.streams]
        self.whole = np.isin(np.arange(self.n_replicas), alive)
        frame = []
        for values in (self._energy(state) + state.kinetic_energy, state.positions, state.velocities):
            own = values.numpy().reshape(len(alive), -1, *values.shape[1:])
            every = np.full((self.n_replicas, *own.shape[1:]), np.nan)
            every[alive] = own
            frame.append(every)
        self._frames.append(frame)

    def taken(self, skip: int = 0) -> list[Array]:
        """(n_frames, n_replicas, …): total energies (eV), positions (Å) and velocities."""
        energies, positions, velocities = (
            np.array(values) for values in zip(*self._frames[skip:], strict=True)
        )
        return [energies[..., 0], positions, velocities]

    def close(self) -> None:
        """Nothing to close."""


def ways(arguments: argparse.Namespace) -> tuple[Way, list[Way]]:
    """The plain way at the first time step, and all others."""
    model = model_file.load(arguments.model)
    steps = [float(text) for text in arguments.timesteps_fs.split(",")]
    ratios = [int(text) for text in arguments.ratios.split(",")]
    plain = [Way("plain", model, step) for step in steps]
    others = [
        Way(f"{name} inside, ratio {ratio}", pair(ratio), ratio * step)
        for name, pair in (_inside(arguments.model, model, text) for text in arguments.inner)
        for step in steps
        for ratio in ratios
    ]
    return plain[0], [*plain[1:], *others]


def _inside(path: Path, model: Potential, inner: str) -> tuple[str, Callable[[int], TwoForces]]:
    """What stands inside the model by name, and the two for a ratio."""
    if inner != "direct":
        cheap = model_file.load(inner)
        return Path(inner).parent.name, lambda ratio: TwoForces(cheap, model, ratio)
    if isinstance(model, kg.SumPotential):
        direct = model_file.load(path, forces="direct")
        return inner, lambda ratio: TwoForces(direct, model, ratio)
    return inner, lambda ratio: TwoForces.of_heads(model, ratio)


def structures(arguments: argparse.Namespace) -> System:
    """So many of the file, without velocities."""
    frames = read_structures(arguments.start)
    chosen = np.linspace(0, len(frames) - 1, arguments.structures).astype(int)
    return replace(System.from_ase([frames[index] for index in chosen]), velocities=None)


def thermostat(arguments: argparse.Namespace, timestep_fs: float) -> Integrator:
    kelvin, friction = arguments.temperature_K, arguments.friction_per_ps
    if friction > 0.0:
        return kg.Langevin(timestep_fs, kelvin, friction_per_ps=friction)
    return kg.Bussi(timestep_fs, kelvin)


def speed(arguments: argparse.Namespace) -> list[Table]:
    """Processor time per ps of all structures together, the ways in turns; the median of the rounds."""
    first, others = ways(arguments)
    system, every = structures(arguments), [first, *others]
    integrators = [thermostat(arguments, way.timestep_fs) for way in every]
    states = []
    for way, integrator in zip(every, integrators, strict=True):
        state = integrator.init(system, way.potential, 1, skin_A=arguments.skin_A)
        states.append(integrator.step(state, way.potential))
    spent = np.zeros((arguments.rounds, len(every)))
    span = arguments.length_ps * units.PS_IN_FS / arguments.rounds
    for turn in range(arguments.rounds):
        for index, (way, integrator) in enumerate(zip(every, integrators, strict=True)):
            n_steps = max(1, round(span / way.timestep_fs))
            began = time.process_time()
            for _ in range(n_steps):
                states[index] = integrator.step(states[index], way.potential)
            spent[turn, index] = time.process_time() - began
            spent[turn, index] /= n_steps * way.timestep_fs / units.PS_IN_FS
    per_ps = np.median(spent, axis=0)
    gains = spent[:, :1] / spent
    rows = [
        [way.name, f"{way.timestep_fs:g} fs", f"{cost:.2f}", f"{np.median(gain):.2f}", f"{gain.std():.2f}"]
        for way, cost, gain in zip(every, per_ps, gains.T, strict=True)
    ]
    costs = _calls(first.potential, others, states[0], arguments.rounds)
    return [Table(["forces", "step", "s/ps", "speed-up", "its scatter"], rows), costs]


def _calls(plain: Potential, others: list[Way], state: State, rounds: int) -> Table:
    """Milliseconds of a force call: the plain one, the one at the end of a long step, and the inner one."""
    calls: dict[str, Callable[[], object]] = {"plain": lambda: plain(state.system, state.neighbors)}
    for way in others:
        pair, name = way.potential, way.name.split(",")[0]
        if isinstance(pair, TwoForces) and name not in calls:
            calls[f"{name}: both"] = partial(pair, state.system, state.neighbors)
            calls[name] = partial(pair.inner_forces, state.system, state.neighbors)
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(4 * rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            spent[name].append(time.process_time() - began)
    medians = {name: float(np.median(times)) for name, times in spent.items()}
    rows = [[name, f"{1e3 * cost:.2f}", f"{cost / medians['plain']:.3f}"] for name, cost in medians.items()]
    return Table(["force call", "ms", "of the plain one"], rows)


def drift(arguments: argparse.Namespace) -> list[Table]:
    """Heating at constant energy, of each way and of the inner forces alone."""
    first, others = ways(arguments)
    alone = {
        way.name.split(",")[0]: way.potential.inner for way in others if isinstance(way.potential, TwoForces)
    }
    inner = [
        Way(f"{name}, alone", potential, first.timestep_fs)
        for name, potential in alone.items()
        if isinstance(potential, Potential)
    ]
    head = ["forces", "step", "heating, K/ps", "scatter, meV/atom", "mean temperature", "stopped"]
    rows = []
    for way in (first, *others, *inner):
        system = structures(arguments)
        n_steps = round(arguments.length_ps * units.PS_IN_FS / way.timestep_fs)
        energy = _potential_energy if way not in inner else partial(_energy_by, first.potential)
        samples = Samples(system, max(1, round(SAMPLE_FS / way.timestep_fs)), energy)
        row = [way.name, f"{way.timestep_fs:g} fs"]
        try:
            result = kg.simulate(
                way.potential,
                system,
                kg.VelocityVerlet(way.timestep_fs),
                n_steps=n_steps,
                initial_temperature_K=arguments.temperature_K,
                seed=1,
                skin_A=arguments.skin_A,
                reporters=[samples],
                status=False,
            )
        except SimulationFailed:
            rows.append([*row, "–", "–", "–", "all"])
            continue
        energies = samples.taken()[0][:, samples.whole]
        times = np.arange(len(energies)) * samples.every * way.timestep_fs / units.PS_IN_FS
        n_atoms = system.n_atoms // system.n_systems
        slopes, offsets = np.polyfit(times, energies, 1)
        scatter = (energies - slopes * times[:, None] - offsets).std(axis=0).mean() / n_atoms
        heating = 2.0 * slopes / ((3 * n_atoms - 3) * units.BOLTZMANN_EV_PER_K)
        rows.append(
            [
                *row,
                f"{heating.mean():+.2f} ± {_error(heating):.2f}",
                f"{1e3 * scatter:.3f}",
                f"{result.mean_temperature_K:.0f} K",
                str(len(result.failures)),
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    return [Table(head, rows)]


def observables(arguments: argparse.Namespace) -> list[Table]:
    """Kinetic energies, distances and diffusion of all ways beside those of the plain one."""
    first, others = ways(arguments)
    system = structures(arguments)
    skip = round(arguments.skip_ps * units.PS_IN_FS / SAMPLE_FS)
    runs = []
    for seed, way in enumerate((first, *others)):
        samples = Samples(system, round(SAMPLE_FS / way.timestep_fs), _potential_energy)
        began = time.process_time()
        result = kg.simulate(
            way.potential,
            system,
            thermostat(arguments, way.timestep_fs),
            n_steps=round(arguments.length_ps * units.PS_IN_FS / way.timestep_fs),
            seed=seed,
            skin_A=arguments.skin_A,
            reporters=[samples],
            status=False,
        )
        spent = time.process_time() - began
        print(f"{way.name}, {way.timestep_fs:g} fs: {spent:.0f} s", flush=True)
        for failure in result.failures:
            print(failure.sentence(system.n_systems), flush=True)
        runs.append(samples)
    whole = np.logical_and.reduce([samples.whole for samples in runs])
    system = subset(system, torch.from_numpy(np.flatnonzero(whole)))
    taken = [[values[:, whole] for values in samples.taken(skip)] for samples in runs]
    plain, *rest = (_numbers(*values, system, arguments.temperature_K) for values in taken)
    rows = []
    for name, exact in _exact(system, arguments.temperature_K).items():
        # The zero of the potential energy has no meaning.
        zero = plain[name].mean() if name.startswith("potential energy") else 0.0
        row = [name, exact, f"{plain[name].mean() - zero:.4g} ± {_error(plain[name]):.2g}"]
        for numbers in rest:
            change = numbers[name] - plain[name]
            row += [f"{numbers[name].mean() - zero:.4g} ± {_error(numbers[name]):.2g}"]
            row += [f"{change.mean() / _error(change):+.1f}"]
        rows.append(row)
    head = ["", "exact", f"{first.name}, {first.timestep_fs:g} fs"]
    for way in others:
        head += [f"{way.name}, {way.timestep_fs:g} fs", "z"]
    pairs = _distances([positions for _, positions, _ in taken], others, system)
    return [Table(head, rows), pairs]


def _energy_by(potential: Potential, state: State) -> torch.Tensor:
    """(n_systems,) eV: what other forces would call the energy."""
    energy = potential(state.system, neighbors_for(state.system, potential.request)).energy
    assert energy is not None
    return energy


def _potential_energy(state: State) -> torch.Tensor:
    assert state.prediction.energy is not None
    return state.prediction.energy


def _exact(system: System, kelvin: float) -> dict[str, str]:
    """Names of the compared numbers, with what they should be where that is known."""
    n_atoms = system.n_atoms // system.n_systems
    spread = kelvin * np.sqrt(2.0 / (3 * n_atoms - 3))
    known = {"temperature, K": f"{kelvin:g}", "its standard deviation, K": f"{spread:.2f}"}
    elements = [chemical_symbols[z] for z in np.unique(system.atomic_numbers[:n_atoms])]
    known |= {f"temperature of {element}, K": f"{kelvin:g}" for element in elements}
    known["potential energy, meV/atom"] = ""
    if bool(system.pbc.all()):
        known |= {f"diffusion of {element}, Å²/ps": "" for element in elements}
    return known


def _numbers(
    energies: Array, positions: Array, velocities: Array, system: System, kelvin: float
) -> dict[str, Array]:
    """(n_replicas,) of each compared number."""
    n_atoms = system.n_atoms // system.n_systems
    species, masses = system.atomic_numbers[:n_atoms].numpy(), system.masses[:n_atoms].numpy()
    kinetic = 0.5 * units.AMU_A2_PER_FS2_IN_EV * masses * (velocities**2).sum(axis=-1)
    total = kinetic.sum(axis=-1)
    temperature = 2.0 * total / ((3 * n_atoms - 3) * units.BOLTZMANN_EV_PER_K)
    numbers = {
        "temperature, K": temperature.mean(axis=0),
        "its standard deviation, K": np.sqrt(((temperature - kelvin) ** 2).mean(axis=0)),
        "potential energy, meV/atom": 1e3 * (energies - total).mean(axis=0) / n_atoms,
    }
    for z in np.unique(species):
        own, name = species == z, chemical_symbols[z]
        # Where the centre of mass is at rest, ⟨½ m v²⟩ = (3/2) kT (1 − m/M).
        degrees = 3.0 * (1.0 - masses[own] / masses.sum()).sum()
        numbers[f"temperature of {name}, K"] = (
            2.0 * kinetic[..., own].sum(axis=-1).mean(axis=0) / (degrees * units.BOLTZMANN_EV_PER_K)
        )
        numbers[f"diffusion of {name}, Å²/ps"] = _diffusion(positions[:, :, own])
    return numbers


def _diffusion(positions: Array) -> Array:
    """(n_replicas,) Å²/ps, from every time origin of positions (n_frames, n_replicas, n_atoms, 3)."""
    lags = [round(lag * units.PS_IN_FS / SAMPLE_FS) for lag in LAGS_PS]
    if len(positions) <= lags[1]:
        return np.full(positions.shape[1], np.nan)
    squares = [((positions[lag:] - positions[:-lag]) ** 2).sum(axis=-1).mean(axis=(0, 2)) for lag in lags]
    return np.asarray((squares[1] - squares[0]) / (6.0 * (lags[1] - lags[0]) * SAMPLE_FS / units.PS_IN_FS))


def _distances(positions: list[Array], others: list[Way], system: System) -> Table:
    """Radial distributions; of molecules, densities of the distances between their atoms (1/Å).

    For each way the mean over r of |Δg|, and of the half-width of its 95 % band.
    """
    n_atoms = system.n_atoms // system.n_systems
    species = system.atomic_numbers[:n_atoms].numpy()
    first, second = np.triu_indices(n_atoms, 1)
    cells = system.cell.numpy() if bool(system.pbc.all()) else None
    n_bins = round(LARGEST_R_A / BIN_WIDTH_A)
    if cells is not None:  # within half the smallest height there is one image
        heights = 1.0 / np.linalg.norm(np.linalg.inv(cells), axis=1)
        n_bins = min(n_bins, int(0.5 * heights.min() / BIN_WIDTH_A))
    edges = np.arange(n_bins + 1) * BIN_WIDTH_A
    per_bin = np.full((len(positions[0][0]), n_bins), BIN_WIDTH_A)
    if cells is not None:
        shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
        per_bin = shells / np.abs(np.linalg.det(cells))[:, None]
    of_ways = [_pair_distances(way, first, second, cells) for way in positions]
    kinds = np.sort(np.stack([species[first], species[second]]), axis=0)
    rows = []
    for a, b in np.unique(kinds, axis=1).T:
        own = (kinds[0] == a) & (kinds[1] == b)
        plain, *rest = (
            np.array([np.histogram(one[:, own], edges)[0] / one[:, own].size for one in replicas]) / per_bin
            for replicas in of_ways
        )
        row = [f"{chemical_symbols[a]}–{chemical_symbols[b]}", f"{plain.mean(axis=0).max():.2f}"]
        for curves in rest:
            change = curves - plain
            band = t_factor(len(change)) * change.std(axis=0, ddof=1) / np.sqrt(len(change))
            row.append(f"{np.abs(change.mean(axis=0)).mean():.4f} ({band.mean():.4f})")
        rows.append(row)
    names = [f"{way.name}, {way.timestep_fs:g} fs" for way in others]
    return Table(["g(r)", "highest peak", *names], rows)


def _pair_distances(
    positions: Array, first: NDArray[np.int64], second: NDArray[np.int64], cells: Array | None
) -> list[Array]:
    """Of each replica (n_frames, n_pairs) Å, of the nearest images where there are cells."""
    found = []
    for index in range(positions.shape[1]):
        vectors = positions[:, index, second] - positions[:, index, first]
        if cells is not None:
            fractional = vectors @ np.linalg.inv(cells[index])
            vectors = (fractional - np.rint(fractional)) @ cells[index]
        found.append(np.linalg.norm(vectors, axis=-1))
    return found


def _error(values: Array) -> float:
    """Of the mean over replicas."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "drift", "observables"])
    parser.add_argument("model", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("--inner", nargs="+", default=["direct"], help="direct, or model files")
    parser.add_argument("--structures", type=int, default=8)
    parser.add_argument("--ratios", default="2,4,8")
    parser.add_argument("--timesteps-fs", default="0.5", help="of the inner steps")
    parser.add_argument("--length-ps", type=float, default=1.0)
    parser.add_argument("--skip-ps", type=float, default=1.0, help="left out of observables")
    parser.add_argument("--temperature-K", type=float, default=300.0)
    parser.add_argument(
        "--friction-per-ps", type=float, default=0.0, help="Langevin's; velocity rescaling if 0"
    )
    parser.add_argument("--skin-A", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        tables = {"speed": speed, "drift": drift, "observables": observables}[arguments.what](arguments)
    for table in tables:
        table.show()
        print()
    if arguments.json:
        settings = {name: str(value) for name, value in vars(arguments).items()}
        content = {"settings": settings, "tables": [vars(table) for table in tables]}
        arguments.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
