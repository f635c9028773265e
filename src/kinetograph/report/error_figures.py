"""Figures of an evaluation: predictions against a reference, and a model's own word on its errors."""

from __future__ import annotations

import math
from typing import Any

from kinetograph.report.figure import Figure, axis, color, log_scale
from kinetograph.report.record import RunRecord

Json = dict[str, Any]
MAX_PARITY_POINTS = 4000


def parity(runs: list[RunRecord]) -> Figure | None:
    """Predicted against reference force components."""
    traces: list[Json] = []
    shown = [(i, run, run.errors) for i, run in enumerate(runs)]
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
        sample = (run.errors or {}).get("energy_parity_sample")
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
        histogram = (run.errors or {}).get("cosine_histogram")
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


def spread(runs: list[RunRecord]) -> Figure | None:
    """How far the members of an ensemble are apart against how far their mean is off, atom for atom."""
    traces: list[Json] = []
    for i, run in enumerate(runs):
        bins = (run.errors or {}).get("force_std_bins")
        if not bins:
            continue
        pairs = zip(bins["force_std_eV_per_A"], bins["force_error_eV_per_A"], strict=True)
        shown = [(1000.0 * std, 1000.0 * error) for std, error in pairs if std > 0.0 and error > 0.0]
        if not shown:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": run.name,
                "x": [std for std, _ in shown],
                "y": [error for _, error in shown],
                "line": {"color": color(i), "width": 2},
                "marker": {"color": color(i), "size": 8},
                "hovertemplate": "spread %{x:.3g}<br>error %{y:.3g} meV/Å<extra>%{fullData.name}</extra>",
            }
        )
    if not traces:
        return None
    values = [value for trace in traces for key in ("x", "y") for value in trace[key]]
    ends = [min(values) / 1.3, max(values) * 1.3]
    diagonal: Json = {"x": ends, "y": ends, "mode": "lines", "type": "scatter", "name": "equal"}
    diagonal |= {"line": {"color": "$reference", "width": 1}, "hoverinfo": "skip", "showlegend": False}
    limits: Json = {"range": [math.log10(end) for end in ends], "constrain": "domain"}
    limits |= log_scale(*ends)
    layout = {
        "xaxis": axis("spread of the members, meV/Å", **limits),
        "yaxis": axis("error of their mean, meV/Å", **limits, scaleanchor="x"),
        "showlegend": len(traces) > 1,
    }
    caption = (
        "Each point is a tenth of the atoms, in the order of their spread; root mean squares. "
        "On the line the spread is as large as the error; above it the ensemble is too sure of itself."
    )
    return Figure("Predicted uncertainty against actual error", caption, [*traces, diagonal], layout, 400)
