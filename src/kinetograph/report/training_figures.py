"""Figures of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kinetograph.report.figure import Figure, axis, color, log_scale
from kinetograph.report.record import RunRecord

Json = dict[str, Any]


def training(runs: list[RunRecord]) -> list[Figure]:
    """Losses, and errors with a unit, over the steps of the training."""
    figures = []
    groups: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
        ("Loss", "loss, dimensionless", lambda name: "loss" in name),
        ("Validation errors", "error, unit as in its name", lambda name: "mae" in name or "rmse" in name),
    )
    for title, label, belongs in groups:
        traces: list[Json] = []
        for i, run in enumerate(runs):
            metrics = run.metrics or {}
            steps = metrics.get("step") or metrics.get("epoch")
            columns = [c for c in metrics if belongs(c) and any((v or 0) > 0 for v in metrics[c])]
            for k, column in enumerate(columns):
                values = metrics[column]
                rows = [n for n, value in enumerate(values) if value is not None and value > 0]
                x = [steps[n] if steps is not None and steps[n] is not None else n for n in rows]
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "lines" if len(rows) > 1 else "markers",
                        "name": column if len(runs) == 1 else f"{run.name}: {column}",
                        "x": x,
                        "y": [values[n] for n in rows],
                        "line": {
                            "color": color(k if len(runs) == 1 else i),
                            "width": 1.8 if "valid" in column or "val" in column else 1.2,
                            "dash": "solid" if len(runs) == 1 or k == 0 else "dot",
                        },
                        "hovertemplate": "step %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
                    }
                )
        if traces:
            drawn = [value for trace in traces for value in trace["y"]]
            scale = log_scale(min(drawn), max(drawn))
            layout = {"xaxis": axis("step"), "yaxis": axis(label, **scale), "showlegend": True}
            figures.append(Figure(title, "From metrics.csv.", traces, layout))
    return figures
