"""Figures as plain data for Plotly.newPlot.

Colours are names that the page's script replaces by those of the light or the dark theme: ``$run0`` …
for the runs, ``$reference``, ``$ink``, ``$soft``, ``$grid``; ``$run0/0.2`` is the colour at that opacity.
Axes state their unit; titles live in the page, not in the figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kinetograph.report.record import RunRecord

Json = dict[str, Any]
N_COLORS = 6
MAX_PARITY_POINTS = 4000


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


def parity(runs: list[RunRecord]) -> Figure | None:
    """Predicted against reference force components."""
    traces: list[Json] = []
    shown = [(i, run, errors_of(run)) for i, run in enumerate(runs)]
    shown = [(i, run, errors) for i, run, errors in shown if errors and errors.get("parity_sample")]
    if not shown:
        return None
    top = 0.0
    for i, run, errors in shown:
        assert errors is not None
        sample = errors["parity_sample"]
        x, y = sample["reference_eV_per_A"], sample["predicted_eV_per_A"]
        top = max([top, *(abs(v) for v in x), *(abs(v) for v in y)])
        elements = sample.get("element") or [run.name] * len(x)
        groups = sorted(set(elements)) if len(shown) == 1 else [None]
        stride = max(1, math.ceil(len(x) * len(shown) / MAX_PARITY_POINTS))
        for k, group in enumerate(groups):
            chosen = [n for n in range(0, len(x), stride) if group is None or elements[n] == group]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": run.name if group is None else group,
                    "x": [x[n] for n in chosen],
                    "y": [y[n] for n in chosen],
                    "marker": {"size": 3.5, "color": color(i + k), "opacity": 0.45, "line": {"width": 0}},
                    "hovertemplate": "reference %{x:.4f}<br>predicted %{y:.4f} eV/Å",
                }
            )
    layout = _square(traces, -top, top, "force component", "eV/Å")
    caption = (
        "Each point is one Cartesian component of the force on one atom, a random sample of the test set."
    )
    return Figure("Predicted against reference forces", caption, traces, layout, 400)


def energy_parity(runs: list[RunRecord]) -> Figure | None:
    """Predicted against reference energies per atom, less those of the elements."""
    traces: list[Json] = []
    for i, run in enumerate(runs):
        sample = (errors_of(run) or {}).get("energy_parity_sample")
        if not sample:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": run.name,
                "x": sample["reference_eV_per_atom"],
                "y": sample["predicted_eV_per_atom"],
                "customdata": sample["frame"],
                "marker": {"size": 5, "color": color(i), "opacity": 0.55, "line": {"width": 0}},
                "hovertemplate": "reference %{x:.5f}<br>predicted %{y:.5f} eV/atom<br>frame %{customdata}",
            }
        )
    if not traces:
        return None
    values = [value for trace in traces for key in ("x", "y") for value in trace[key]]
    layout = _square(traces, min(values), max(values), "energy", "eV/atom")
    caption = (
        "Each point is one structure, its energy per atom less that of its elements: "
        "one number an element, the best fit to the reference energies."
    )
    return Figure("Predicted against reference energies", caption, traces, layout, 400)


def _square(traces: list[Json], low: float, high: float, quantity: str, unit: str) -> Json:
    """The layout of a parity plot of values from ``low`` to ``high``; the diagonal is added to the traces."""
    margin = 0.025 * (high - low) or 0.01 * abs(high) or 1.0
    ends = [low - margin, high + margin]
    line = {"x": ends, "y": ends, "mode": "lines", "type": "scatter", "name": "equal"}
    traces.append(
        {**line, "line": {"color": "$reference", "width": 1}, "hoverinfo": "skip", "showlegend": False}
    )
    limits = {"range": ends, "zeroline": False, "constrain": "domain"}
    return {
        "xaxis": axis(f"reference {quantity}, {unit}", **limits),
        "yaxis": axis(f"predicted, {unit}", **limits, scaleanchor="x"),
        "showlegend": len(traces) > 2,
    }


def cosines(runs: list[RunRecord]) -> Figure | None:
    """Share of atoms whose cosine lies above a value, over one minus the cosine on a logarithmic axis."""
    traces: list[Json] = []
    for i, run in enumerate(runs):
        histogram = (errors_of(run) or {}).get("cosine_histogram")
        if not histogram or not sum(histogram["counts"]):
            continue
        edges, counts = histogram["one_minus_cosine_edges"], histogram["counts"]
        total, reached, x, y = sum(counts), 0, [], []
        for edge, count in zip(edges[1:], counts, strict=True):
            reached += count
            x.append(edge)
            y.append(reached / total)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": run.name,
                "x": x,
                "y": y,
                "customdata": [1.0 - value for value in x],
                "line": {"color": color(i), "width": 2},
                "fill": "tozeroy" if len(runs) == 1 else "none",
                "fillcolor": color(i, 0.1),
                "hovertemplate": "%{y:.2%} of atoms above %{customdata:.6f}<extra>%{fullData.name}</extra>",
            }
        )
    if not traces:
        return None
    marks = [(0.96, "0.96"), (0.995, "0.995")]
    first = max(1e-7, min(x for t in traces for x, y in zip(t["x"], t["y"], strict=True) if y > 0.001))
    ticks = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    labels = ["1−10⁻⁷", "1−10⁻⁶", "1−10⁻⁵", "0.9999", "0.999", "0.99", "0.9", "0"]
    layout = {
        "xaxis": axis(
            "cosine of the angle between them",
            type="log",
            range=[math.log10(2.0), math.log10(first) - 0.2],
            tickvals=ticks,
            ticktext=labels,
            tickangle=0,
            tickfont={"size": 11},
        ),
        "yaxis": axis("share of atoms above", tickformat=".0%", range=[0, 1.04]),
        "shapes": [
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": 1 - value,
                "x1": 1 - value,
                "y0": 0,
                "y1": 1,
                "line": {"color": "$soft", "width": 1, "dash": "dot"},
            }
            for value, _ in marks
        ],
        "annotations": [
            {
                "x": math.log10(1 - value),
                "y": 0.02,
                "xref": "x",
                "yref": "paper",
                "text": text,
                "showarrow": False,
                "xanchor": "left" if value > 0.99 else "right",
                "yanchor": "bottom",
                "font": {"size": 11, "color": "$soft"},
            }
            for value, text in marks
        ],
        "showlegend": len(traces) > 1,
    }
    caption = (
        "Share of atoms whose force points within a given angle of the reference; dotted: 0.96 and 0.995."
    )
    return Figure("Direction of the forces", caption, traces, layout, 400)


def radial(runs: list[RunRecord], pair: str, kind: str) -> Figure | None:
    """g(r) of one pair of elements: every run over its reference, with 95 % bands."""
    traces: list[Json] = []
    reference_done = False
    for i, run in enumerate(runs):
        analysis = run.analysis or {}
        for side in ("reference", "run"):
            rdf = find_rdf(analysis.get(side), pair, kind)
            if rdf is None or (side == "reference" and reference_done):
                continue
            reference_done = reference_done or side == "reference"
            name = run.name if side == "run" else "reference"
            paint = color(i) if side == "run" else "$reference"
            band = rdf["band95"]
            if all(value is not None for value in band):
                upper = [g + b for g, b in zip(rdf["g"], band, strict=True)]
                lower = [max(0.0, g - b) for g, b in zip(rdf["g"], band, strict=True)]
                shared: Json = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "legendgroup": name}
                shared |= {"showlegend": False, "hoverinfo": "skip", "x": rdf["r_A"], "name": f"{name}, band"}
                shade = color(i, 0.22) if side == "run" else "$reference/0.16"
                traces.append({**shared, "y": lower})
                traces.append({**shared, "y": upper, "fill": "tonexty", "fillcolor": shade})
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "legendgroup": name,
                    "x": rdf["r_A"],
                    "y": rdf["g"],
                    "line": {"color": paint, "width": 2 if side == "run" else 1.6}
                    | ({} if side == "run" else {"dash": "4px,3px"}),
                    "hovertemplate": "r = %{x:.2f} Å, g = %{y:.3f}<extra>%{fullData.name}</extra>",
                }
            )
    if not traces:
        return None
    layout = {
        "xaxis": axis("r, Å", rangemode="tozero"),
        "yaxis": axis("g(r)", rangemode="tozero"),
        "shapes": [_level(1.0)],
        "showlegend": len({trace["name"] for trace in traces if trace.get("hovertemplate")}) > 1,
    }
    where = "different molecules only" if kind == "intermolecular" else "all pairs of atoms"
    return Figure(f"{pair}", f"{where}; shaded: 95 % band of block averages", traces, layout, 300)


def temperature(runs: list[RunRecord]) -> Figure | None:
    """Temperature over time, with the spread that the canonical ensemble demands around the mean."""
    traces: list[Json] = []
    shapes: list[Json] = []
    for i, run in enumerate(runs):
        measured = (run.analysis or {}).get("run") or {}
        curves = measured.get("temperature_traces") or []
        traces += _time_traces(curves, "temperature_K", run.name, i, "K")
        numbers = measured.get("temperature")
        if curves and numbers and len(runs) == 1:
            spread = numbers["expected_standard_deviation"]
            box = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "layer": "below"}
            box |= {"y0": numbers["mean"] - spread, "y1": numbers["mean"] + spread, "line": {"width": 0}}
            shapes += [{**box, "fillcolor": "$reference/0.08"}, _level(numbers["mean"])]
    if not traces:
        return None
    layout = {
        "xaxis": axis("time, ps"),
        "yaxis": axis("temperature, K"),
        "shapes": shapes,
        "showlegend": len(runs) > 1,
    }
    caption = "Instantaneous kinetic temperature of every trajectory."
    if shapes:
        caption += " Dotted: mean; shaded: ± √(2/n) T, the canonical spread for n degrees of freedom."
    return Figure("Temperature", caption, traces, layout)


def cold_start(runs: list[RunRecord]) -> Figure | None:
    """Kinetic energy per atom from a cold start, run and reference aligned in time."""
    traces: list[Json] = []
    reference_done = False
    for i, run in enumerate(runs):
        for n, comparison in enumerate((run.analysis or {}).get("cold_starts") or []):
            curves = [("run", comparison["kinetic_energy_eV_per_atom"])]
            if not reference_done:
                curves.insert(0, ("reference", comparison["reference_kinetic_energy_eV_per_atom"]))
            for side, values in curves:
                name = run.name if side == "run" else "reference"
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "name": name,
                        "legendgroup": name,
                        "showlegend": n == 0,
                        "x": comparison["time_ps"],
                        "y": values,
                        "line": {"color": color(i), "width": 2}
                        if side == "run"
                        else {"color": "$reference", "width": 1.6, "dash": "4px,3px"},
                        "hovertemplate": "%{x:.3f} ps: %{y:.5f} eV<extra>%{fullData.name}</extra>",
                    }
                )
        reference_done = reference_done or bool(traces)
    if not traces:
        return None
    layout = {"xaxis": axis("time, ps"), "yaxis": axis("kinetic energy, eV per atom", rangemode="tozero")}
    return Figure(
        "Kinetic energy from a cold start", "Run and reference aligned at their first frames.", traces, layout
    )


def kinetic_energy(runs: list[RunRecord]) -> Figure | None:
    """Kinetic energy over time, where no cold start can be compared."""
    traces: list[Json] = []
    for i, run in enumerate(runs):
        measured = (run.analysis or {}).get("run") or {}
        traces += _time_traces(
            measured.get("kinetic_energy_traces") or [], "kinetic_energy_eV", run.name, i, "eV"
        )
    if not traces:
        return None
    layout = {"xaxis": axis("time, ps"), "yaxis": axis("kinetic energy, eV"), "showlegend": len(runs) > 1}
    return Figure("Kinetic energy", "Of every trajectory.", traces, layout)


def force_magnitudes(runs: list[RunRecord], element: str) -> Figure | None:
    """How often forces on one element have which size, in the trajectories."""
    traces: list[Json] = []
    reference_done = False
    for i, run in enumerate(runs):
        for histogram in (run.analysis or {}).get("force_magnitudes") or []:
            if histogram["element"] != element:
                continue
            if histogram.get("reference_counts") and not reference_done:
                reference_done = True
                shape = {"color": "$reference", "width": 1.6, "shape": "hvh", "dash": "4px,3px"}
                traces.append(_density(histogram, "reference_counts", "reference", {"line": shape}))
            style = {
                "line": {"color": color(i), "width": 2, "shape": "hvh"},
                "fill": "tozeroy",
                "fillcolor": color(i, 0.12),
            }
            traces.append(_density(histogram, "counts", run.name, style))
    if not traces:
        return None
    layout = {
        "xaxis": axis("|F|, eV/Å", rangemode="tozero"),
        "yaxis": axis("density, Å/eV", rangemode="tozero"),
    }
    return Figure(
        f"{element}", "in the trajectories; the last bin holds all larger forces", traces, layout, 300
    )


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
            layout = {"xaxis": axis("step"), "yaxis": axis(label, type="log"), "showlegend": True}
            figures.append(Figure(title, "From metrics.csv.", traces, layout))
    return figures


def errors_of(run: RunRecord) -> Json | None:
    """The errors of an evaluation, on their own or under ``errors``."""
    if run.evaluation is None:
        return None
    inner = run.evaluation.get("errors")
    return inner if isinstance(inner, dict) else run.evaluation


def find_rdf(runs: Json | None, pair: str, kind: str) -> Json | None:
    for rdf in (runs or {}).get("rdf") or []:
        if rdf["pair"] == pair and rdf["kind"] == kind:
            return dict(rdf)
    return None


def _time_traces(curves: list[Json], key: str, name: str, index: int, unit: str) -> list[Json]:
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "legendgroup": name,
            "showlegend": n == 0,
            "x": curve["time_ps"],
            "y": curve[key],
            "line": {"color": color(index), "width": 1.1},
            "opacity": 1.0 if len(curves) == 1 else max(0.35, 0.9 - 0.2 * n),
            "hovertemplate": f"%{{x:.3f}} ps: %{{y:.5g}} {unit}<extra>{name}, {curve['name']}</extra>",
        }
        for n, curve in enumerate(curves)
    ]


def _density(histogram: Json, key: str, name: str, style: Json) -> Json:
    edges, counts = histogram["edges_eV_per_A"], histogram[key]
    total = max(1, sum(counts))
    width = edges[1] - edges[0]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [0.5 * (a + b) for a, b in pairwise(edges)],
        "y": [count / (total * width) for count in counts],
        "hovertemplate": "|F| = %{x:.3f} eV/Å<extra>%{fullData.name}</extra>",
        **style,
    }


def _level(value: float) -> Json:
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
