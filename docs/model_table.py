"""Write ``docs/models.md``: every model, its heads, its presets, and what holds exactly, from the code.

    python docs/model_table.py

What holds by construction is taken from the model's word, which the contract tests check; what does not is
measured on random weights with ``kinetograph.testing.measure_symmetries``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from kinetograph.cli.models import record_of
from kinetograph.errors import UserError
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import ARCHITECTURES, PRESETS, build, options_of
from kinetograph.nn.model import HEADS, PROPERTIES, Head, Offer, Preset
from kinetograph.testing import measure_symmetries, randomize

PAGE = Path(__file__).with_name("models.md")
ELEMENTS = (1, 6, 8)
SMALL = {
    "width": 16,
    "n_layers": 2,
    "edge_width": 12,
    "element_table": None,
    "link_cutoff": 3.4,
    "n_neighbors": 4,
}
"""Sizes for measuring: what is exact does not depend on them."""

INTRODUCTION = """# Models

Every model is one file that reads beside its paper, and takes molecules, crystals, slabs and cells smaller
than its cutoff, in one batch. `kinetograph models` prints this list, `kinetograph models PRESET` the options
and the published figures of one. This page is written by `python docs/model_table.py`.

## Kinds of forces

*Native*: the paper has it. *Extended*: ours, with what is switched on for it. Choose with
`model.forces: direct`, `conservative` or `both`. Conservative forces come with their energy and, for periodic
structures, its stress. There is no stress where the energy stands apart from the forces (`separate_energy`,
in GemNet-dT and -dQ), nor where they are a part of its gradient only (DimeNet's `angle_grad: false`).

"""

SIZES = """## Presets

Parameters for hydrogen, carbon and oxygen. ● marks the forces that a preset has unless told otherwise.

"""

EXACT = """
## What holds exactly

✓ holds by construction, and is tested to rounding in double precision. A number is how far a model with
random weights is from it, as a share of its typical force: training may lower it, and turning the training
frames at random does so for rotations. *Net force* and *torque*: they vanish. *Curl*: the forces are the
gradient of an energy; what is shown is the asymmetry of their derivative. *Smoothness*: the largest jump when
an atom crosses the cutoff. Measured in small sizes (width 16, two layers, cutoff 3.6 Å); presets that differ
by their sizes alone share a row. A 0 has no ✓ because the model does not promise it for every structure.

"""

CHANGED = """
Options by which other things hold:

"""
OPTIONS: list[tuple[str, dict[str, object], Head]] = [
    ("schnet", {"cutoff_function": "none"}, "direct"),
    ("schnet", {"cutoff_function": "none"}, "conservative"),
    ("dimenet", {"angle_grad": False}, "conservative"),
    ("dimenet++", {"angle_grad": False}, "conservative"),
    ("gemnet-dt", {"forces_coupled": True}, "direct"),
    ("gemnet-dq", {"forces_coupled": True}, "direct"),
    ("forcenet", {"max_neighbors": 6}, "direct"),
]


def small(preset: Preset) -> dict[str, object]:
    """The preset's options in sizes that are measured in seconds."""
    known = options_of(preset.architecture)
    options = {**preset.hyperparameters, **{name: value for name, value in SMALL.items() if name in known}}
    if preset.architecture == "gnnff":
        options["nearest_required"] = False
    return options


def offers() -> str:
    """The table of heads."""
    lines = ["| model | direct | conservative |", "|---|---|---|"]
    for name, architecture in ARCHITECTURES.items():
        cells = []
        for head in HEADS:
            offer = architecture.OFFERS[head]
            cells.append(offer.offering + (f": {offer.note}" if offer.note else ""))
        lines.append(f"| {architecture.__name__} (`{name}`) | {' | '.join(cells)} |")
    return "\n".join(lines)


def presets() -> str:
    """The table of presets with their sizes and heads."""
    lines = ["| preset | parameters | direct | conservative | |", "|---|---|---|---|---|"]
    for name, preset in PRESETS.items():
        record = record_of(name)
        cells = []
        for head in HEADS:
            offer = Offer(**record["offers"][head])
            # Why an architecture lacks a head stands in the table above.
            why = "" if offer == ARCHITECTURES[preset.architecture].OFFERS[head] else f": {offer.note}"
            cells.append("● " * (preset.forces in (head, "both")) + offer.offering + why)
        lines.append(f"| `{name}` | {record['n_parameters']:,} | {' | '.join(cells)} | {preset.about} |")
    return "\n".join(lines)


def forms() -> list[tuple[list[str], Head, LearnedPotential]]:
    """Presets that differ by their sizes only, a head that they can have, and one small potential of it."""
    made: dict[tuple[str, str, Head], tuple[list[str], Head, LearnedPotential]] = {}
    for name, preset in PRESETS.items():
        options = small(preset)
        choices = {k: v for k, v in options.items() if isinstance(v, str | bool) and k != "separate_energy"}
        for head in HEADS:
            form = (preset.architecture, repr(sorted(choices.items())), head)
            if form in made:
                made[form][0].append(name)
                continue
            if ARCHITECTURES[preset.architecture].OFFERS[head].offering == "not offered":
                continue
            arguments = {**options, "forces": head, "cutoff": 3.6}
            try:
                potential = build(preset.architecture, ELEMENTS, arguments).eval()
            except UserError:
                continue  # a form that has not this head
            made[form] = [name], head, potential
    return list(made.values())


Measure = Callable[[LearnedPotential], dict[str, float]]


def exact(measure: Measure) -> str:
    """What holds for each form of each model and each of its heads."""
    rows = [(", ".join(f"`{name}`" for name in names), head, made) for names, head, made in forms()]
    return _table("presets", rows, measure)


def changed(measure: Measure) -> str:
    """What holds with options that change it."""
    rows = []
    for name, options, head in OPTIONS:
        preset = PRESETS[name]
        arguments = {**small(preset), **options, "forces": head, "cutoff": 3.6}
        made = build(preset.architecture, ELEMENTS, arguments).eval()
        said = ", ".join(
            f"`{key}: {str(value).lower() if isinstance(value, bool) else value}`"
            for key, value in options.items()
        )
        rows.append((f"`{name}`, {said}", head, made))
    return _table("preset, option", rows, measure)


def _table(title: str, rows: list[tuple[str, Head, LearnedPotential]], measure: Measure) -> str:
    lines = [
        f"| {title} | forces | " + " | ".join(PROPERTIES) + " |",
        "|---|---|" + "---|" * len(PROPERTIES),
    ]
    for of, head, potential in rows:
        holds = potential.model.exact[head]
        measured = {} if holds >= set(PROPERTIES) else measure(potential)
        cells = ["✓" if p in holds else _rounded(measured[p]) for p in PROPERTIES]
        lines.append(f"| {of} | {head} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rounded(share: float) -> str:
    """One digit; of what is zero but for rounding, that it is."""
    return f"{share:.1g}" if share > 1e-12 else "0"


def on_random_weights(potential: LearnedPotential) -> dict[str, float]:
    """How far from each property, with every weight and statistic random."""
    randomize(potential)
    return measure_symmetries(potential)


def page() -> str:
    """The whole page."""
    tables = f"{EXACT}{exact(on_random_weights)}\n{CHANGED}{changed(on_random_weights)}\n"
    return f"{INTRODUCTION}{offers()}\n\n{SIZES}{presets()}\n{tables}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    PAGE.write_text(page(), encoding="utf-8")
