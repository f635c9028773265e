"""The verbs and where each is written."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from kinetograph.cli import (
    analyze,
    benchmark,
    data,
    demo,
    evaluate,
    generate,
    info,
    md,
    models,
    relax,
    report,
    train,
)

app = typer.Typer(
    name="kinetograph",
    help="Train graph neural network force fields, run dynamics with them, and see how good they are.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kinetograph {importlib.metadata.version('kinetograph')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.add_typer(generate.app, name="generate")
app.add_typer(data.app, name="data")
app.command("template")(train.template)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("md")(md.md)
app.command("relax")(relax.relax)
app.command("analyze")(analyze.analyze)
app.command("report")(report.report)
app.add_typer(benchmark.app, name="benchmark")
app.command("models")(models.models)
app.command("info")(info.info)
