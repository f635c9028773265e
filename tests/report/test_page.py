"""The page as text: what it holds, what it leaves out, and that nothing in it can break out of it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinetograph.analysis import energy_errors, stress_errors
from kinetograph.errors import UserError
from kinetograph.evaluation import disagreement
from kinetograph.report import read_run, write_evaluation_page, write_report
from kinetograph.report.figure import log_scale
from kinetograph.report.html import embedded_json
from kinetograph.report.numbers import significant, with_error


def test_embedded_json_is_inert_and_keeps_its_values() -> None:
    value = {"a": "</script><!--", "b": [1.5, math.nan, math.inf], "c": "\u2028&"}
    text = embedded_json(value)
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--", "b": [1.5, None, None], "c": "\u2028&"}


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (100.26, 0.42, "100.3 ± 0.4"),
        (100.26, 0.13, "100.26 ± 0.13"),
        (3.7061, 0.0171, "3.706 ± 0.017"),
        (1234.6, 23.0, "1,235 ± 23"),
        (-0.5, 0.06, "−0.50 ± 0.06"),
        (2.5, math.nan, "2.500"),
    ],
)
def test_numbers_are_written_to_the_digits_that_their_error_allows(
    value: float, error: float, shown: str
) -> None:
    assert with_error(value, error) == shown


def test_significant_digits() -> None:
    assert [significant(v, 3) for v in (0.0143, 12345.0, 0.0, 1.5e-7)] == [
        "0.0143",
        "12,345",
        "0",
        "1.50 × 10⁻⁷",
    ]


def test_a_page_refers_to_nothing_outside_itself(run_folders: tuple[Path, Path], tmp_path: Path) -> None:
    html = write_report(tmp_path / "report.html", [read_run(run_folders[0])]).read_text()
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(?!#|data:)[^"'\s>]""", own)
    assert "url(" not in own
    assert "default-src 'none'" in own
    assert "&lt;/script&gt;&lt;script&gt;throw" in own  # the config's text, as text
    for expected in ("0.995", "gamd-covariant", "± ", "2.13.0", "Configuration"):
        assert expected in own


def test_what_a_folder_lacks_is_said_and_left_out(water_folder: Path, tmp_path: Path) -> None:
    run = read_run(water_folder)
    assert run.evaluation is None
    assert run.metrics is None
    html = write_report(tmp_path / "report.html", [run]).read_text()
    assert "Force errors are left out: the run folder has no evaluation.json." in html
    assert 'id="training"' not in html
    assert 'id="structure"' in html


