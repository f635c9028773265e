"""``data``: what a file of structures holds, and trajectories in other formats."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="""Look into files of structures, and convert trajectories.

    Example: `kinetograph data info run/water.h5`
    """,
    no_args_is_help=True,
)

Json = Annotated[Path | None, typer.Option(help="Also write the numbers as JSON here; `-` for stdout.")]


class Wrap(StrEnum):
    atoms = "atoms"
    molecules = "molecules"


@app.command("info")
def info(
    file: Annotated[Path, typer.Argument(help="A trajectory, or structures in any format that ASE reads.")],
    json: Json = None,
) -> None:
    """What a trajectory or a file of labelled frames holds.

    Example: `kinetograph data info run/water.h5`
    """
    from kinetograph.cli.output import refuse_existing, table, write_json
    from kinetograph.data.frames import read_structures
    from kinetograph.trajectory import Trajectory
    from kinetograph.trajectory.summary import frames_summary, trajectory_summary

    refuse_existing(json, overwrite=None)
    if _is_hdf5(file):
        with Trajectory.open(file) as trajectory:
            record = trajectory_summary(trajectory)
        rows = trajectory_rows(record)
    else:
        record = frames_summary(read_structures(file))
        rows = frames_rows(record)
    table(str(file), rows, to_stderr=str(json) == "-")
    write_json(json, {"file": str(file), **record})


@app.command("convert")
def convert(
    trajectory: Annotated[Path, typer.Argument(help="An H5MD trajectory.")],
    out: Annotated[Path, typer.Argument(help="What to write: *.extxyz, *.xyz or *.dcd.")],
    first: Annotated[int, typer.Option(help="First frame, counted from 0; negative: from the end.")] = 0,
    last: Annotated[int, typer.Option(help="Last frame, written too; -1 is the last of all.")] = -1,
    every: Annotated[int, typer.Option(help="Of these, write one in so many.")] = 1,
    wrap: Annotated[
        Wrap | None,
        typer.Option(
            help="Move into the cell each of the atoms, or each molecule in one piece; "
            "left out: positions as they are, which follow the atoms out of the cell."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    json: Json = None,
) -> None:
    """A trajectory, or part of it, in a format of other programs.

    Example: `kinetograph data convert run/water.h5 water.extxyz --every 10 --wrap molecules`
    """
    from rich.progress import Progress

    from kinetograph.cli.output import err, refuse_existing, table, write_json
    from kinetograph.trajectory import Trajectory
    from kinetograph.trajectory.export import convert as run

    refuse_existing(out, json, overwrite=overwrite)
    with Trajectory.open(trajectory) as source, Progress(console=err, transient=True) as bar:
        task = bar.add_task("converting", total=None)
        n_frames = run(
            source,
            out,
            first=first,
            last=last,
            every=every,
            wrap=None if wrap is None else wrap.value,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        n_there = source.n_frames
    n_bytes = out.stat().st_size
    rows = [
        ("output", str(out)),
        ("frames", f"{n_frames} of {n_there}"),
        ("size", f"{n_bytes / 1e6:.3g} MB"),
    ]
    table(f"Converted from {trajectory.name}", rows, to_stderr=str(json) == "-")
    record = {"trajectory": str(trajectory), "output": str(out), "n_frames": n_frames, "n_bytes": n_bytes}
    write_json(json, record)


def _is_hdf5(path: Path) -> bool:
    """By its first bytes, or by its name where it is not there or damaged."""
    if path.suffix == ".h5" or not path.is_file():
        return path.suffix == ".h5"
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def trajectory_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary of a trajectory as name and value."""
    spacing, between = record["time_between_frames_fs"], record["steps_between_frames"]
    formula = " ".join(f"{element}{count}" for element, count in record["elements"].items())
    rows = [("frames", str(record["n_frames"])), ("atoms", f"{record['n_atoms']}: {formula}")]
    if record["n_bonds"] is not None:
        rows.append(("bonds", str(record["n_bonds"])))
    if record["steps"] is not None:
        first, last = record["steps"]
        apart = "unevenly spaced" if between is None else f"{between} apart"
        rows += [
            ("steps", f"{first} to {last}" + (f", {apart}" if last > first else "")),
            (
                "time",
                f"{record['length_ps']:.6g} ps"
                + ("" if spacing is None else f", a frame each {spacing:g} fs")
                + ("" if record["timestep_fs"] is None else f", time step {record['timestep_fs']:g} fs"),
            ),
        ]
    rows.append(("cell", _cell(record["first_cell_A"], record["pbc"], record["volume_A3"])))
    rows.append(("holds", ", ".join(record["fields"]) or "no frames yet"))
    for name, values in record["observables"].items():
        if values is not None:
            quantity, _, unit = name.rpartition("_")
            rows.append((quantity.replace("_", " "), _range(values, unit)))
    forces = record["force_eV_per_A"]
    if forces is not None:
        sizes = f"rms {forces['rms']:.4g}, largest {forces['max']:.4g} eV/Å"
        rows.append(("forces", f"{sizes}, in {forces['of_frames']} frames"))
    if record["is_being_written"]:
        rows.append(("note", "it is being written, or its writer was killed; --resume mends that"))
    return rows


def frames_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary of labelled frames as name and value."""
    n, sizes = record["n_frames"], record["n_atoms"]
    atoms = f"{sizes['min']:.0f}" + ("" if sizes["min"] == sizes["max"] else f" to {sizes['max']:.0f}")
    labelled = {name: record[f"n_with_{name}"] for name in ("energy", "forces", "stress")}
    rows = [
        ("frames", str(n)),
        ("atoms", f"{atoms}: {', '.join(record['elements'])}"),
        ("periodic", f"{record['n_periodic']} of {n}"),
        *((name, "none" if count == 0 else f"in {count} of {n}") for name, count in labelled.items()),
    ]
    ranges = (
        ("energies", "energy_eV_per_atom", "eV/atom"),
        ("force sizes", "force_eV_per_A", "eV/Å"),
        ("volumes", "volume_A3", "Å³"),
    )
    rows += [(title, _range(record[key], unit)) for title, key, unit in ranges if record[key] is not None]
    rows.append(("holds", ", ".join(record["fields"])))
    if record["n_not_finite"]:
        rows.append(("note", f"{record['n_not_finite']} of {n} frames have labels that are not finite"))
    return rows


def _range(values: dict[str, float], unit: str) -> str:
    return f"{values['min']:.6g} to {values['max']:.6g}, mean {values['mean']:.6g} {unit}"


def _cell(cell: list[list[float]] | None, pbc: list[bool], volume: dict[str, float] | None) -> str:
    """Lengths and angles, where it repeats, and whether its volume changes."""
    from ase.cell import Cell

    if cell is None:
        return "none"
    lengths = Cell(cell).cellpar()
    text = " × ".join(f"{length:.5g}" for length in lengths[:3]) + " Å"
    if max(abs(angle - 90.0) for angle in lengths[3:]) > 1e-3:
        text += ", " + ", ".join(f"{angle:.4g}°" for angle in lengths[3:])
    if not all(pbc):
        text += ", periodic along " + (
            "nothing" if not any(pbc) else " and ".join(x for x, p in zip("abc", pbc, strict=True) if p)
        )
    if volume is not None and volume["max"] > volume["min"] * (1 + 1e-9):
        text += f", volume {volume['min']:.6g} to {volume['max']:.6g} Å³"
    return text
