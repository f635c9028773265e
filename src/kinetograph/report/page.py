"""The pages: HTML around tables, figures and the 3D view, in one file that needs no network."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from html import escape
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from kinetograph.errors import UserError
from kinetograph.report import figures
from kinetograph.report.figures import Figure, errors_of
from kinetograph.report.record import RunRecord

Json = dict[str, Any]

# The page may run its own scripts and styles and show images made on the spot; nothing may be fetched.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)

CLOSING = "This page holds all of its data and scripts and needs no network. It includes"

LOGO = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7" aria-hidden="true">'
    '<path d="M5.5 17.5 12 6l6.5 9.5z"/><g fill="currentColor" stroke="none"><circle cx="12" cy="5.6" r="3"/>'
    '<circle cx="5.2" cy="18" r="3"/><circle cx="18.8" cy="16" r="2.4"/></g></svg>'
)


@dataclass(frozen=True)
class Quantity:
    """How one number of a summary is shown."""

    label: str
    unit: str
    factor: float = 1.0
    digits: int = 4
    """Significant digits where no error is known."""
    error_key: str | None = None
    note: str = ""


QUANTITIES = {
    "force_mae_eV_per_A": Quantity("Force MAE", "meV/Å", 1000.0, 3, note="per component"),
    "force_rmse_eV_per_A": Quantity("Force RMSE", "meV/Å", 1000.0, 3, note="per component"),
    "relative_error": Quantity("Relative force error", "%", 100.0, 3, note="Σ|ΔF| / Σ|F|"),
    "cosine_mean": Quantity("Mean force cosine", "", 1.0, 5),
    "cosine_p05": Quantity("5th percentile of cosine", "", 1.0, 5),
    "cosine_share_above_0.96": Quantity("Cosine above 0.96", "%", 100.0, 4, note="share of atoms"),
    "cosine_share_above_0.995": Quantity("Cosine above 0.995", "%", 100.0, 4, note="share of atoms"),
    "rdf_mae": Quantity("Mean |Δg(r)|", "", 1.0, 2, note="against the reference"),
    "temperature_K": Quantity("Temperature", "K", 1.0, 4, "temperature_error_K", "± standard error"),
    "reference_temperature_K": Quantity(
        "Reference temperature", "K", 1.0, 4, "reference_temperature_error_K", "± standard error"
    ),
    "temperature_std_K": Quantity("Temperature spread", "K", 1.0, 3, note="standard deviation"),
    "temperature_std_expected_K": Quantity("Expected spread", "K", 1.0, 3, note="canonical ensemble"),
    "cold_start_kinetic_energy_deviation": Quantity(
        "Cold start, kinetic energy", "%", 100.0, 2, note="mean deviation"
    ),
    "force_magnitude_total_variation": Quantity("Force sizes, total variation", "", 1.0, 2),
    "ns_per_day": Quantity("Speed", "ns/day", 1.0, 3),
}
TILES = (
    "force_mae_eV_per_A",
    "relative_error",
    "cosine_mean",
    "cosine_share_above_0.995",
    "rdf_mae",
    "temperature_K",
    "ns_per_day",
)


def write_report(
    path: Path | str, runs: Sequence[RunRecord], *, title: str | None = None, overwrite: bool = False
) -> Path:
    """Write one page about one run, or comparing several.

    Raises:
        UserError: there are no runs, or the file exists and ``overwrite`` is off, or cannot be written.
    """
    if not runs:
        raise UserError("no runs were given", mend="Name at least one run folder.")
    named = _distinct(list(runs))
    page = _Page(title or (named[0].name if len(named) == 1 else f"{len(named)} runs side by side"))
    page.lede = _facts_line(named)
    page.add_tiles(named) if len(named) == 1 else page.add_comparison(named)
    page.section("Trajectory", "trajectory", lambda: _trajectory(page, named))
    page.section("Forces", "forces", lambda: _forces(page, named))
    page.section("Structure", "structure", lambda: _structure(page, named))
    page.section("Dynamics", "dynamics", lambda: _dynamics(page, named))
    page.section("Training", "training", lambda: _training(page, named))
    page.section("What was run", "provenance", lambda: _provenance(page, named))
    return page.write(path, overwrite)


def write_evaluation_page(
    path: Path | str,
    evaluation: Json,
    *,
    title: str = "Force evaluation",
    facts: Json | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a small page: the error table, the parity plot and the cosines.

    Args:
        path: the page.
        evaluation: ``ForceErrors.to_json()``, on its own or under ``errors``.
        title: the heading.
        facts: what was evaluated on what (model, data …), shown as a table.
        overwrite: replace a page that exists.

    Raises:
        UserError: the file exists and ``overwrite`` is off, or cannot be written.
    """
    run = RunRecord(name="model", folder=Path(path).parent, evaluation=evaluation)
    page = _Page(title)
    errors = errors_of(run) or {}
    if "n_atoms" in errors:
        page.lede = (
            f"{errors['n_atoms']:,} atoms compared, {', '.join(errors.get('per_element', {}))}".rstrip(", ")
        )
    page.add_tiles([run])
    page.section("Forces", "forces", lambda: _forces(page, [run]))
    if facts:
        page.section("What was run", "provenance", lambda: page.add(_facts_table(facts)))
    return page.write(path, overwrite)


