"""Self-diffusion of rigid TIP3P water in kinetograph, OpenMM and LAMMPS, from the same starts.

    OMP_NUM_THREADS=1 python benchmarks/water_diffusion.py FOLDER --lammps PYTHON

``PYTHON`` is the interpreter of an environment of its own that has ``lammps[mpi]``, ``mpi4py`` and NumPy;
left out, LAMMPS is left out.

64 molecules at 0.977 g/cm³. Every engine has the same Hamiltonian: Lennard-Jones between oxygens cut at 6 Å,
no switch, no long-range correction, and an Ewald sum with one splitting parameter and one cutoff in real
space; in reciprocal space kinetograph sums over waves, the others use meshes. First energy and forces of
one configuration are compared. Then each engine makes runs at constant energy from starts that OpenMM
equilibrates by Langevin dynamics, each from a lattice of its own. Their velocities are scaled to one total
energy, the mean at 300 K: at equal energy what is left of the spread between starts is the error of the
measurement.

The diffusion coefficient is a sixth of the slope of the oxygens' mean squared displacement relative to the
centre of mass, over all time origins, between two times where it is straight; its standard error comes from
the spread of the starts. It is that of a small periodic box, lower than that of the liquid.

Trajectories are kept in the folder, and a run that was interrupted goes on from them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from numpy.typing import NDArray

import kinetograph as kg
from kinetograph import units
from kinetograph.dynamics import restart_path, trajectory_paths
from kinetograph.dynamics.held_bonds import hold_bonds
from kinetograph.models.classical import LennardJones
from kinetograph.models.electrostatics import FixedCharges
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Prediction
from kinetograph.reference import openmm_systems as tip3p
from kinetograph.reference.starts import water_start
from kinetograph.sum_potential import SumPotential
from kinetograph.system import batch
from kinetograph.trajectory import Trajectory

Array = NDArray[np.float64]

N_MOLECULES = 64
BOX_A = tip3p.water_box(N_MOLECULES)
CUTOFF_A = 6.0
ACCURACY = 1e-4
"""erfc(α times the cutoff). Waves are left out that weigh less than this, which leaves 5·10⁻⁶ eV/Å."""
MESH = 32
"""Points along an edge in OpenMM and LAMMPS, 0.39 Å apart."""
KELVIN = 300.0
TIMESTEP_FS = 2.0
EVERY = 50
"""Steps between frames."""
MASSES = np.tile([tip3p.OXYGEN_MASS_AMU, *[tip3p.HYDROGEN_MASS_AMU] * 2], N_MOLECULES)
DEGREES = 6 * N_MOLECULES - 3
A_PER_FS_IN_NM_PER_PS = units.PS_IN_FS / units.NM_IN_A


@dataclass(frozen=True)
class Run:
    """What an engine made of the starts."""

    energy: Array
    """(n_starts,) eV: potential energy of each start."""
    forces: Array
    """(n_starts, n_atoms, 3) eV/Å on each start, those of rigid bonds left out."""
    positions: Array
    """(n_starts, n_frames, n_atoms, 3) Å, not wrapped; the start is the first frame."""
    potential_energy: Array
    """(n_starts, n_frames) eV."""
    kinetic_energy: Array
    """(n_starts, n_frames) eV."""


Engine = Callable[[Array, Array, int, Path], Run]
"""Starts (n_starts, n_atoms, 3) Å, their velocities Å/fs, number of steps, folder for files."""


# ------------------------------------------------------------------------------------------------ kinetograph


class OxygenLennardJones(LennardJones):
    """Lennard-Jones between oxygens only."""

    def forward(self, system: kg.System, neighbors: NeighborList) -> Prediction:
        oxygen = system.atomic_numbers == 8
        both = oxygen[neighbors.center] & oxygen[neighbors.neighbor]
        chosen = replace(
            neighbors,
            center=neighbors.center[both],
            neighbor=neighbors.neighbor[both],
            shift=neighbors.shift[both],
            bond_rule=None,
            edge_types=None,
        )
        return super().forward(system, chosen)


def charges() -> FixedCharges:
    """Point charges; pairs within a molecule do not interact."""
    return FixedCharges(
        charges={"O": tip3p.OXYGEN_CHARGE, "H": tip3p.HYDROGEN_CHARGE},
        smearing=0.0,
        exclude_bonds=2,
        cutoff=CUTOFF_A,
        accuracy=ACCURACY,
        method="ewald",  # twice as fast here as the mesh
    )


SPLIT_PER_A = 1.0 / (math.sqrt(2.0) * charges().split)
"""α: the sum in real space is that of erfc(α r)/r."""


def with_kinetograph(starts: Array, velocities: Array, n_steps: int, path: Path) -> Run:
    """All starts in one batch, guards on; a run that was interrupted goes on."""
    torch.set_num_threads(1)
    lennard_jones = OxygenLennardJones(
        epsilon=tip3p.OXYGEN_EPSILON_KJ_PER_MOL * units.KJ_PER_MOL_IN_EV,
        sigma=tip3p.OXYGEN_SIGMA_A,
        cutoff=CUTOFF_A,
        truncation="cut",
    )
    systems = []
    for positions, own in zip(starts, velocities, strict=True):
        atoms = ase.Atoms(
            tip3p.water_numbers(N_MOLECULES), positions=positions, cell=[BOX_A] * 3, pbc=True, masses=MASSES
        )
        atoms.info["bonds"] = tip3p.water_bonds(N_MOLECULES)
        atoms.set_velocities(own * units.ASE_TIME_IN_FS)
        systems.append(hold_bonds(kg.System.from_ase(atoms), "water", "tip3p"))
    kg.simulate(
        SumPotential(lennard_jones, charges()),
        batch(systems),
        kg.VelocityVerlet(TIMESTEP_FS),
        n_steps=n_steps,
        path=path,
        every=EVERY,
        resume=restart_path(path).exists(),
        status=False,
    )
    rows = []
    for own_path in trajectory_paths(path, len(starts)):
        with Trajectory.open(own_path) as trajectory:
            seen, forces = trajectory.observables, trajectory.forces(0)
            potential, kinetic = seen["potential_energy_eV"], seen["kinetic_energy_eV"]
            rows.append((potential[0], forces, trajectory.positions(), potential, kinetic))
    return Run(*(np.array(column) for column in zip(*rows, strict=True)))


# ----------------------------------------------------------------------------------------------------- OpenMM


def openmm_context(integrator: Any) -> Any:
    """The package's rigid water, with the cut and the mesh of this comparison."""
    import openmm

    system = tip3p.water_system(N_MOLECULES, BOX_A, rigid=True)
    (force,) = (force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    force.setCutoffDistance(CUTOFF_A / units.NM_IN_A)
    force.setUseSwitchingFunction(False)
    force.setPMEParameters(SPLIT_PER_A * units.NM_IN_A, MESH, MESH, MESH)
    integrator.setConstraintTolerance(1e-8)
    platform, properties = tip3p.openmm_platform("CPU", 1)
    return openmm.Context(system, integrator, platform, properties)


def openmm_energies(context: Any) -> tuple[float, float]:
    """Potential and kinetic energy in eV, the latter at the time of the positions."""
    state = context.getState(getEnergy=True)
    return (
        state.getPotentialEnergy()._value * units.KJ_PER_MOL_IN_EV,
        state.getKineticEnergy()._value * units.KJ_PER_MOL_IN_EV,
    )


def with_openmm(starts: Array, velocities: Array, n_steps: int) -> Run:
    """One start after the other; OpenMM's leapfrog keeps velocities of half a step before."""
    import openmm

    acceleration = 1.0 / (MASSES[:, None] * units.AMU_A2_PER_FS2_IN_EV)
    rows = []
    for start, own in zip(starts, velocities, strict=True):
        integrator = openmm.VerletIntegrator(TIMESTEP_FS / units.PS_IN_FS)
        context = openmm_context(integrator)
        context.setPositions(start / units.NM_IN_A)
        forces = context.getState(getForces=True).getForces(asNumpy=True)._value
        forces = forces * units.KJ_PER_MOL_NM_IN_EV_PER_A
        earlier = own - 0.5 * TIMESTEP_FS * forces * acceleration
        context.setVelocities(earlier * A_PER_FS_IN_NM_PER_PS)
        context.applyVelocityConstraints(1e-8)
        frames = [(start, *openmm_energies(context))]
        for _ in range(n_steps // EVERY):
            integrator.step(EVERY)
            positions = context.getState(getPositions=True).getPositions(asNumpy=True)._value
            frames.append((positions * units.NM_IN_A, *openmm_energies(context)))
        rows.append((frames[0][1], forces, *(np.array(column) for column in zip(*frames, strict=True))))
    return Run(*(np.array(column) for column in zip(*rows, strict=True)))


def equilibrated(n_starts: int, length_ps: float) -> tuple[Array, Array]:
    """Positions (n_starts, n_atoms, 3) Å and velocities Å/fs at 300 K, all of one total energy."""
    import openmm

    positions, velocities, energies, means = [], [], [], []
    for seed in range(n_starts):
        integrator = openmm.LangevinMiddleIntegrator(KELVIN, 2.0, TIMESTEP_FS / units.PS_IN_FS)
        integrator.setRandomNumberSeed(seed + 1)
        context = openmm_context(integrator)
        start = water_start(N_MOLECULES, BOX_A, np.random.default_rng(seed))
        context.setPositions(start / units.NM_IN_A)
        openmm.LocalEnergyMinimizer.minimize(context, 10.0, 200)
        context.setVelocitiesToTemperature(KELVIN, seed + 1)
        n_blocks = round(length_ps * units.PS_IN_FS / TIMESTEP_FS / EVERY)
        samples = []
        for block in range(n_blocks):
            integrator.step(EVERY)
            if block >= n_blocks // 3:
                samples.append(openmm_energies(context)[0])
        context.applyConstraints(1e-8)
        context.setVelocitiesToTemperature(KELVIN, seed + 1)  # free of the drift, and of bonds that open
        state = context.getState(getPositions=True, getVelocities=True)
        positions.append(state.getPositions(asNumpy=True)._value * units.NM_IN_A)
        velocities.append(state.getVelocities(asNumpy=True)._value / A_PER_FS_IN_NM_PER_PS)
        energies.append(openmm_energies(context)[0])
        means.append(np.mean(samples))
        print(f"start {seed}: potential energy {means[-1]:.3f} eV", file=sys.stderr)
    total = np.mean(means) + 0.5 * DEGREES * units.BOLTZMANN_EV_PER_K * KELVIN
    v = np.array(velocities)
    v -= (MASSES[:, None] * v).sum(axis=1, keepdims=True) / MASSES.sum()
    kinetic = 0.5 * units.AMU_A2_PER_FS2_IN_EV * (MASSES[:, None] * v**2).sum(axis=(1, 2))
    v *= np.sqrt((total - np.array(energies)) / kinetic)[:, None, None]
    return np.array(positions), v


# ----------------------------------------------------------------------------------------------------- LAMMPS


def with_lammps(starts: Array, velocities: Array, n_steps: int, folder: Path, python: str) -> Run:
    """A process of its own, told by a file and answering by one."""
    given, found = folder / "lammps-given.npz", folder / "lammps-found.npz"
    settings = {
        "box_A": BOX_A,
        "cutoff_A": CUTOFF_A,
        "split_per_A": SPLIT_PER_A,
        "mesh": MESH,
        "epsilon_eV": tip3p.OXYGEN_EPSILON_KJ_PER_MOL * units.KJ_PER_MOL_IN_EV,
        "sigma_A": tip3p.OXYGEN_SIGMA_A,
        "bond_A": tip3p.BOND_LENGTH_A,
        "angle_degrees": math.degrees(tip3p.ANGLE_RAD),
        "charges": [tip3p.OXYGEN_CHARGE, tip3p.HYDROGEN_CHARGE],
        "masses": [tip3p.OXYGEN_MASS_AMU, tip3p.HYDROGEN_MASS_AMU],
        "timestep_fs": TIMESTEP_FS,
        "n_steps": n_steps,
        "every": EVERY,
    }
    np.savez(given, positions=starts, velocities=velocities, settings=json.dumps(settings))
    worker = Path(__file__).parent / "water_diffusion_lammps.py"
    subprocess.run([python, str(worker), str(given), str(found)], check=True)
    return loaded(found)


# --------------------------------------------------------------------------------------------------- analysis


def compare(starts: Array, velocities: Array, engines: dict[str, Engine]) -> None:
    """Print energy and forces of the first start beside those of kinetograph."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: engine(starts[:1], velocities[:1], 0, Path(folder)) for name, engine in engines.items()}
    reference = runs["kinetograph"]
    size = float(np.sqrt((reference.forces**2).mean()))
    print(f"one configuration: root mean square force {size:.4f} eV/Å")
    for name, run in runs.items():
        apart = run.forces - reference.forces
        print(
            f"{name:12s} energy {run.energy[0]:.7f} eV, forces differ by {np.sqrt((apart**2).mean()):.1e} "
            f"(root mean square) and {np.abs(apart).max():.1e} eV/Å (largest)"
        )


def diffusion(run: Run, skip_ps: float, fit_ps: tuple[float, float]) -> Array:
    """(n_starts,) 10⁻⁹ m²/s."""
    spacing_ps = EVERY * TIMESTEP_FS / units.PS_IN_FS
    frames = run.positions[:, round(skip_ps / spacing_ps) :]
    centre = np.einsum("sfax,a->sfx", frames, MASSES / MASSES.sum())
    oxygens = frames[:, :, ::3] - centre[:, :, None]
    lags = np.arange(round(fit_ps[0] / spacing_ps), round(fit_ps[1] / spacing_ps) + 1)
    msd = np.array(
        [((oxygens[:, lag:] - oxygens[:, :-lag]) ** 2).sum(axis=3).mean(axis=(1, 2)) for lag in lags]
    )
    slopes = np.polyfit(lags * spacing_ps, msd, 1)[0]
    return np.asarray(slopes / 6.0 * 10.0)  # Å²/ps to 10⁻⁹ m²/s


def report(runs: dict[str, Run], skip_ps: float, fit_ps: tuple[float, float]) -> dict[str, Any]:
    """Print and return D, temperature and drift of the total energy of each engine."""

    def mean_and_error(values: Array) -> tuple[float, float]:
        return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))

    kelvin_per_eV = 2.0 / (DEGREES * units.BOLTZMANN_EV_PER_K)
    table: dict[str, Any] = {}
    for name, run in runs.items():
        skip = round(skip_ps * units.PS_IN_FS / TIMESTEP_FS / EVERY)
        each = diffusion(run, skip_ps, fit_ps)
        d, error = mean_and_error(each)
        kelvin, kelvin_error = mean_and_error(run.kinetic_energy[:, skip:].mean(axis=1) * kelvin_per_eV)
        total = (run.potential_energy + run.kinetic_energy) * kelvin_per_eV
        drift, drift_error = mean_and_error(total[:, -skip:].mean(axis=1) - total[:, :skip].mean(axis=1))
        table[name] = {"D": d, "error": error, "each": each.tolist(), "temperature_K": kelvin}
        print(
            f"{name:12s} D = {d:.3f} ± {error:.3f} 10⁻⁹ m²/s, {kelvin:.1f} ± {kelvin_error:.1f} K, "
            f"total energy {drift:+.2f} ± {drift_error:.2f} K from the first {skip_ps:g} ps to the last"
        )
    return table


def loaded(path: Path) -> Run:
    """A run from a file."""
    with np.load(path) as found:
        return Run(**{name: found[name] for name in found.files})


def main() -> None:
    """Equilibrate, compare, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lammps", help="interpreter of an environment with LAMMPS")
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--equilibration-ps", type=float, default=40.0)
    parser.add_argument("--length-ps", type=float, default=22.0)
    parser.add_argument("--skip-ps", type=float, default=2.0, help="at the beginning of each run")
    parser.add_argument("--fit-ps", type=float, nargs=2, default=(2.0, 5.0), help="times of the fit")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    begin = folder / "starts.npz"
    if not begin.exists():
        positions, velocities = equilibrated(arguments.starts, arguments.equilibration_ps)
        np.savez(begin, positions=positions, velocities=velocities)
    with np.load(begin) as found:
        positions, velocities = found["positions"], found["velocities"]
    n_steps = round(arguments.length_ps * units.PS_IN_FS / TIMESTEP_FS)

    engines: dict[str, Engine] = {"OpenMM": lambda r, v, n, _: with_openmm(r, v, n)}
    if arguments.lammps:
        engines["LAMMPS"] = lambda r, v, n, folder: with_lammps(r, v, n, folder, arguments.lammps)
    engines["kinetograph"] = lambda r, v, n, folder: with_kinetograph(r, v, n, folder / "kinetograph.h5")
    compare(positions, velocities, engines)
    runs = {}
    for name, engine in engines.items():
        path = folder / f"{name.lower()}.npz"
        if not path.exists():
            began = time.perf_counter()
            np.savez(path, **vars(engine(positions, velocities, n_steps, folder)))
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        runs[name] = loaded(path)
    table = report(runs, arguments.skip_ps, tuple(arguments.fit_ps))
    (folder / "diffusion.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
