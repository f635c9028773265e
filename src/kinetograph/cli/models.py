"""``models``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from kinetograph.learned_potential import LearnedPotential
    from kinetograph.nn.model import Forces, Head, Offer, Preset

WIDE = 130
"""Columns of a terminal that has room for what a preset is about."""

LETTERS = {
    "rotation": "R",
    "reflection": "M",
    "net force": "F",
    "torque": "T",
    "curl": "C",
    "smoothness": "S",
}
"""For what is exact; the other two properties hold for every model."""

EXAMPLE_ELEMENTS = (1, 6, 8)
"""Parameters are counted for hydrogen, carbon and oxygen: a table of elements grows with the data."""


def models(
    name: Annotated[
        str | None, typer.Argument(help="A preset: show its options and published figures.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the list as JSON here; `-` for stdout.")] = None,
) -> None:
    """The models and their presets: sizes, kinds of forces, and what holds exactly for each.

    Example: `kinetograph models painn`
    """
    from rich.console import Console

    from kinetograph.cli.output import refuse_existing, write_json
    from kinetograph.errors import UserError, nearest
    from kinetograph.models import PRESETS

    refuse_existing(json, overwrite=None)
    if name is not None and name not in PRESETS:
        raise UserError(
            f"unknown preset {name!r}{nearest(name, list(PRESETS))}", mend="`kinetograph models` lists them."
        )
    records = [record_of(preset) for preset in ([name] if name else PRESETS)]
    if str(json) != "-":
        console = Console(highlight=False)
        if name is None:
            _list(console, records)
        else:
            _detail(console, records[0])
    write_json(json, records if name is None else records[0])


def record_of(name: str) -> dict[str, Any]:
    """All that is known of a preset, as plain data."""
    import inspect

    from kinetograph.models import ARCHITECTURES, DEFAULT_PRESET, PRESETS, options_of
    from kinetograph.models.options import words_of

    preset = PRESETS[name]
    architecture = ARCHITECTURES[preset.architecture]
    model = _built(preset, preset.forces)
    offers, exact = _offers(preset, model)
    defaults = inspect.signature(architecture.__init__).parameters
    options = {option: defaults[option].default for option in options_of(preset.architecture)}
    return {
        "preset": name,
        "default": name == DEFAULT_PRESET,
        "architecture": preset.architecture,
        "about": preset.about,
        "n_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "n_parameters_for": "H, C, O",
        "forces": preset.forces,
        "offers": {head: {"offering": offer.offering, "note": offer.note} for head, offer in offers.items()},
        "exact": {head: sorted(properties) for head, properties in exact.items()},
        "options": {**options, **preset.hyperparameters},
        "option_words": words_of(architecture),
        "learning_rate": preset.learning_rate,
        "published": [
            {"what": p.what, "value": p.value, "unit": p.unit, "source": p.source} for p in preset.published
        ],
    }


def _offers(preset: Preset, made: LearnedPotential) -> tuple[dict[Head, Offer], dict[Head, frozenset[str]]]:
    """What can be had with the preset's options, and what is exact about it.

    That is what the architecture has, unless building it is refused.
    """
    from kinetograph.errors import UserError
    from kinetograph.models import ARCHITECTURES
    from kinetograph.nn.model import HEADS, Offer

    offers = {head: ARCHITECTURES[preset.architecture].OFFERS[head] for head in HEADS}
    exact: dict[Head, frozenset[str]] = {}
    for head, offer in offers.items():
        if offer.offering != "not offered":
            try:
                of = made if preset.forces in (head, "both") else _built(preset, head)
                exact[head] = of.model.exact[head]
            except UserError as refusal:
                offers[head] = Offer("not offered", refusal.what)
    return offers, exact


def _built(preset: Preset, forces: Forces) -> LearnedPotential:
    """The preset's model for the example elements, for its sizes: its weights are whatever lay in memory."""
    from unittest import mock

    from torch import nn

    from kinetograph.models import build

    # To fill the weights of all presets takes seconds, most of them for orthogonal matrices.
    fills = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    unfilled: dict[str, Any] = dict.fromkeys(fills, lambda tensor, *_, **__: tensor)
    with mock.patch.multiple(nn.init, **unfilled):
        return build(
            preset.architecture,
            EXAMPLE_ELEMENTS,
            {**preset.hyperparameters, "forces": forces, "cutoff": 5.0},
        )


