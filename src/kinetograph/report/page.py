"""The pages: what stands in them, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import yaml

from kinetograph.errors import UserError
from kinetograph.report import error_figures, training_figures, trajectory_figures
from kinetograph.report.html import Page, facts_table, swatch, table
from kinetograph.report.numbers import (
    QUANTITIES,
    formula,
    is_number,
    percent,
    quantity_text,
    significant,
    with_error,
)
from kinetograph.report.record import RunRecord

Json = dict[str, Any]
EVALUATION_FACTS = ("model", "data", "data_sha256")


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
    page = Page(title or (named[0].name if len(named) == 1 else f"{len(named)} runs side by side"))
    page.lede = _facts_line(named)
    page.add_tiles(named) if len(named) == 1 else page.add_comparison(named)
    page.section("Trajectory", "trajectory", lambda: _trajectory(page, named))
    page.section("Forces", "forces", lambda: _forces(page, named))
    page.section("Uncertainty", "uncertainty", lambda: _uncertainty(page, named))
    page.section("Energies", "energies", lambda: _energies(page, named))
    page.section("Stresses", "stresses", lambda: _stresses(page, named))
    page.section("Structure", "structure", lambda: _structure(page, named))
    page.section("Dynamics", "dynamics", lambda: _dynamics(page, named))
    page.section("Training", "training", lambda: _training(page, named))
    page.section("What was run", "provenance", lambda: _provenance(page, named))
    return page.write(path, overwrite)


def write_evaluation_page(
    path: Path | str,
    evaluation: Json,
    *,
    title: str = "Evaluation",
    overwrite: bool = False,
) -> Path:
    """Write a small page: error tables, parity plots and the cosines, and what was evaluated.

    Args:
        path: the page.
        evaluation: ``Errors.to_json()``, on its own or under ``errors``; beside it, where known,
            ``model``, ``data`` and ``data_sha256``.
        title: the heading.
        overwrite: replace a page that exists.

    Raises:
        UserError: the file exists and ``overwrite`` is off, or cannot be written.
    """
    run = RunRecord(name="model", folder=Path(path).parent, evaluation=evaluation)
    page = Page(title)
    errors = run.errors or {}
    if "n_atoms" in errors:
        page.lede = (
            f"{errors['n_atoms']:,} atoms compared, {', '.join(errors.get('per_element', {}))}".rstrip(", ")
        )
    page.add_tiles([run])
    page.section("Forces", "forces", lambda: _forces(page, [run]))
    page.section("Uncertainty", "uncertainty", lambda: _uncertainty(page, [run]))
    page.section("Energies", "energies", lambda: _energies(page, [run]))
    page.section("Stresses", "stresses", lambda: _stresses(page, [run]))
    facts = {key: evaluation[key] for key in EVALUATION_FACTS if evaluation.get(key) is not None}
    if facts:
        page.section("What was run", "provenance", lambda: page.add(facts_table(facts)))
    return page.write(path, overwrite)


def _trajectory(page: Page, runs: list[RunRecord]) -> None:
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


def _forces(page: Page, runs: list[RunRecord]) -> None:
    tables = [(i, run, errors) for i, run in enumerate(runs) if (errors := run.errors) is not None]
    if not tables:
        return
    first = tables[0][2]
    mean = first.get("mean_force_eV_per_A")
    known = f" Mean |F| of the reference is {significant(mean, 3)} eV/Å." if is_number(mean) else ""
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
        name = (f"{swatch(i)}{escape(run.name)}" if len(runs) > 1 else "All atoms") + only
        rows.append([name, *_error_cells(errors)])
        if len(elements) > 1:
            mark = "— " if len(runs) > 1 else ""
            rows += [
                [f"<small>{mark}{escape(element)}</small>", *_error_cells(numbers)]
                for element, numbers in elements.items()
            ]
    page.add(table(head, rows))
    page.add_figures([error_figures.parity(runs), error_figures.cosines(runs)])


def _error_cells(errors: Json) -> list[str]:
    keys = ["force_mae_eV_per_A", "force_rmse_eV_per_A", "relative_error", "cosine_mean", "cosine_p05"]
    keys += ["cosine_share_above_0.96", "cosine_share_above_0.995"]
    n_atoms = errors.get("n_atoms")
    cells = [f"{n_atoms:,}" if isinstance(n_atoms, int) else "–"]
    return cells + [quantity_text(key, errors) for key in keys]


def _uncertainty(page: Page, runs: list[RunRecord]) -> None:
    known = [
        (i, run, run.errors) for i, run in enumerate(runs) if run.errors and "force_std_bins" in run.errors
    ]
    if not known:
        return
    page.add(
        '<p class="intro">How far the members of the ensemble are apart on each atom, against how far their '
        "mean is off. A rank correlation of 1 orders the atoms by their errors, 0 says nothing.</p>"
    )
    text = "".join(
        (f"<h3>{swatch(i)}{escape(run.name)}</h3>" if len(runs) > 1 else "")
        + f"<p>{_spread_words(errors)}</p>"
        for i, run, errors in known
    )
    page.add_beside(text, error_figures.spread(runs))


def _spread_words(errors: Json) -> str:
    if not any(errors["force_std_bins"]["force_std_eV_per_A"]):
        return "The members do not differ."
    said = []
    correlation, ratio = errors.get("force_std_spearman"), errors.get("force_std_calibration")
    if is_number(correlation):
        shown = f"{correlation:.2f}".replace("-", "−")
        said.append(f"The rank correlation of the two (Spearman) is <b>{shown}</b>.")
    if is_number(ratio):
        said.append(f"The error is <b>{significant(ratio, 2)}</b> times the spread, by root mean squares.")
    members = errors.get("members_force_mae_eV_per_A")
    if members:
        mean = significant(1000.0 * sum(members) / len(members), 3)
        own = quantity_text("force_mae_eV_per_A", errors)
        said.append(
            f"The force MAE of the {len(members)} members is {mean} meV/Å on average, "
            f"that of their mean {own} meV/Å."
        )
    return " ".join(said)


def _energies(page: Page, runs: list[RunRecord]) -> None:
    rows = _rows_of_structures(runs, "n_energies", "energy_mae_eV_per_atom", "energy_rmse_eV_per_atom")
    if not rows:
        return
    page.add('<p class="intro">Predicted energies against the reference, per atom.</p>')
    head = ["", "Structures", "MAE<small>meV/atom</small>", "RMSE<small>meV/atom</small>"]
    page.add_beside(table(head, rows), error_figures.energy_parity(runs))


def _stresses(page: Page, runs: list[RunRecord]) -> None:
    rows = _rows_of_structures(runs, "n_stresses", "stress_mae_eV_per_A3", "stress_rmse_eV_per_A3")
    if not rows:
        return
    page.add(
        '<p class="intro">Predicted stresses against the reference, over all nine components; '
        "1 meV/Å³ is 0.16 GPa.</p>"
    )
    page.add(table(["", "Structures", "MAE<small>meV/Å³</small>", "RMSE<small>meV/Å³</small>"], rows))


def _rows_of_structures(runs: list[RunRecord], count: str, *keys: str) -> list[list[str]]:
    """For each run that has them, how many structures were compared and the errors in thousandths."""
    rows = []
    for i, run in enumerate(runs):
        errors = run.errors or {}
        if count not in errors:
            continue
        name = f"{swatch(i)}{escape(run.name)}" if len(runs) > 1 else "All structures"
        values = [errors.get(key) for key in keys]
        cells = [significant(1000.0 * value, 3) if is_number(value) else "–" for value in values]
        rows.append([name, f"{errors[count]:,}", *cells])
    return rows


def _structure(page: Page, runs: list[RunRecord]) -> None:
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
            own = (
                trajectory_figures.find_rdf(analysis.get("run"), comparison["pair"], comparison["kind"]) or {}
            )
            other = (
                trajectory_figures.find_rdf(analysis.get("reference"), comparison["pair"], comparison["kind"])
                or {}
            )
            rows.append(
                ([f"{swatch(i)}{escape(run.name)}"] if len(runs) > 1 else [])
                + [f"{escape(comparison['pair'])} <small>{escape(comparison['kind'])}</small>"]
                + [significant(comparison["mae"], 2), significant(comparison["mean_band95"], 2)]
                + [f"{percent(comparison['share_within_band'])}"]
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
        page.add(table(head, rows))
    headline = [key for key in keys if key[1] == "intermolecular"] or keys
    page.add_figures([trajectory_figures.radial(runs, *key) for key in headline], third=len(headline) >= 3)
    # where no molecule holds such a pair, the two kinds are one curve
    curves = {(rdf["pair"], rdf["kind"]): rdf["g"] for rdf in found}
    others = [
        key for key in keys if key not in headline and curves[key] != curves.get((key[0], "intermolecular"))
    ]
    if others:
        page.add('<h3 style="margin:26px 0 12px">All pairs, those inside a molecule included</h3>')
        page.add_figures([trajectory_figures.radial(runs, *key) for key in others], third=len(headline) >= 3)


def _peak_cells(own: Json, other: Json, key: str, difference: float | None) -> list[str]:
    """The run above the reference in one cell, and their relative difference in the next."""

    def cell(rdf: Json) -> str:
        peak = rdf.get("first_peak")
        error = f"{key.removesuffix('_A')}_error" + ("_A" if key.endswith("_A") else "")
        return with_error(peak[key], peak[error]) if peak else "–"

    change = f"{100 * difference:+.1f}".replace("-", "−") if is_number(difference) else "–"
    return [f'{cell(own)}<small class="below">{cell(other)}</small>', change]


def _dynamics(page: Page, runs: list[RunRecord]) -> None:
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
                    f"{swatch(i) if side == 'run' else swatch(None)}{name}",
                    with_error(numbers["mean"], numbers["standard_error"]),
                    significant(numbers["standard_deviation"], 3),
                    significant(numbers["expected_standard_deviation"], 3),
                    f"{numbers['n_dof']:,}",
                    f"{numbers['n_independent']:,.0f}",
                    significant(sum(measured.get("durations_ps") or [0.0]), 3),
                ]
            )
    plots = [
        trajectory_figures.temperature(runs),
        trajectory_figures.cold_start(runs) or trajectory_figures.kinetic_energy(runs),
    ]
    elements = [h["element"] for run in runs for h in (run.analysis or {}).get("force_magnitudes") or []]
    forces = [trajectory_figures.force_magnitudes(runs, element) for element in dict.fromkeys(elements)]
    if not rows and not any(plots) and not forces:
        return
    if rows:
        head = ["", "Temperature<small>K, ± standard error</small>", "Spread<small>K</small>"]
        head += ["Canonical spread<small>K</small>", "Degrees of freedom", "Independent samples"]
        page.add(table([*head, "Length<small>ps, all trajectories</small>"], rows))
    page.add_figures(plots)
    if any(forces):
        page.add('<h3 style="margin:26px 0 12px">Sizes of the forces along the trajectories</h3>')
        distances = [
            f"{escape(run.name)} {h['element']}: {significant(h['total_variation'], 2)}"
            f" (two samples of one distribution: {significant(h['total_variation_noise'], 2)})"
            for run in runs
            for h in (run.analysis or {}).get("force_magnitudes") or []
            if is_number(h["total_variation"])
        ]
        if distances:
            page.add(
                f'<p class="intro">Total variation distance from the reference. {"; ".join(distances)}.</p>'
            )
        page.add_figures(forces, third=len(forces) >= 3)
    page.add_notes([note for run in runs for note in (run.analysis or {}).get("notes") or []])


def _training(page: Page, runs: list[RunRecord]) -> None:
    page.add_figures(list(training_figures.training(runs)))


def _provenance(page: Page, runs: list[RunRecord]) -> None:
    for i, run in enumerate(runs):
        if len(runs) > 1:
            page.add(f'<h3 style="margin:22px 0 8px">{swatch(i)}{escape(run.name)}</h3>')
        facts: Json = {"run folder": str(run.folder.resolve())}
        analysis = (run.analysis or {}).get("run") or {}
        if analysis:
            box = (
                f", {significant(analysis['density_g_per_cm3'], 4)} g/cm³"
                if is_number(analysis.get("density_g_per_cm3"))
                else ""
            )
            facts["analysed"] = f"{analysis['n_atoms']:,} atoms of {formula(analysis['formula'])}{box}"
        summary = run.summary or {}
        shown = set(QUANTITIES) | set(run.errors or {}) | set((run.analysis or {}).get("summary") or {})
        facts |= {key: value for key, value in summary.items() if key not in shown}
        page.add(facts_table(facts))
        if run.trajectory_metadata:
            name = escape(run.trajectory_name or "the trajectory")
            page.add(f"<details><summary>Provenance of {name}</summary>")
            page.add(facts_table(run.trajectory_metadata))
            page.add("</details>")
        if run.config is not None:
            text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, width=100)
            page.add(f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>")
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        page.add_notes([prefix + sentence for sentence in run.missing])


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
        facts.append(f"{analysis['n_atoms']:,} atoms of {formula(analysis['formula'])}")
        durations = analysis.get("durations_ps") or []
        many = f"{len(durations)} trajectories, " if len(durations) > 1 else ""
        facts.append(f"{many}{significant(sum(durations), 3)} ps of dynamics")
    elif run.scene is not None:
        facts.append(f"{len(run.scene.numbers):,} atoms")
    model = (run.summary or {}).get("model") or (run.config or {}).get("model")
    if isinstance(model, dict):
        model = model.get("preset") or model.get("name")
    if isinstance(model, str):
        facts.insert(0, model)
    return escape(" · ".join(facts))