def test_a_page_that_exists_is_kept_unless_told_otherwise(water_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_report(path, [read_run(water_folder)])
    assert path.read_text() == "mine"
    write_report(path, [read_run(water_folder)], overwrite=True)
    assert "Kinetograph" in path.read_text()


def test_runs_of_one_name_are_told_apart(run_folders: tuple[Path, Path], tmp_path: Path) -> None:
    run = replace(read_run(run_folders[0]), scene=None)
    html = write_report(tmp_path / "report.html", [run, run]).read_text()
    assert f"{run.name} (2)" in html


def test_folders_that_cannot_be_reported_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        read_run(tmp_path / "missing")
    with pytest.raises(UserError, match="nothing to report"):
        read_run(tmp_path)
    (tmp_path / "summary.json").write_text("{ not json")
    with pytest.raises(UserError, match=r"not JSON"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="no runs"):
        write_report(tmp_path / "report.html", [])


def test_the_evaluation_page_has_the_table_and_what_was_evaluated(
    run_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    evaluation = json.loads((run_folders[0] / "evaluation.json").read_text())
    bare = write_evaluation_page(tmp_path / "f.html", evaluation).read_text()
    assert "108 atoms" not in bare
    assert "4,320 atoms compared, Ar" in bare
    assert 'id="provenance"' not in bare
    assert "3Dmol v" not in bare  # no scene, so no viewer: a smaller page
    facts = {"model": "runs/best.kg", "data": "<test>.extxyz", "data_sha256": "0123abcd" * 8}
    html = write_evaluation_page(tmp_path / "e.html", {**facts, **evaluation}).read_text()
    own = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    for expected in ("runs/best.kg", "&lt;test&gt;.extxyz", "0123abcd" * 8, "data sha256"):
        assert expected in own


def test_energies_and_stresses_have_sections_where_they_were_compared(
    run_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    forces = json.loads((run_folders[0] / "evaluation.json").read_text())
    energies = energy_errors([-3.0, -3.2], [-3.01, -3.18], [[18] * 4] * 2)
    stresses = stress_errors(np.zeros((2, 3, 3)), np.full((2, 3, 3), 2e-3))
    assert energies is not None
    assert stresses is not None
    both = {**forces, **energies.to_json(), **stresses.to_json()}

    def sections(evaluation: dict[str, Any]) -> tuple[set[str], str]:
        html = write_evaluation_page(tmp_path / "e.html", evaluation, overwrite=True).read_text()
        own = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
        return set(re.findall('<section id="(.*?)">', own)), own

    assert sections(forces)[0] == {"forces"}
    assert sections({**forces, **stresses.to_json()})[0] == {"forces", "stresses"}
    found, own = sections(both)
    assert found == {"forces", "energies", "stresses"}
    # 10 and 20 meV over four atoms: mean 3.75, root mean square 3.95; stresses 2 meV/Å³ both
    for expected in ("3.75", "3.95", "meV/atom", "2.00", "meV/Å³", "Predicted against reference energies"):
        assert expected in own
    page = write_report(tmp_path / "r.html", [replace(read_run(f), evaluation=both) for f in run_folders])
    assert 'id="energies"' in page.read_text()


def without_scripts(page: Path) -> str:
    return re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_the_energy_error_has_a_tile(run_folders: tuple[Path, Path], tmp_path: Path) -> None:
    forces = json.loads((run_folders[0] / "evaluation.json").read_text())
    energies = energy_errors([-3.0, -3.2], [-3.01, -3.18], [[18] * 4] * 2)
    assert energies is not None
    own = without_scripts(write_evaluation_page(tmp_path / "e.html", {**forces, **energies.to_json()}))
    # 10 and 20 meV over four atoms
    assert '<div class="label">Energy MAE</div><div class="value">3.75<small>meV/atom</small>' in own
    runs = [replace(read_run(f), evaluation={**forces, **energies.to_json()}) for f in run_folders]
    own = without_scripts(write_report(tmp_path / "r.html", runs))
    assert "<th>Energy MAE <small>meV/atom</small></th><td>3.75</td><td>3.75</td>" in own


def test_the_spread_of_an_ensemble_stands_beside_its_error(
    run_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    forces = json.loads((run_folders[0] / "evaluation.json").read_text())
    # twice as far off as the members are apart, but for the pair of atoms with the least spread
    known = disagreement(np.array([1.0, 2.0, 3.0, 4.0]) / 1000, np.array([4.0, 2.0, 6.0, 8.0]) / 1000)
    evaluation = {**forces, **known.to_json(), "members_force_mae_eV_per_A": [0.0011, 0.0013]}
    page = write_evaluation_page(tmp_path / "e.html", evaluation)
    own = without_scripts(page)
    assert '<section id="uncertainty">' in own
    assert "(Spearman) is <b>0.80</b>" in own  # 1 − 6 Σd²/(n³ − n), where two ranks are one off
    assert "<b>2.0</b> times the spread" in own  # √(120 / 30)
    assert "MAE of the 2 members is 1.20 meV/Å on average" in own
    data = json.loads(re.findall(r'id="page-data">(.*?)</script>', page.read_text(), re.DOTALL)[0])
    (figure,) = (f for f in data["figures"].values() if f["traces"][0]["name"] == "model" and _is_log(f))
    np.testing.assert_allclose(figure["traces"][0]["x"], [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(figure["traces"][0]["y"], [4.0, 2.0, 6.0, 8.0])
    assert figure["traces"][1]["x"] == figure["traces"][1]["y"]  # the diagonal
    assert 'id="uncertainty"' not in without_scripts(
        write_evaluation_page(tmp_path / "e.html", forces, overwrite=True)
    )
    runs = [replace(read_run(f), evaluation=evaluation) for f in run_folders]
    assert without_scripts(write_report(tmp_path / "r.html", runs)).count("(Spearman) is <b>0.80</b>") == 2


def _is_log(figure: dict[str, Any]) -> bool:
    axes = (figure["layout"]["xaxis"], figure["layout"]["yaxis"])
    return all(axis.get("type") == "log" for axis in axes)


def test_a_spread_that_cannot_be_drawn_is_told(run_folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Members that agree to the bit: no correlation, no ratio, nothing to draw on a logarithmic axis."""
    forces = json.loads((run_folders[0] / "evaluation.json").read_text())
    known = disagreement(np.zeros(3), np.array([0.1, 0.2, 0.3])).to_json()
    own = without_scripts(write_evaluation_page(tmp_path / "e.html", {**forces, **known}))
    assert "The members do not differ" in own
    assert "Predicted uncertainty" not in own


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(0.02, 0.3, "0.01 0.02 0.05 0.1 0.2 0.5 1 2 5"), (1e-4, 50.0, "0.0001 0.001 0.01 0.1 1 10 100")],
)
def test_a_logarithmic_axis_has_few_labels(low: float, high: float, labels: str) -> None:
    assert log_scale(low, high)["ticktext"] == labels.split()
