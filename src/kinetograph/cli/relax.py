"""``relax``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

    from kinetograph.analysis import RelaxationScores
    from kinetograph.dynamics.relax import RelaxationResult, Relaxed
    from kinetograph.system import System

N_SHOWN = 5
"""Failures and warnings in the table; all are in the JSON."""


class MethodName(StrEnum):
    lbfgs = "lbfgs"
    fire = "fire"


def relax(
    model: Annotated[Path, typer.Argument(help="A model file, *.kg.")],
    start: Annotated[Path, typer.Argument(help="Structures, any number, any format that ASE reads.")],
    out: Annotated[Path, typer.Option(help="Where they end, extended XYZ.")] = Path("relaxed.extxyz"),
    method: Annotated[MethodName, typer.Option(help="L-BFGS, or FIRE 2.0.")] = MethodName.lbfgs,
    cell: Annotated[
        str | None,
        typer.Option(
            help="Let the cell move too: full, isotropic, or strains such as xx,yy,xy; held if left out."
        ),
    ] = None,
    pressure: Annotated[
        float, typer.Option("--pressure-bar", help="Pressure on a cell that moves, bar.")
    ] = 0.0,
    fmax: Annotated[
        float,
        typer.Option("--fmax-eV-per-A", help="Converged: no force on a free atom as large, eV/Å."),
    ] = 0.01,
    smax: Annotated[
        float,
        typer.Option("--smax-eV-per-A3", help="Nor, where the cell moves, a stress as large, eV/Å³."),
    ] = 1e-4,
    steps: Annotated[int, typer.Option(min=0, help="The most that a structure makes.")] = 200,
    max_step: Annotated[float, typer.Option("--max-step-A", help="Longest step of an atom, Å.")] = 0.2,
    batch_atoms: Annotated[int, typer.Option(min=1, help="Atoms computed at once, about.")] = 2000,
    trajectory: Annotated[
        Path | None,
        typer.Option(help="A folder for the way of each structure, 00000.extxyz and so on."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between frames of the trajectories.")] = 1,
    targets: Annotated[
        Path | None,
        typer.Option(
            help="The same structures as the reference relaxed them: how near to those they come (ADwT)."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="A calculator, asked for its forces where they end (AFbT): one of ASE's, such as emt, "
            "or module:function."
        ),
    ] = None,
    forces: Annotated[
        Literal["direct", "conservative"] | None,
        typer.Option(
            help="Of a model with both kinds of forces the one to follow; conservative if left out."
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the model first (takes a C++ compiler): for many structures."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the result as JSON; `-` for stdout.")] = None,
) -> None:
    """Relax many structures at once.

    Example: `kinetograph relax run/best.kg data/slabs.extxyz --out run/relaxed.extxyz`

    With their cells, in the plane only: `kinetograph relax run/best.kg sheets.extxyz --cell xx,yy,xy`

    Against a reference, by OC20's scores:
    `kinetograph relax run/best.kg slabs.extxyz --targets relaxed_by_dft.extxyz --reference my_dft:calculator`

    Exit code 1: a structure failed; the others were finished. 2: none could be started.
    """
    from kinetograph import model_file
    from kinetograph.analysis.relaxation import require_same_structures
    from kinetograph.cli.output import (
        checked_device,
        err,
        refuse_existing,
        structures_of,
        table,
        write_json,
    )
    from kinetograph.data.frames import read_structures
    from kinetograph.dynamics.relax import METHODS, RelaxationReporter, RelaxationTrajectory, RelaxedWriter
    from kinetograph.dynamics.relax import relax as run
    from kinetograph.errors import UserError
    from kinetograph.reference.calculators import ase_calculator
    from kinetograph.system import System

    numbers = out.with_name(out.name + ".json")
    if out.resolve() in [source.resolve() for source in (start, targets) if source is not None]:
        raise UserError(
            "the relaxed structures would replace those they are made from or compared with",
            where=str(out),
            mend="Choose another name with --out.",
        )
    if targets is not None and cell is not None:
        raise UserError(
            "distances from the targets mean nothing where the cell moves",
            where="--targets",
            mend="Leave --cell or --targets out.",
        )
    refuse_existing(out, numbers, json, overwrite=overwrite)
    potential = model_file.load(model, device=checked_device(device), forces=forces)
    if compiled:
        potential.use_compiler()
    structures = read_structures(start)
    with structures_of(start):
        system = System.from_ase(structures, device=device)
    goal = None if targets is None else System.from_ase(read_structures(targets), device=device)
    if goal is not None:
        require_same_structures(system, goal)
    calculator = None if reference is None else ase_calculator(reference)
    companions = [path for path in (numbers, json) if path is not None and str(path) != "-"]
    writer = RelaxedWriter(out, templates=structures, overwrite=overwrite, companions=companions)
    reporters: list[RelaxationReporter] = [writer]
    if trajectory is not None:
        reporters.append(
            RelaxationTrajectory(trajectory, every=every, templates=structures, overwrite=overwrite)
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with structures_of(start):
            result = run(
                potential,
                system,
                method=METHODS[method](max_step_A=max_step),
                cell=cell,
                pressure_bar=pressure,
                fmax_eV_per_A=fmax,
                smax_eV_per_A3=smax,
                max_steps=steps,
                batch_atoms=batch_atoms,
                reporters=reporters,
            )
    except KeyboardInterrupt:
        kept = f"the structures that were finished are in {out}" if writer.has_begun else "none was finished"
        err.print(f"Interrupted; {kept}.")
        raise typer.Exit(130) from None
    record = {
        "model": str(model),
        "start": str(start),
        "relaxed": str(out),
        "method": method.value,
        "cell": cell,
        "pressure_bar": pressure,
        "fmax_eV_per_A": fmax,
        "smax_eV_per_A3": smax,
        "max_steps": steps,
        "max_step_A": max_step,
        "forces": potential.answers,
        **result_record(result),
    }
    rows = [("structures", f"{out}"), *_rows(result)]
    if trajectory is not None:
        rows.insert(1, ("trajectories", f"{trajectory}"))
    table("Relaxation", rows, to_stderr=str(json) == "-")
    write_json(numbers, record)  # kept if the reference fails
    if goal is not None or calculator is not None:
        scores = _scores(result, goal, calculator)
        table("Against the reference", _score_rows(scores), to_stderr=str(json) == "-")
        record["scores"] = {
            "targets": None if targets is None else str(targets),
            "reference": reference,
            **scores.to_json(),
        }
        write_json(numbers, record)
    write_json(json, record)
    if result.n_failed:
        raise typer.Exit(1)


def result_record(result: RelaxationResult) -> dict[str, Any]:
    """The numbers of a relaxation as plain JSON."""
    return {
        "n_structures": len(result.structures),
        "n_converged": result.n_converged,
        "n_failed": result.n_failed,
        "n_evaluations": result.n_evaluations,
        "wall_s": result.wall_s,
        "structures": [
            {
                "structure": of.number,
                "converged": of.converged,
                "n_steps": of.n_steps,
                "energy_eV": of.energy_eV,
                "max_force_eV_per_A": of.max_force_eV_per_A,
                "max_stress_eV_per_A3": of.max_stress_eV_per_A3,
                "failure": of.failure,
                "warnings": list(of.warnings),
            }
            for of in result.structures
        ],
    }


def _scores(
    result: RelaxationResult, goal: System | None, calculator: BaseCalculator | None
) -> RelaxationScores:
    """How near the structures end to the reference's, and how small its forces on them are."""
    from rich.progress import Progress

    from kinetograph.analysis.relaxation import reference_forces, relaxation_scores
    from kinetograph.cli.output import err

    failed = [of.number for of in result.structures if of.failure is not None]
    forces = None
    if calculator is not None:
        with Progress(console=err, transient=True) as bar:
            task = bar.add_task("asking the reference", total=len(result.structures))
            forces = reference_forces(
                result.system,
                calculator,
                skip=failed,
                progress=lambda done: bar.update(task, completed=done),
            )
    return relaxation_scores(result.system, goal, forces, failed=failed)


