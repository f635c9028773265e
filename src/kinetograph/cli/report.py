"""``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared on one page.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; report.html in the first folder if left out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page if it exists.")] = False,
) -> None:
    """One page, readable offline, on what was run and how good it is.

    Example: `kinetograph report run`
    """
    from kinetograph.report.page import write_report
    from kinetograph.report.record import read_run

    page = write_report(
        out or runs[0] / "report.html", [read_run(folder) for folder in runs], overwrite=overwrite
    )
    typer.echo(str(page))