# ------------------------------------------------------------------------------------------------- sections


def _trajectory(page: _Page, runs: list[RunRecord]) -> None:
    shown = [run for run in runs if run.scene is not None]
    if not shown:
        return
    page.add('<div class="grid">')
    for run in shown:
        scene = run.scene
        assert scene is not None
        index = len(page.scenes)
        page.scenes.append(scene.to_json())
        n_frames, n_atoms = scene.positions.shape[:2]
        span = f"{scene.times_ps[-1]:.4g} ps" if n_frames > 1 else "one frame"
        what = escape(run.name if len(runs) > 1 else run.trajectory_name or "trajectory")
        page.add(
            f'<figure class="card {"wide" if len(shown) == 1 else ""}" id="scene-{index}"><h3>{what}</h3>'
            f"<figcaption>{n_atoms:,} atoms, {n_frames} frames over {span}; molecules are kept whole. "
            "Drag to turn; click, then scroll, to zoom.</figcaption>"
            '<div class="stage" role="img" aria-label="3D view of the trajectory"></div>'
            '<div class="controls"><button type="button" aria-pressed="false">Play</button>'
            f'<input type="range" min="0" max="{n_frames - 1}" value="0" step="1" aria-label="frame">'
            '<output>0 ps</output></div><div class="legend"></div></figure>'
        )
    page.add("</div>")


def _forces(page: _Page, runs: list[RunRecord]) -> None:
    tables = [(i, run, errors) for i, run in enumerate(runs) if (errors := errors_of(run)) is not None]
    if not tables:
        return
    first = tables[0][2]
    mean = first.get("mean_force_eV_per_A")
    known = f" Mean |F| of the reference is {_significant(mean, 3)} eV/Å." if _is_number(mean) else ""
    page.add(f'<p class="intro">Predicted forces against the reference on held-out frames.{known}</p>')
    head = [
        "",
        "Atoms",
        "MAE<small>meV/Å</small>",
        "RMSE<small>meV/Å</small>",
        "Relative error<small>%</small>",
    ]
    head += [
        "Mean cosine",
        "5th percentile",
        "cos &gt; 0.96<small>%</small>",
        "cos &gt; 0.995<small>%</small>",
    ]
    rows = []
    for i, run, errors in tables:
        elements = errors.get("per_element") or {}
        only = f" <small>{escape(next(iter(elements)))}</small>" if len(elements) == 1 else ""
        name = (f"{_swatch(i)}{escape(run.name)}" if len(runs) > 1 else "All atoms") + only
        rows.append([name, *_error_cells(errors)])
        if len(elements) > 1:
            mark = "— " if len(runs) > 1 else ""
            rows += [
                [f"<small>{mark}{escape(element)}</small>", *_error_cells(numbers)]
                for element, numbers in elements.items()
            ]
    page.add(_table(head, rows))
    page.add_figures([figures.parity(runs), figures.cosines(runs)])


