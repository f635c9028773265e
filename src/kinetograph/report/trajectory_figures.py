"""Figures of trajectories: structure, temperature, energies, sizes of forces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from kinetograph.report.figure import Figure, axis, color, level
from kinetograph.report.record import RunRecord

Json = dict[str, Any]


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
        "shapes": [level(1.0)],
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
            shapes += [{**box, "fillcolor": "$reference/0.08"}, level(numbers["mean"])]
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
