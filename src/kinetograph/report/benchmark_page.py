"""The page of a folder of benchmarks: tables and plots of the rows, as the command wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kinetograph.errors import UserError
from kinetograph.report.figure import N_COLORS, Figure, axis, color
from kinetograph.report.html import Page, facts_table, table

Json = dict[str, Any]
TITLE = "Benchmarks"
TITLES = {
    "step": "Force calls and whole steps",
    "peers": "Beside other programs",
    "neighbors": "Neighbour lists",
    "scaling": "Growth with the number of atoms",
    "memory": "Memory",
    "train": "Training",
}
COLUMNS = {"case", "variant", "precision", "n_atoms", "n_edges", "median_s", "speedup", "against"}
SHARES = {"force_share": "forces", "neighbor_share": "neighbour list", "integrator_share": "all else"}


def write_benchmark_page(path: Path, sources: Sequence[Path], *, overwrite: bool = False) -> Path:
    """Write one page of all the benchmarks in a folder.

    Args:
        path: the page.
        sources: files of rows; others are passed over.
        overwrite: replace a page that exists.

    Raises:
        UserError: none of the files holds rows, or the page exists and ``overwrite`` is off.
    """
    found = [data for source in sources if (data := _read(source))]
    if not found:
        raise UserError("no benchmark was found", where=str(path.parent), mend="Run one first.")
    page = Page(TITLE)
    for kind, title in TITLES.items():
        for data in found:
            if data["benchmark"] == kind:
                page.section(title, kind, lambda data=data: _section(page, data))  # type: ignore[misc]
    return page.write(path, overwrite)


def is_benchmark_page(path: Path) -> bool:
    """Whether a file is a page of this kind."""
    try:
        return f"<title>{TITLE} · Kinetograph</title>" in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _read(source: Path) -> Json | None:
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("benchmark") not in TITLES or not data.get("rows"):
        return None
    ours = all(isinstance(row, dict) and row.keys() >= COLUMNS for row in data["rows"])
    return data if ours and isinstance(data.get("machine"), dict) else None


def _section(page: Page, data: Json) -> None:
    rows = data["rows"]
    is_of_peers = data["benchmark"] == "peers"
    page.add_figures([_speedups(rows, is_of_peers), _shares(rows), _growth(rows), _memory(rows)])
    page.add(_table(rows, "time over ours" if is_of_peers else "speed-up"))
    page.add(facts_table(data["machine"]))


def _speedups(rows: list[Json], is_of_peers: bool) -> Figure | None:
    """Bars of the times of each case's variants."""
    timed = [r for r in rows if r["speedup"] is not None]
    if not timed:
        return None
    cases = list(dict.fromkeys(_label(r, timed) for r in timed))
    traces: list[Json] = []
    for k, variant in enumerate(dict.fromkeys(r["variant"] for r in timed)):
        own = {_label(r, timed): r for r in timed if r["variant"] == variant}
        traces.append(
            {
                "type": "bar",
                "name": variant,
                "x": [case for case in cases if case in own],
                "y": [1e3 * own[case]["median_s"] for case in cases if case in own],
                "text": [_times(own[case]["speedup"]) for case in cases if case in own],
                "textposition": "outside",
                # Colours come round again: then with stripes.
                "marker": {"color": color(k), "pattern": {"shape": "/" if k >= N_COLORS else ""}},
                "hovertemplate": "%{x}<br>%{y:.3g} ms, %{text}",
            }
        )
    layout = {
        "barmode": "group",
        "xaxis": axis(""),
        "yaxis": axis("time of a call, ms", type="log"),
    }
    against = " or ".join(sorted({r["against"] for r in timed}))
    caption = f"Median time; above the bars how many times faster than {against}, in the same turns."
    if is_of_peers:
        caption = f"Median time; above the bars over that of our {against} form, in the same turns."
    return Figure("Time of a call", caption, traces, layout, 380)


def _times(ratio: float) -> str:
    return f"{ratio:{'.2g' if ratio < 99.0 else '.0f'}}×"


def _label(row: Json, rows: list[Json]) -> str:
    several = len({r["n_atoms"] for r in rows if r["case"] == row["case"]}) > 1
    return f"{row['case']}, {row['n_atoms']:,} atoms" if several else str(row["case"])