def _list(console: Console, records: list[dict[str, Any]]) -> None:
    from rich.table import Table

    view = Table(box=None, pad_edge=False)
    view.add_column("preset", no_wrap=True)
    view.add_column("parameters", justify="right", no_wrap=True)
    for head in ("direct", "conservative"):
        view.add_column(head, no_wrap=True)
    view.add_column("exact", no_wrap=True)
    view.add_column("published", justify="right", no_wrap=True)
    if console.width >= WIDE:
        view.add_column("about")
    for r in records:
        row = [r["preset"] + (" (default)" if r["default"] else ""), f"{r['n_parameters']:,}"]
        for head, offer in r["offers"].items():
            mark = "● " if r["forces"] in (head, "both") else "  "
            row.append(mark + ("–" if offer["offering"] == "not offered" else offer["offering"]))
        head = "direct" if r["forces"] == "direct" else "conservative"
        row.append("".join(sign if name in r["exact"][head] else "·" for name, sign in LETTERS.items()))
        row.append(str(len(r["published"]) or "–"))
        if console.width >= WIDE:
            row.append(r["about"])
        view.add_row(*row)
    console.print(view)
    console.print(
        f"\n● what the preset has; the other kind by model.forces. Parameters for "
        f"{records[0]['n_parameters_for']}."
        f"\nexact, of the conservative forces where it has both: "
        f"{', '.join(f'{sign} {name}' for name, sign in LETTERS.items())}."
        "\npublished: how many figures of papers; `kinetograph models PRESET` shows them, its options and "
        "what is exact for either kind."
    )


def _detail(console: Console, r: dict[str, Any]) -> None:
    from kinetograph.cli.output import table

    rows = [
        ("architecture", r["architecture"]),
        ("parameters", f"{r['n_parameters']:,} for {r['n_parameters_for']}"),
        ("forces", r["forces"]),
    ]
    for head, offer in r["offers"].items():
        rows.append((f"{head} forces", offer["offering"] + (f": {offer['note']}" if offer["note"] else "")))
    rows += [(f"exact, {head}", ", ".join(properties)) for head, properties in r["exact"].items()]
    rows.append(("learning rate", f"{r['learning_rate']:g}"))
    table(f"{r['preset']}: {r['about']}", rows)
    console.print()
    _options(console, r)
    by_source: dict[str, list[dict[str, Any]]] = {}
    for published in r["published"]:
        by_source.setdefault(published["source"], []).append(published)
    for source, figures in by_source.items():
        console.print()
        _figures(console, source, figures)


def _options(console: Console, r: dict[str, Any]) -> None:
    from rich.table import Table

    from kinetograph.nn.model import option_key

    view = Table(title="Options", title_justify="left", box=None, pad_edge=False, header_style="dim")
    view.add_column("key", no_wrap=True)
    view.add_column("value", overflow="fold", max_width=24)
    view.add_column("what it is", style="dim")
    last = None
    for name, value in r["options"].items():
        words = r["option_words"][name]
        view.add_row(
            option_key(name), "–" if value is None else _literal(value), "″" if words == last else words
        )
        last = words
    console.print(view)


def _literal(value: Any) -> str:
    """As a configuration writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _figures(console: Console, source: str, figures: list[dict[str, Any]]) -> None:
    from rich.table import Table

    view = Table(
        title=f"Published: {source}", title_justify="left", show_header=False, box=None, pad_edge=False
    )
    view.add_column(no_wrap=True, justify="right")
    view.add_column(style="dim")
    for figure in figures:
        view.add_row(f"{figure['value']:g} {figure['unit']}", figure["what"])
    console.print(view)