def _error_cells(errors: Json) -> list[str]:
    keys = ["force_mae_eV_per_A", "force_rmse_eV_per_A", "relative_error", "cosine_mean", "cosine_p05"]
    keys += ["cosine_share_above_0.96", "cosine_share_above_0.995"]
    n_atoms = errors.get("n_atoms")
    cells = [f"{n_atoms:,}" if isinstance(n_atoms, int) else "–"]
    return cells + [_value(key, errors, unit=False) for key in keys]


def _structure(page: _Page, runs: list[RunRecord]) -> None:
    found = [rdf for run in runs for rdf in ((run.analysis or {}).get("run") or {}).get("rdf") or []]
    keys = list(dict.fromkeys((rdf["pair"], rdf["kind"]) for rdf in found))
    if not keys:
        return
    page.add(
        '<p class="intro">Radial distribution functions g(r): how often two atoms are a distance r apart, '
        "relative to an ideal gas of the same density. Dashed: the reference.</p>"
    )
    rows = []
    for i, run in enumerate(runs):
        analysis = run.analysis or {}
        for comparison in analysis.get("rdf_comparisons") or []:
            own = figures.find_rdf(analysis.get("run"), comparison["pair"], comparison["kind"]) or {}
            other = figures.find_rdf(analysis.get("reference"), comparison["pair"], comparison["kind"]) or {}
            rows.append(
                ([f"{_swatch(i)}{escape(run.name)}"] if len(runs) > 1 else [])
                + [f"{escape(comparison['pair'])} <small>{escape(comparison['kind'])}</small>"]
                + [_significant(comparison["mae"], 2), _significant(comparison["mean_band95"], 2)]
                + [f"{_percent(comparison['share_within_band'])}"]
                + _peak_cells(own, other, "position_A", comparison["peak_position_relative_difference"])
                + _peak_cells(own, other, "height", comparison["peak_height_relative_difference"])
            )
    if rows:
        head = (["Run"] if len(runs) > 1 else []) + [
            "Pair",
            '<span class="nb">Mean |Δg|</span>',
            "95 % band<small>mean</small>",
        ]
        head += ["Bins in band<small>%</small>", "First peak, Å<small>below: reference</small>"]
        head += ["Difference<small>%</small>", "Peak height<small>below: reference</small>"]
        head += ["Difference<small>%</small>"]
        page.add(_table(head, rows))
    headline = [key for key in keys if key[1] == "intermolecular"] or keys
    page.add_figures([figures.radial(runs, *key) for key in headline], third=len(headline) >= 3)
    # where no molecule holds such a pair, the two kinds are one curve
    curves = {(rdf["pair"], rdf["kind"]): rdf["g"] for rdf in found}
    others = [
        key for key in keys if key not in headline and curves[key] != curves.get((key[0], "intermolecular"))
    ]
    if others:
        page.add('<h3 style="margin:26px 0 12px">All pairs, those inside a molecule included</h3>')
        page.add_figures([figures.radial(runs, *key) for key in others], third=len(headline) >= 3)


def _peak_cells(own: Json, other: Json, key: str, difference: float | None) -> list[str]:
    """The run above the reference in one cell, and their relative difference in the next."""

    def cell(rdf: Json) -> str:
        peak = rdf.get("first_peak")
        error = f"{key.removesuffix('_A')}_error" + ("_A" if key.endswith("_A") else "")
        return _with_error(peak[key], peak[error]) if peak else "–"

    change = f"{100 * difference:+.1f}".replace("-", "−") if _is_number(difference) else "–"
    return [f'{cell(own)}<small class="below">{cell(other)}</small>', change]


