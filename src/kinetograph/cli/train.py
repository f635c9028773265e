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
    json: Annotated[Path | None, typer.Option(help="Also write the result as JSON; `-` for stdout.")] = None,
) -> None:
    """Train a model on labelled frames.

    Leaves config.yaml, metrics.csv, last.ckpt, tensorboard/ and best.kg in the run folder.

    Example: `kinetograph train train.yaml training.max_steps=5000 --out run`
    """
    from dataclasses import asdict

    from kinetograph.cli.output import refuse_existing, resumable, table, write_json
    from kinetograph.config import load_config
    from kinetograph.errors import needs

    settings = load_config(config, changes)
    refuse_existing(json, overwrite=overwrite)
    with needs("lightning", extra="train"):
        from kinetograph.training.fit import train as fit

    with resumable():
        result = fit(settings, out, resume=resume, overwrite=overwrite)
    rows = [
        ("model", str(result.model)),
        ("best at step", f"{result.best_step} of {result.steps}"),
        ("valid force MAE", f"{1000.0 * result.valid_force_mae_eV_per_A:.4g} meV/Å"),
        ("time", f"{result.wall_s:.0f} s"),
    ]
    table("Trained", rows, to_stderr=str(json) == "-")
    record = {**asdict(result), "model": str(result.model)}
    write_json(out / "train.json", record)
    write_json(json, record)