def _shares(rows: list[Json]) -> Figure | None:
    """What a whole step is made of."""
    whole = [r for r in rows if "force_share" in r]
    if not whole:
        return None
    traces: list[Json] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [_label(r, whole) for r in whole],
            "x": [100.0 * max(0.0, r[key]) for r in whole],
            "marker": {"color": color(k)},
            "hovertemplate": "%{y}: %{x:.1f} %",
        }
        for k, (key, name) in enumerate(SHARES.items())
    ]
    layout = {
        "barmode": "stack",
        "xaxis": axis("share of a step, %"),
        "yaxis": axis("", autorange="reversed"),
    }
    return Figure(
        "What a step is made of",
        "Velocity Verlet at 300 K with a skin, guards on: forces with their graph, the list where it is made "
        "anew, and integrator, guards and loop together.",
        traces,
        layout,
        120 + 26 * len(whole),
    )


def _growth(rows: list[Json]) -> Figure | None:
    """Time against size."""
    traces: list[Json] = []
    for k, case in enumerate(dict.fromkeys(r["case"] for r in rows)):
        own = [r for r in rows if r["case"] == case and "force_share" in r]
        if len({r["n_atoms"] for r in own}) < 2:
            continue
        exponent = next((r["exponent"] for r in own if "exponent" in r), None)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": case if exponent is None else f"{case}: atoms^{exponent:.2f}",
                "x": [r["n_atoms"] for r in own],
                "y": [1e3 * r["median_s"] for r in own],
                "line": {"color": color(k)},
                "hovertemplate": "%{x} atoms: %{y:.3g} ms",
            }
        )
    if not traces:
        return None
    layout = {"xaxis": axis("atoms", type="log"), "yaxis": axis("time of a step, ms", type="log")}
    return Figure("Whole step against size", "Both axes are logarithmic.", traces, layout)


def _memory(rows: list[Json]) -> Figure | None:
    own = [r for r in rows if "kB_per_atom" in r]
    if not own:
        return None
    traces: list[Json] = [
        {
            "type": "bar",
            "x": [r["case"] for r in own],
            "y": [r["kB_per_atom"] for r in own],
            "marker": {"color": color(0)},
            "hovertemplate": "%{x}: %{y:.3g} kB",
        }
    ]
    layout = {"xaxis": axis(""), "yaxis": axis("peak memory, kB per atom", type="log")}
    return Figure("Memory of a step", "What the peak grows by for each atom.", traces, layout)


def _table(rows: list[Json], gain: str) -> str:
    fields: dict[str, tuple[str, Callable[[Any], str]]] = {
        "case": ("case", lambda v: escape(str(v))),
        "variant": ("variant", lambda v: escape(str(v))),
        "precision": ("precision", lambda v: escape(str(v))),
        "n_atoms": ("atoms", lambda v: f"{v:,}"),
        "n_edges": ("edges", lambda v: f"{v:,}"),
        "median_s": ("ms", in_ms),
        "speedup": (gain, lambda v: f"{v:.2f}×"),
        "fraction_of_peak": ("of peak", lambda v: f"{100.0 * v:.0f} %"),
        "relative_error": ("error of forces", lambda v: f"{v:.1e}"),
        "force_call_s": ("force call alone, ms", in_ms),
        "new_list_s": ("new list, ms", in_ms),
        "ns_per_day": ("ns/day", lambda v: f"{v:.3g}"),
        "kB_per_atom": ("kB per atom", lambda v: f"{v:.3g}"),
        "energy_eV": ("energy, eV", lambda v: f"{v:.5g}"),
        "computes": ("what", lambda v: escape(str(v))),
        "version": ("version", lambda v: escape(str(v))),
    }
    used = [key for key in fields if any(row.get(key) is not None for row in rows)]
    body = [[fields[key][1](row[key]) if row.get(key) is not None else "" for key in used] for row in rows]
    return table([fields[key][0] for key in used], body)


def in_ms(seconds: float) -> str:
    """Milliseconds to three digits, and whole ones from a second on."""
    return f"{1e3 * seconds:.3g}" if seconds < 0.9995 else f"{1e3 * seconds:,.0f}"
