"""``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kinetograph.evaluation import Errors


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file, *.kg.")],
    data: Annotated[Path, typer.Argument(help="Labelled frames; eV and Å.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json and evaluation.html; the model's if left out."),
    ] = None,
    forces: Annotated[
        Literal["direct", "conservative"] | None,
        typer.Option(help="Of a model with both kinds of forces the one to test; conservative if left out."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")] = "cpu",
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier evaluation.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Also write the numbers as JSON here; `-` for stdout.")
    ] = None,
) -> None:
    """Errors of a model's forces, energies and stresses on labelled frames: a table, plots and JSON.

    Example: `kinetograph evaluate run/best.kg data/water/test.extxyz`
    """
    from rich.progress import Progress

    from kinetograph import model_file
    from kinetograph.cli.output import checked_device, err, refuse_existing, table, write_json
    from kinetograph.data.frames import read_frames
    from kinetograph.evaluation import evaluate as run
    from kinetograph.report.page import write_evaluation_page

    folder = out or model.parent
    numbers, page = folder / "evaluation.json", folder / "evaluation.html"
    refuse_existing(numbers, page, json, overwrite=overwrite)
    potential = model_file.load(model, device=checked_device(device), forces=forces)
    frames = read_frames(data)
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("evaluating", total=len(frames))
        errors = run(potential, frames, progress=lambda done, total: bar.update(task, completed=done))
    table(f"{model} on {data}", error_rows(errors), to_stderr=str(json) == "-")
    record = {
        "model": str(model),
        "forces": potential.answers,
        "data": str(data),
        "data_sha256": frames.sha256,
        **errors.to_json(),
    }
    write_json(numbers, record)
    write_json(json, record)
    write_evaluation_page(page, record, overwrite=True)


def error_rows(errors: Errors) -> list[tuple[str, str]]:
    """The error table: name and value."""
    forces, energies, stresses = errors.forces, errors.energies, errors.stresses
    rows = [
        ("force MAE", f"{1000.0 * forces.mae:.4g} meV/Å (components)"),
        ("force RMSE", f"{1000.0 * forces.rmse:.4g} meV/Å"),
        ("relative error", f"{100.0 * forces.relative_error:.3g} %  (Σ|ΔF| / Σ|F|)"),
        ("mean cosine", f"{forces.cosine_mean:.5f}"),
    ]
    rows += [
        (f"cosine > {limit:g}", f"{100.0 * share:.2f} % of atoms")
        for limit, share in forces.cosine_shares.items()
    ]
    if len(forces.per_element) > 1:
        rows += [
            (f"⟨|ΔF|⟩/⟨|F|⟩ {element}", f"{100.0 * of.relative_error:.3g} %")
            for element, of in forces.per_element.items()
        ]
    rows.append(("atoms compared", f"{forces.n_atoms}"))
    if energies is not None:
        rows += [
            ("energy MAE", f"{1000.0 * energies.mae_per_atom:.4g} meV/atom"),
            ("energy RMSE", f"{1000.0 * energies.rmse_per_atom:.4g} meV/atom"),
            ("energies compared", f"{energies.n_frames}"),
        ]
    if stresses is not None:
        rows += [
            ("stress MAE", f"{1000.0 * stresses.mae:.4g} meV/Å³ (components)"),
            ("stress RMSE", f"{1000.0 * stresses.rmse:.4g} meV/Å³"),
            ("stresses compared", f"{stresses.n_frames}"),
        ]
    if errors.members_force_mae:
        mean = sum(errors.members_force_mae) / len(errors.members_force_mae)
        rows.append(("members' force MAE", f"{1000.0 * mean:.4g} meV/Å on average; above: of their mean"))
    known = errors.disagreement
    if known is not None:
        rows += [
            ("disagreement", f"rank correlation with |ΔF| (Spearman) {known.spearman:.3f}"),
            ("calibration", f"|ΔF| is {known.calibration:.3g} × the disagreement (root mean squares)"),
        ]
    return rows
