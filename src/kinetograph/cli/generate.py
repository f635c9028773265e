"""``generate``: labelled frames from a reference simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kinetograph.reference.generate import GeneratedData

app = typer.Typer(
    help="""Labelled frames from a reference simulation, split by trajectory.

    Example: `kinetograph generate water data/water --molecules 64`
    """,
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Argument(help="Folder to write; made if it does not exist.")]
Temperature = Annotated[float, typer.Option("--temperature-K", help="Temperature, K.")]
Trajectories = Annotated[int, typer.Option(help="Independent trajectories; the last two validate and test.")]
Frames = Annotated[int, typer.Option(help="Labelled frames of each trajectory.")]
Spacing = Annotated[float, typer.Option("--spacing-fs", help="Time between labelled frames, fs.")]
Equilibration = Annotated[float, typer.Option("--equilibration-ps", help="Before the first frame, ps.")]
Reference = Annotated[float, typer.Option("--reference-ps", help="Length of the held-out trajectories, ps.")]
ReferenceSpacing = Annotated[
    float,
    typer.Option("--reference-spacing-fs", help="Time between the frames of the held-out trajectories, fs."),
]
ColdStart = Annotated[float, typer.Option("--cold-start-ps", help="Length of the run from rest, ps.")]
Seed = Annotated[int, typer.Option(help="One seed, one data set.")]
Threads = Annotated[int, typer.Option(help="Threads of the reference engine.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace data in the folder.")]
Json = Annotated[Path | None, typer.Option(help="Also write what was made as JSON; `-` for stdout.")]


@app.command("argon")
def argon(
    out: Out,
    atoms: Annotated[int, typer.Option(help="Number of atoms.")] = 258,
    temperature: Temperature = 100.0,
    box: Annotated[
        float | None, typer.Option("--box-A", help="Edge of the cube, Å; 27.27 for 258 atoms.")
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Reduced density ρ* instead of the box: 0.8 is a liquid.")
    ] = None,
    trajectories: Trajectories = 8,
    frames: Frames = 100,
    spacing: Spacing = 100.0,
    timestep: Annotated[float, typer.Option("--timestep-fs", help="Time step, fs.")] = 2.0,
    equilibration: Equilibration = 20.0,
    reference: Reference = 10.0,
    reference_spacing: ReferenceSpacing = 20.0,
    cold_start: ColdStart = 5.0,
    seed: Seed = 0,
    threads: Threads = 1,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """Lennard-Jones argon by OpenMM; by default the state point of the GAMD paper.

    Example: `kinetograph generate argon data/argon`
    """
    from kinetograph.cli.output import refuse_existing
    from kinetograph.reference.generate import generate_argon

    refuse_existing(json, overwrite=overwrite)
    with _bar() as progress:
        made = generate_argon(
            out,
            n_atoms=atoms,
            temperature_K=temperature,
            box_A=box,
            density=density,
            n_trajectories=trajectories,
            n_frames=frames,
            spacing_fs=spacing,
            timestep_fs=timestep,
            equilibration_ps=equilibration,
            reference_ps=reference,
            reference_spacing_fs=reference_spacing,
            cold_start_ps=cold_start,
            seed=seed,
            threads=threads,
            progress=progress,
            overwrite=overwrite,
        )
    _say(made, json)


@app.command("water")
def water(
    out: Out,
    molecules: Annotated[int, typer.Option(help="Number of molecules, 64 to 24093 and beyond.")] = 64,
    rigid: Annotated[
        bool, typer.Option("--rigid", help="Rigid molecules; the forces leave the constraints out.")
    ] = False,
    temperature: Temperature = 300.0,
    trajectories: Trajectories = 10,
    frames: Frames = 100,
    spacing: Spacing = 200.0,
    timestep: Annotated[
        float | None, typer.Option("--timestep-fs", help="Time step, fs; 0.5 flexible, 2 rigid.")
    ] = None,
    equilibration: Annotated[
        float | None,
        typer.Option(
            "--equilibration-ps", help="Before the first frame, ps; 20, or 5 from 1000 molecules on."
        ),
    ] = None,
    reference: Reference = 10.0,
    reference_spacing: ReferenceSpacing = 20.0,
    cold_start: ColdStart = 10.0,
    seed: Seed = 0,
    threads: Threads = 1,
    overwrite: Overwrite = False,
    json: Json = None,
) -> None:
    """TIP3P water by OpenMM with particle mesh Ewald, one density for every size.

    Example: `kinetograph generate water data/water --molecules 64`
    """
    from kinetograph.cli.output import refuse_existing
    from kinetograph.reference.generate import generate_water

    refuse_existing(json, overwrite=overwrite)
    with _bar() as progress:
        made = generate_water(
            out,
            n_molecules=molecules,
            rigid=rigid,
            temperature_K=temperature,
            n_trajectories=trajectories,
            n_frames=frames,
            spacing_fs=spacing,
            timestep_fs=timestep,
            equilibration_ps=equilibration,
            reference_ps=reference,
            reference_spacing_fs=reference_spacing,
            cold_start_ps=cold_start,
            seed=seed,
            threads=threads,
            progress=progress,
            overwrite=overwrite,
        )
    _say(made, json)


@contextmanager
def _bar() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr with rate and time left, driven by (done, total, text)."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from kinetograph.cli.output import err

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("reference", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)


def _say(made: GeneratedData, json: Path | None) -> None:
    from kinetograph.cli.output import table, write_json

    rows = [
        ("train", f"{made.train} ({made.n_frames['train']} frames)"),
        ("valid", f"{made.valid} ({made.n_frames['valid']} frames)"),
        ("test", f"{made.test} ({made.n_frames['test']} frames)"),
        ("starts", str(made.start)),
        ("held-out runs", ", ".join(str(path) for path in made.references)),
        ("cold start", str(made.cold_start)),
        ("temperature", f"{made.mean_temperature_K:.1f} K"),
        ("time", f"{made.seconds:.0f} s"),
    ]
    table("Reference data", rows, to_stderr=str(json) == "-")
    record = {
        "train": str(made.train),
        "valid": str(made.valid),
        "test": str(made.test),
        "start": str(made.start),
        "references": [str(path) for path in made.references],
        "cold_start": str(made.cold_start),
        "n_frames": made.n_frames,
        "mean_temperature_K": made.mean_temperature_K,
        "seconds": made.seconds,
        "provenance": made.provenance,
    }
    write_json(json, record)
