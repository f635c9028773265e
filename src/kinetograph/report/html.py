"""The document around sections: tables, tiles, figures, scripts and styles in one file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kinetograph.errors import UserError
from kinetograph.report.figure import Figure, color
from kinetograph.report.numbers import QUANTITIES, TILES, is_number, numbers_of, quantity_text
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


@dataclass
class Page:
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
            self._add_figure(figure, kind)
        self.add("</div>")

    def add_beside(self, html: str, figure: Figure | None) -> None:
        """A few lines or a narrow table, and one square figure at their side."""
        if figure is None:
            self.add(html)
            return
        self.add(f'<div class="grid beside"><div>{html}</div>')
        self._add_figure(figure)
        self.add("</div>")

    def _add_figure(self, figure: Figure, kind: str = "") -> None:
        name = f"plot-{len(self.figures)}"
        self.figures[name] = figure.to_json()
        self.add(
            f'<figure class="card {kind}"><h3>{escape(figure.title)}</h3>'
            f"<figcaption>{escape(figure.caption)}</figcaption>"
            f'<div class="plot" id="{name}" style="min-height:{figure.height}px"></div></figure>'
        )

    def add_notes(self, sentences: Sequence[str]) -> None:
        if sentences:
            items = "".join(f"<li>{escape(sentence)}</li>" for sentence in dict.fromkeys(sentences))
            self.add(f'<ul class="notes">{items}</ul>')

    def add_tiles(self, runs: list[RunRecord]) -> None:
        """The numbers that a person asks for first, of one run."""
        numbers = numbers_of(runs[0])
        tiles = []
        for key in TILES:
            if not is_number(numbers.get(key)):
                continue
            quantity = QUANTITIES[key]
            note = f'<div class="note">{escape(quantity.note)}</div>' if quantity.note else ""
            unit = f"<small>{escape(quantity.unit)}</small>" if quantity.unit else ""
            value = quantity_text(key, numbers)
            tiles.append(
                f'<div class="tile"><div class="label">{escape(quantity.label)}</div>'
                f'<div class="value">{value}{unit}</div>{note}</div>'
            )
        if tiles:
            self.head.append(f'<div class="tiles">{"".join(tiles)}</div>')

    def add_comparison(self, runs: list[RunRecord]) -> None:
        """The same numbers of several runs, side by side."""
        numbers = [numbers_of(run) for run in runs]
        rows = []
        for key, quantity in QUANTITIES.items():
            if any(is_number(values.get(key)) for values in numbers):
                unit = f" <small>{escape(quantity.unit)}</small>" if quantity.unit else ""
                rows.append([f"{escape(quantity.label)}{unit}", *(quantity_text(key, v) for v in numbers)])
        if rows:
            head = ["", *(f"{swatch(i)}{escape(run.name)}" for i, run in enumerate(runs))]
            self.head.append(f'<div style="margin-top:26px">{table(head, rows)}</div>')

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


def swatch(index: int | None) -> str:
    name = "$reference" if index is None else color(index)
    return f'<span class="swatch" data-color="{name}"></span>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def facts_table(facts: Json) -> str:
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