def _dynamics(page: _Page, runs: list[RunRecord]) -> None:
    rows = []
    for i, run in enumerate(runs):
        for side in ("run", "reference"):
            measured = (run.analysis or {}).get(side) or {}
            numbers = measured.get("temperature")
            if not numbers:
                continue
            name = escape(run.name) if side == "run" and len(runs) > 1 else side.capitalize()
            rows.append(
                [
                    f"{_swatch(i) if side == 'run' else _swatch(None)}{name}",
                    _with_error(numbers["mean"], numbers["standard_error"]),
                    _significant(numbers["standard_deviation"], 3),
                    _significant(numbers["expected_standard_deviation"], 3),
                    f"{numbers['n_dof']:,}",
                    f"{numbers['n_independent']:,.0f}",
                    _significant(sum(measured.get("durations_ps") or [0.0]), 3),
                ]
            )
    plots = [figures.temperature(runs), figures.cold_start(runs) or figures.kinetic_energy(runs)]
    elements = [h["element"] for run in runs for h in (run.analysis or {}).get("force_magnitudes") or []]
    forces = [figures.force_magnitudes(runs, element) for element in dict.fromkeys(elements)]
    if not rows and not any(plots) and not forces:
        return
    if rows:
        head = ["", "Temperature<small>K, ± standard error</small>", "Spread<small>K</small>"]
        head += ["Canonical spread<small>K</small>", "Degrees of freedom", "Independent samples"]
        page.add(_table([*head, "Length<small>ps, all trajectories</small>"], rows))
    page.add_figures(plots)
    if any(forces):
        page.add('<h3 style="margin:26px 0 12px">Sizes of the forces along the trajectories</h3>')
        distances = [
            f"{escape(run.name)} {h['element']}: {_significant(h['total_variation'], 2)}"
            f" (two samples of one distribution: {_significant(h['total_variation_noise'], 2)})"
            for run in runs
            for h in (run.analysis or {}).get("force_magnitudes") or []
            if _is_number(h["total_variation"])
        ]
        if distances:
            page.add(
                f'<p class="intro">Total variation distance from the reference. {"; ".join(distances)}.</p>'
            )
        page.add_figures(forces, third=len(forces) >= 3)
    page.add_notes([note for run in runs for note in (run.analysis or {}).get("notes") or []])


def _training(page: _Page, runs: list[RunRecord]) -> None:
    page.add_figures(list(figures.training(runs)))


