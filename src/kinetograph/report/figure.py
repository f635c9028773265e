"""Figures as plain data for Plotly.newPlot.

Colours are names that the page's script replaces by those of the light or the dark theme: ``$run0`` …
for the runs, ``$reference``, ``$ink``, ``$soft``, ``$grid``; ``$run0/0.2`` is the colour at that opacity.
Axes state their unit; titles live in the page, not in the figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
N_COLORS = 6


@dataclass(frozen=True)
class Figure:
    """One figure and the words around it."""

    title: str
    caption: str
    traces: list[Json]
    layout: Json
    height: int = 340

    def to_json(self) -> Json:
        return {"traces": self.traces, "layout": self.layout, "height": self.height}


def color(index: int, opacity: float | None = None) -> str:
    name = f"$run{index % N_COLORS}"
    return name if opacity is None else f"{name}/{opacity:g}"


def axis(title: str, **more: Any) -> Json:
    return {"title": {"text": title}, **more}


def log_scale(low: float, high: float) -> Json:
    """A logarithmic axis: labels at 1, 2 and 5 of every decade, of many decades at 1 alone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(decades) <= 4 else (1,)
    values = [digit * 10.0**power for power in decades for digit in digits]
    return {"type": "log", "tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def level(value: float) -> Json:
    """A dotted line across the plot."""
    line = {"color": "$soft", "width": 1, "dash": "dot"}
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y",
        "y0": value,
        "y1": value,
        "line": line,
        "layer": "below",
    }
