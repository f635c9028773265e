"""``analyze``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kinetograph.analysis import Analysis


def analyze(
    trajectories: Annotated[
        list[Path], typer.Argument(help="H5MD trajectories; several of one system are averaged.")
    ],
    reference: Annotated[
        list[Path] | None, typer.Option(help="Trajectories to compare with; give it once for each.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for analysis.json; the first trajectory's if left out.")
    ] = None,
    skip: Annotated[
        float, typer.Option("--skip-ps", help="Leave out the beginning of every trajectory, ps.")
    ] = 0.0,
    r_max: Annotated[
        float | None, typer.Option("--r-max-A", help="Range of g(r), Å; half the cell if left out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier analysis.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Also write the result as JSON here; `-` for stdout.")
    ] = None,
) -> None:
    """Radial distributions, temperature, cold-start and force histograms, against a reference.

    Example: `kinetograph analyze run/water.h5 --reference data/water/reference_9.h5`
    """
    from kinetograph.analysis import analyze as run
    from kinetograph.cli.output import refuse_existing, table, write_json
    from kinetograph.trajectory import Trajectory

    numbers = (out or trajectories[0].parent) / "analysis.json"
    refuse_existing(numbers, json, overwrite=overwrite)
    with ExitStack() as stack:
        runs = [stack.enter_context(Trajectory.open(path)) for path in trajectories]
        others = [stack.enter_context(Trajectory.open(path)) for path in reference or []]
        analysis = run(runs, others or None, skip_fs=1000.0 * skip, r_max_A=r_max)
    table("Analysis", analysis_rows(analysis), to_stderr=str(json) == "-")
    record = {
        "trajectories": [str(path) for path in trajectories],
        "references": [str(path) for path in reference or []],
        **analysis.to_json(),
    }
    write_json(numbers, record)
    write_json(json, record)


def analysis_rows(analysis: Analysis) -> list[tuple[str, str]]:
    """The summary as name and value."""
    summary = analysis.summary()
    rows = []
    if "temperature_K" in summary:
        rows.append(
            (
                "temperature",
                f"{summary['temperature_K']:.2f} ± {summary['temperature_error_K']:.2f} K, "
                f"spread {summary['temperature_std_K']:.2f} K "
                f"(canonical {summary['temperature_std_expected_K']:.2f} K)",
            )
        )
    if "reference_temperature_K" in summary:
        rows.append(
            (
                "reference",
                f"{summary['reference_temperature_K']:.2f} ± "
                f"{summary['reference_temperature_error_K']:.2f} K",
            )
        )
    for (pair, kind), comparison in analysis.rdf_comparisons.items():
        rows.append(
            (
                f"g(r) {pair} {kind}",
                f"mean |Δg| {comparison.mae:.4f}, first peak "
                f"{100.0 * comparison.peak_position_difference:+.2f} % in place, "
                f"{100.0 * comparison.peak_height_difference:+.2f} % in height"
                + (
                    f", within the error band of ±{comparison.mean_band:.3f}"
                    if comparison.within_band
                    else ""
                ),
            )
        )
    rows += [
        ("cold start", f"kinetic energy deviates by {100.0 * trace.normalized_deviation:.2f} %")
        for trace in analysis.cold_starts
    ]
    rows += [("note", note) for note in analysis.notes]
    return rows
