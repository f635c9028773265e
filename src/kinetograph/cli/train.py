"""``template`` and ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def template(
    out: Annotated[Path | None, typer.Argument(help="Where to write it; stdout if left out.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
) -> None:
    """A commented configuration to start from.

    Example: `kinetograph template train.yaml`
    """
    from kinetograph.cli.output import refuse_existing
    from kinetograph.config import template as text

    if out is None:
        typer.echo(text(), nl=False)
        return
    refuse_existing(out, overwrite=overwrite)
    out.write_text(text(), encoding="utf-8")


def train(
    config: Annotated[Path, typer.Argument(help="YAML configuration; `kinetograph template` writes one.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as training.seed=1.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("run"),
    resume: Annotated[
        bool, typer.Option(help="Continue the run in the folder from its last checkpoint.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in the folder.")] = False,
    ensemble: Annotated[
        int | None,
        typer.Option(help="Train so many models, which know where they disagree: training.ensemble."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Learn from this model instead of the labels of the data: training.teacher."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the result as JSON; `-` for stdout.")] = None,
) -> None:
    """Train a model on labelled frames.

    Leaves config.yaml, metrics.csv, last.ckpt, tensorboard/ and best.kg in the run folder.

    Example: `kinetograph train train.yaml training.max_steps=5000 --out run`

    Four models in one file: `kinetograph train train.yaml --ensemble 4 --out four`

    A small one that learns from them:
    `kinetograph train train.yaml model.preset=painn-small --teacher four/best.kg --out small`
    """
    from dataclasses import asdict
    from json import dumps

    from kinetograph.cli.output import refuse_existing, resumable, table, write_json
    from kinetograph.config import load_config
    from kinetograph.errors import needs

    changes = list(changes or [])
    if ensemble is not None:
        changes.append(f"training.ensemble={ensemble}")
    if teacher is not None:
        changes.append(f"training.teacher={dumps(str(teacher))}")
    settings = load_config(config, changes)
    refuse_existing(json, overwrite=overwrite)
    with needs("lightning", extra="train"):
        from kinetograph.training.fit import train as fit

    with resumable():
        result = fit(settings, out, resume=resume, overwrite=overwrite)
    members = result.members_force_mae_eV_per_A
    against = " to the teacher" if settings.training.teacher is not None else ""
    rows = [("model", str(result.model))]
    if members:
        each = ", ".join(f"{1000.0 * mae:.4g}" for mae in members)
        rows.append((f"{len(members)} members", f"valid force MAE{against} {each} meV/Å"))
    else:
        rows.append(("best at step", f"{result.best_step} of {result.steps}"))
    mae = f"{1000.0 * result.valid_force_mae_eV_per_A:.4g} meV/Å{against}"
    rows += [
        ("valid force MAE", f"{mae}, of the mean" if members else mae),
        ("time", f"{result.wall_s:.0f} s"),
    ]
    table("Trained", rows, to_stderr=str(json) == "-")
    record = {**asdict(result), "model": str(result.model)}
    write_json(out / "train.json", record)
    write_json(json, record)
