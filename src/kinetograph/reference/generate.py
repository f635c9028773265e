"""``generate_argon`` and ``generate_water``: labelled data from the two materials that come with the package.

What a generation writes is listed in ``kinetograph.reference.record``.
"""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np

from kinetograph.errors import UserError
from kinetograph.models.classical import ARGON_EPSILON_K, ARGON_SIGMA_A
from kinetograph.reference import openmm_systems as systems
from kinetograph.reference.folder import GeneratedData, labelled_atoms
from kinetograph.reference.plan import Plan
from kinetograph.reference.record import Progress, record
from kinetograph.reference.sampling import Array, Material, Sampler
from kinetograph.reference.starts import argon_start, tiled_water, tiles_per_side, water_start

__all__ = ["GeneratedData", "equilibrated_water", "generate_argon", "generate_water"]

TILE_EQUILIBRATION_PS = 20.0


def generate_argon(
    folder: Path | str,
    *,
    n_atoms: int = 258,
    temperature_K: float = 100.0,
    box_A: float | None = None,
    density: float | None = None,
    n_trajectories: int = 8,
    n_frames: int = 100,
    spacing_fs: float = 100.0,
    timestep_fs: float = 2.0,
    equilibration_ps: float = 20.0,
    reference_ps: float = 10.0,
    reference_spacing_fs: float = 20.0,
    cold_start_ps: float = 5.0,
    seed: int = 0,
    platform: str = "CPU",
    threads: int = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> GeneratedData:
    """Lennard-Jones argon, as in GAMD (Li et al. 2022): 258 atoms in 27.27 Å, 100 K, Nosé-Hoover chains.

    The autocorrelation of the forces falls to 0.42 in 0.1 ps and crosses zero at 0.16 ps, so the default
    spacing, the paper's 50 steps of 2 fs, gives frames whose forces are nearly independent. The paper's
    density lies between gas and liquid: a droplet forms within some 10 ps, which the default
    equilibration covers, and then grows slowly for 100 ps and more, which it does not.

    Args:
        box_A: edge of the cube, Å. Without it and ``density``: as dense as 258 atoms in 27.27 Å.
        density: reduced density ρ* = N σ³/V, instead of the box.
        spacing_fs: between labelled frames.
        equilibration_ps: of Langevin dynamics, for each trajectory.
        reference_ps: least length of the trajectories in ``reference_<k>.h5``; the labelled frames of
            the held-out trajectories are among their frames, so they are never shorter than those.
        reference_spacing_fs: between frames of those and of the cold start; divides ``spacing_fs``.
        seed: of everything; one seed, platform and number of threads give the same data.
        progress: called with (steps done, steps in all, what is being done).

    Raises:
        UserError: the folder holds such files already, the box is too small, settings do not fit, or
            OpenMM is not installed.
    """
    edge = _argon_edge(n_atoms, box_A, density)
    plan = Plan(
        n_trajectories=n_trajectories,
        n_frames=n_frames,
        spacing_fs=spacing_fs,
        timestep_fs=timestep_fs,
        equilibration_ps=equilibration_ps,
        reference_ps=reference_ps,
        reference_spacing_fs=reference_spacing_fs,
        cold_start_ps=cold_start_ps,
        temperature_K=temperature_K,
        seed=seed,
        platform=platform,
        threads=threads,
    )
    material = Material(
        name="argon",
        system=systems.argon_system(n_atoms, edge),
        box_A=edge,
        atomic_numbers=systems.argon_numbers(n_atoms),
        bonds=None,
        start=lambda rng: argon_start(n_atoms, edge, rng),
        collisions_per_ps=25.0,
        equilibration_timestep_fs=10.0,
    )
    model = {
        "name": "Lennard-Jones argon, truncated and shifted",
        "epsilon_over_k_K": ARGON_EPSILON_K,
        "sigma_A": ARGON_SIGMA_A,
        "cutoff_A": systems.ARGON_CUTOFF_A,
        "reduced_density": n_atoms * ARGON_SIGMA_A**3 / edge**3,
    }
    return record(Path(folder), material, model, plan, progress, overwrite)


def _argon_edge(n_atoms: int, box_A: float | None, density: float | None) -> float:
    if box_A is not None and density is not None:
        raise UserError("both the box and the density were given", where="box_A, density", mend="Give one.")
    for name, value in (("n_atoms", n_atoms), ("box_A", box_A), ("density", density)):
        if value is not None and not value > 0:
            raise UserError(f"{name} must be greater than zero", where=name)
    if box_A is not None:
        return box_A
    return systems.argon_box(n_atoms, density or systems.ARGON_REDUCED_DENSITY)


def generate_water(
    folder: Path | str,
    *,
    n_molecules: int = 64,
    rigid: bool = False,
    temperature_K: float = 300.0,
    n_trajectories: int = 10,
    n_frames: int = 100,
    spacing_fs: float = 200.0,
    timestep_fs: float | None = None,
    equilibration_ps: float | None = None,
    reference_ps: float = 10.0,
    reference_spacing_fs: float = 20.0,
    cold_start_ps: float = 10.0,
    seed: int = 0,
    platform: str = "CPU",
    threads: int = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> GeneratedData:
    """TIP3P water with particle mesh Ewald, flexible or rigid, Nosé-Hoover chains with 1/ps.

    Every box has the density that flexible TIP3P has at 1 bar and 300 K with this cutoff,
    ``openmm_systems.WATER_DENSITY_G_PER_CM3``. Atoms are in the order O, H, H; molecules are whole and
    positions are not wrapped. The forces of rigid water leave the constraint forces out.

    In flexible water the bonds keep the forces correlated: their autocorrelation swings, −0.7 at 50 fs,
    0.4 at 100 fs, −0.15 at 200 fs, and is gone in noise after 0.3 ps; hence the default spacing. Vibrations
    exchange energy slowly, so that the temperature of 64 molecules stays above or below 300 K for 1 to 2 ps
    at a time: many trajectories say more than a long one.

    Args:
        n_molecules: 64 or more. From 1000 on the box is tiled with an equilibrated small one.
        timestep_fs: 0.5 fs flexible and 2 fs rigid where not given.
        equilibration_ps: of Langevin dynamics, for each trajectory; where not given 20 ps, and 5 ps for
            tiled boxes, whose tile has had 20 ps before.
        cold_start_ps: the thermostat warms water from rest to 240 K in 5 ps.
        spacing_fs, reference_ps, reference_spacing_fs, seed, progress: as in ``generate_argon``.

    Raises:
        UserError: the folder holds such files already, the box is too small, settings do not fit, or
            OpenMM is not installed.
    """
    if equilibration_ps is None:
        equilibration_ps = 20.0 if tiles_per_side(n_molecules) == 1 else 5.0
    plan = Plan(
        n_trajectories=n_trajectories,
        n_frames=n_frames,
        spacing_fs=spacing_fs,
        timestep_fs=timestep_fs if timestep_fs is not None else (2.0 if rigid else 0.5),
        equilibration_ps=equilibration_ps,
        reference_ps=reference_ps,
        reference_spacing_fs=reference_spacing_fs,
        cold_start_ps=cold_start_ps,
        temperature_K=temperature_K,
        seed=seed,
        platform=platform,
        threads=threads,
    )
    material = _water_material(n_molecules, rigid, temperature_K, platform, threads)
    model = {
        "name": "TIP3P water, " + ("rigid" if rigid else "flexible"),
        "rigid": rigid,
        "n_molecules": n_molecules,
        "density_g_per_cm3": systems.WATER_DENSITY_G_PER_CM3,
        "electrostatics": "particle mesh Ewald",
        "cutoff_A": systems.WATER_CUTOFF_A,
        "lennard_jones_switched_from_A": systems.WATER_SWITCH_A,
        "pme_error_tolerance": systems.WATER_PME_TOLERANCE,
        "long_range_dispersion_correction": False,
    }
    if rigid:
        model["forces"] = "without the constraint forces"
    return record(Path(folder), material, model, plan, progress, overwrite)


def equilibrated_water(
    n_molecules: int,
    *,
    rigid: bool = False,
    temperature_K: float = 300.0,
    equilibration_ps: float = 5.0,
    seed: int = 0,
    platform: str = "CPU",
    threads: int = 1,
) -> ase.Atoms:
    """One box of water with momenta, forces and energy: a start for dynamics or for timing.

    Raises:
        UserError: the box is too small, or OpenMM is not installed.
    """
    sampler = Sampler(
        _water_material(n_molecules, rigid, temperature_K, platform, threads),
        temperature_K=temperature_K,
        timestep_fs=2.0 if rigid else 0.5,
        platform=platform,
        threads=threads,
    )
    start = sampler.equilibrate(np.random.default_rng(seed), equilibration_ps)
    return labelled_atoms(next(sampler.run(start, 0, 1)), sampler.material, {"time_fs": 0.0})


def _water_material(
    n_molecules: int, rigid: bool, temperature_K: float, platform: str, threads: int
) -> Material:
    edge = systems.water_box(n_molecules)
    per_side = tiles_per_side(n_molecules)

    def start(rng: np.random.Generator) -> Array:
        if per_side == 1:
            return water_start(n_molecules, edge, rng)
        n_tile = -(-n_molecules // per_side**3)
        tile = Sampler(
            _water_material(n_tile, rigid, temperature_K, platform, threads),
            temperature_K=temperature_K,
            timestep_fs=1.0,
            platform=platform,
            threads=threads,
        )
        phase = tile.equilibrate(rng, TILE_EQUILIBRATION_PS)
        return tiled_water(phase.positions, tile.material.box_A, per_side, n_molecules, edge, rng)

    return Material(
        name="water",
        system=systems.water_system(n_molecules, edge, rigid),
        box_A=edge,
        atomic_numbers=systems.water_numbers(n_molecules),
        bonds=systems.water_bonds(n_molecules),
        start=start,
        collisions_per_ps=1.0,
        equilibration_timestep_fs=2.0 if rigid else 1.0,
    )