def _score_rows(scores: RelaxationScores) -> list[tuple[str, str]]:
    rows = []
    if scores.adwt is not None:
        distance = "" if scores.mean_distance_A is None else f", {scores.mean_distance_A:.3g} Å on average"
        rows.append(("ADwT", f"{100.0 * scores.adwt:.2f} % near the targets{distance}"))
    if scores.afbt is not None and scores.fbt is not None:
        rows.append(
            (
                "AFbT",
                f"{100.0 * scores.afbt:.2f} % with small forces by the reference, "
                f"{100.0 * scores.fbt:.2f} % below 0.05 eV/Å",
            )
        )
    return rows


def _rows(result: RelaxationResult) -> list[tuple[str, str]]:
    n, steps = len(result.structures), [of.n_steps for of in result.structures]
    rows = [
        ("converged", f"{result.n_converged} of {n}"),
        ("steps", f"{sum(steps) / n:.1f} on average, {max(steps)} at most"),
        ("speed", f"{n / result.wall_s:.3g} structures/s, {result.n_evaluations} force evaluations"),
    ]
    if n == 1:
        rows += _of_one(result.structures[0])
    rows += _first("failed", [(of, of.failure) for of in result.structures if of.failure], n)
    rows += _first("warning", [(of, text) for of in result.structures for text in of.warnings], n)
    return rows


def _of_one(of: Relaxed) -> list[tuple[str, str]]:
    rows = []
    if of.energy_eV is not None:
        rows.append(("energy", f"{of.energy_eV:.6f} eV"))
    if of.max_force_eV_per_A is not None:
        rows.append(("largest force", f"{of.max_force_eV_per_A:.4g} eV/Å"))
    if of.max_stress_eV_per_A3 is not None:
        rows.append(("largest stress", f"{of.max_stress_eV_per_A3:.3g} eV/Å³"))
    return rows


def _first(name: str, cases: list[tuple[Relaxed, str]], n: int) -> list[tuple[str, str]]:
    """The first of these sentences, and how many more there are."""
    rows = [
        (name, text if n == 1 else f"structure {of.number}, step {of.n_steps}: {text}")
        for of, text in cases[:N_SHOWN]
    ]
    if len(cases) > N_SHOWN:
        rows.append((name, f"and {len(cases) - N_SHOWN} more, in the JSON"))
    return rows
