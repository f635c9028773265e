"""``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path("demo-argon"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier demo in the folder.")
    ] = False,
) -> None:
    """The whole story on argon in minutes: make data, train, run, check, and write a page.

    Example: `kinetograph demo`
    """
    from kinetograph.cli.output import err
    from kinetograph.demo import demo as run
    from kinetograph.demo import summary_lines
    from kinetograph.errors import needs

    with needs("lightning", extra="all"):
        result = run(out, overwrite=overwrite, say=err.print)
    typer.echo(f"page         {result.page}")
    for line in summary_lines(result.summary):
        typer.echo(line)