def _provenance(page: _Page, runs: list[RunRecord]) -> None:
    for i, run in enumerate(runs):
        if len(runs) > 1:
            page.add(f'<h3 style="margin:22px 0 8px">{_swatch(i)}{escape(run.name)}</h3>')
        facts: Json = {"run folder": str(run.folder.resolve())}
        analysis = (run.analysis or {}).get("run") or {}
        if analysis:
            box = (
                f", {_significant(analysis['density_g_per_cm3'], 4)} g/cm³"
                if _is_number(analysis.get("density_g_per_cm3"))
                else ""
            )
            facts["analysed"] = f"{analysis['n_atoms']:,} atoms of {_formula(analysis['formula'])}{box}"
        summary = run.summary or {}
        shown = set(QUANTITIES) | set(errors_of(run) or {}) | set((run.analysis or {}).get("summary") or {})
        facts |= {key: value for key, value in summary.items() if key not in shown}
        page.add(_facts_table(facts))
        if run.trajectory_metadata:
            name = escape(run.trajectory_name or "the trajectory")
            page.add(f"<details><summary>Provenance of {name}</summary>")
            page.add(_facts_table(run.trajectory_metadata))
            page.add("</details>")
        if run.config is not None:
            text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, width=100)
            page.add(f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>")
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        page.add_notes([prefix + sentence for sentence in run.missing])


# ----------------------------------------------------------------------------------------------------- page


@dataclass
class _Page:
    """Parts of a page, collected in order."""

    title: str
    lede: str = ""
    parts: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    figures: dict[str, Json] = field(default_factory=dict)
    scenes: list[Json] = field(default_factory=list)

    def add(self, html: str) -> None:
        self.parts.append(html)

    def section(self, title: str, anchor: str, fill: Callable[[], None]) -> None:
        """A section, left out where ``fill`` adds nothing."""
        before = len(self.parts)
        fill()
        if len(self.parts) > before:
            self.parts.insert(before, f'<section id="{anchor}"><h2>{escape(title)}</h2>')
            self.parts.append("</section>")
            self.links.append((anchor, title))

    def add_figures(self, chosen: Sequence[Figure | None], *, third: bool = False) -> None:
        present = [figure for figure in chosen if figure is not None]
        if not present:
            return
        kind = "wide" if len(present) == 1 else "third" if third else ""
        self.add('<div class="grid">')
        for figure in present:
            name = f"plot-{len(self.figures)}"
            self.figures[name] = figure.to_json()
            self.add(
                f'<figure class="card {kind}"><h3>{escape(figure.title)}</h3>'
                f"<figcaption>{escape(figure.caption)}</figcaption>"
                f'<div class="plot" id="{name}" style="min-height:{figure.height}px"></div></figure>'
            )
        self.add("</div>")

    def add_notes(self, sentences: Sequence[str]) -> None:
        if sentences:
            items = "".join(f"<li>{escape(sentence)}</li>" for sentence in dict.fromkeys(sentences))
            self.add(f'<ul class="notes">{items}</ul>')

    def add_tiles(self, runs: list[RunRecord]) -> None:
        """The numbers that a person asks for first, of one run."""
        numbers = _numbers(runs[0])
        tiles = []
        for key in TILES:
            if not _is_number(numbers.get(key)):
                continue
            quantity = QUANTITIES[key]
            note = f'<div class="note">{escape(quantity.note)}</div>' if quantity.note else ""
            unit = f"<small>{escape(quantity.unit)}</small>" if quantity.unit else ""
            value = _value(key, numbers, unit=False)
            tiles.append(
                f'<div class="tile"><div class="label">{escape(quantity.label)}</div>'
                f'<div class="value">{value}{unit}</div>{note}</div>'
            )
        if tiles:
            self.head.append(f'<div class="tiles">{"".join(tiles)}</div>')

    def add_comparison(self, runs: list[RunRecord]) -> None:
        """The same numbers of several runs, side by side."""
        numbers = [_numbers(run) for run in runs]
        rows = []
        for key, quantity in QUANTITIES.items():
            if any(_is_number(values.get(key)) for values in numbers):
                unit = f" <small>{escape(quantity.unit)}</small>" if quantity.unit else ""
                rows.append(
                    [f"{escape(quantity.label)}{unit}", *(_value(key, v, unit=False) for v in numbers)]
                )
        if rows:
            head = ["", *(f"{_swatch(i)}{escape(run.name)}" for i, run in enumerate(runs))]
            self.head.append(f'<div style="margin-top:26px">{_table(head, rows)}</div>')

    def write(self, path: Path | str, overwrite: bool) -> Path:
        path = Path(path)
        if path.exists() and not overwrite:
            raise UserError(
                "the output exists already", where=str(path), mend="Choose another name, or overwrite it."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(path.name + ".writing")
            temporary.write_text(self.html(), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise UserError(
                f"the page cannot be written: {error.strerror or error}", where=str(path)
            ) from error
        return path

    def html(self) -> str:
        links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in self.links)
        libraries = [_static("plotly-basic.min.js")] if self.figures else []
        licences = ["Plotly.js (MIT)"] if self.figures else []
        if self.scenes:
            libraries.append(_static("3Dmol-min.js"))
            licences.append("3Dmol.js (BSD-3-Clause)")
        scripts = "\n".join(f"<script>{text}</script>" for text in [*libraries, _static("page.js")])
        data = embedded_json({"figures": self.figures, "scenes": self.scenes})
        written = datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z")
        return "\n".join(
            [
                '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f'<link rel="icon" href="data:,"><title>{escape(self.title)} · Kinetograph</title>',
                f"<style>{_static('page.css')}</style></head><body>",
                f'<header class="top"><div class="eyebrow">{LOGO}<span>Kinetograph</span></div>',
                f"<h1>{escape(self.title)}</h1>",
                f'<p class="lede">{self.lede}</p>' if self.lede else "",
                *self.head,
                f"<nav>{links}</nav></header><main>" if links else "</header><main>",
                *self.parts,
                f"</main><footer><p>Written by Kinetograph {_own_version()} on {written}.",
                f"{CLOSING} {' and '.join(licences) or 'no library'}.</p></footer>",
                f'<script type="application/json" id="page-data">{data}</script>',
                scripts,
                "</body></html>\n",
            ]
        )


def embedded_json(value: Any) -> str:
    """JSON that may stand inside a script element: NaN becomes null, ``<`` and its like are escaped."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _static(name: str) -> str:
    """A script or style sheet; what could end the element that it stands in would be refused here."""
    text = resources.files("kinetograph.report").joinpath("static", name).read_text(encoding="utf-8")
    assert not re.search(r"</(script|style)", text, re.IGNORECASE), f"{name} cannot stand inside a page"
    return text


def _own_version() -> str:
    try:
        return version("kinetograph")
    except PackageNotFoundError:
        return "(not installed)"


# ---------------------------------------------------------------------------------------- words and numbers


def _distinct(runs: list[RunRecord]) -> list[RunRecord]:
    """The runs with names that tell them apart."""
    seen: dict[str, int] = {}
    named = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        named.append(run if seen[run.name] == 1 else replace(run, name=f"{run.name} ({seen[run.name]})"))
    return named


def _facts_line(runs: list[RunRecord]) -> str:
    if len(runs) > 1:
        return escape(", ".join(run.name for run in runs))
    run = runs[0]
    facts = []
    analysis = (run.analysis or {}).get("run") or {}
    if analysis:
        facts.append(f"{analysis['n_atoms']:,} atoms of {_formula(analysis['formula'])}")
        durations = analysis.get("durations_ps") or []
        many = f"{len(durations)} trajectories, " if len(durations) > 1 else ""
        facts.append(f"{many}{_significant(sum(durations), 3)} ps of dynamics")
    elif run.scene is not None:
        facts.append(f"{len(run.scene.numbers):,} atoms")
    model = (run.summary or {}).get("model") or (run.config or {}).get("model")
    if isinstance(model, dict):
        model = model.get("preset") or model.get("name")
    if isinstance(model, str):
        facts.insert(0, model)
    return escape(" · ".join(facts))


def _formula(text: str) -> str:
    """``H2O`` with its digits as subscripts."""
    return text.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _numbers(run: RunRecord) -> Json:
    """Evaluation, analysis and summary in one; the summary has the last word."""
    numbers: Json = {}
    for source in (errors_of(run), (run.analysis or {}).get("summary"), run.summary):
        numbers |= {key: value for key, value in (source or {}).items() if key not in ("per_element",)}
    return numbers


def _value(key: str, numbers: Json, *, unit: bool = True) -> str:
    quantity, value = QUANTITIES[key], numbers.get(key)
    if not _is_number(value):
        return "–"
    error = numbers.get(quantity.error_key) if quantity.error_key else None
    if _is_number(error):
        text = _with_error(quantity.factor * value, quantity.factor * error)
    elif "cosine" in key and quantity.factor == 1.0:
        text = f"{value:.5f}"
    else:
        text = _significant(quantity.factor * value, quantity.digits)
    return f"{text} {quantity.unit}" if unit and quantity.unit else text


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _significant(value: float | None, digits: int) -> str:
    """A number with so many significant digits, without an exponent where it can be read without one."""
    if not _is_number(value):
        return "–"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 6:
        power = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{value / 10.0**exponent:.{digits - 1}f} × 10{power}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def _with_error(value: float | None, error: float | None) -> str:
    """``100.3 ± 0.4``: the error with one digit, two where it starts with 1; the value to the same place."""
    if not _is_number(value):
        return "–"
    if not _is_number(error) or error <= 0:
        return _significant(value, 4)
    exponent = math.floor(math.log10(error))
    places = max(0, -exponent + (1 if error / 10.0**exponent < 1.95 else 0))
    return f"{value:,.{places}f} ± {error:.{places}f}".replace("-", "−")


def _percent(share: float | None) -> str:
    return f"{100 * share:.0f}" if _is_number(share) else "–"


def _swatch(index: int | None) -> str:
    name = "$reference" if index is None else figures.color(index)
    return f'<span class="swatch" data-color="{name}"></span>'


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _facts_table(facts: Json) -> str:
    rows = "".join(
        f"<tr><th>{escape(key.replace('_', ' '))}</th><td>{escape(value)}</td></tr>"
        for key, value in _flat(facts)
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _flat(facts: Json, prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as lines, ``versions · torch``; long lists shortened."""
    lines: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            lines += _flat(value, f"{name} · ")
        elif isinstance(value, list):
            shown = ", ".join(str(item) for item in value[:12])
            lines.append((name, shown + (f" … ({len(value)} in all)" if len(value) > 12 else "")))
        elif isinstance(value, float):
            lines.append((name, f"{value:.6g}"))
        elif value is not None:
            lines.append((name, str(value)))
    return lines
