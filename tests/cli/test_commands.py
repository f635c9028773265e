"""The verbs as a user types them: what they write, and what they refuse with one message and exit code 2."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kinetograph.trajectory import Trajectory

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., None]


def argon_start(path: Path) -> Path:
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (3, 3, 3)
    atoms.rattle(0.1, seed=1)
    ase.io.write(path, atoms, format="extxyz")
    return path


# ---- what they do ------------------------------------------------------------------------------------


def test_train_info_evaluate_md_analyze_report(
    run: Run, argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(argon_config))
    code, out, err = run("train", "c.yaml", "training.seed=2", "--out", "run")
    assert code == 0, err
    assert "valid force MAE" in out
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["seed"] == 2

    shown = run("info", "run/best.kg")[1]
    assert re.search(r"^settings +preset \S+, batch size \d+, learning rate .* seed 2", shown, re.M)
    assert re.search(r"^density seen +[\d.]+ to [\d.]+ atoms/Å³ *$", shown, re.M)
    code, out, _ = run("info", "run/best.kg", "--json", "-")
    assert code == 0
    assert json.loads(out)["elements"] == ["Ar"]  # stdout holds the JSON alone

    code, out, _ = run("evaluate", "run/best.kg", argon_data / "test.extxyz")
    assert code == 0
    assert "relative error" in out
    numbers = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert 0 < numbers["relative_error"] < 2
    assert numbers["n_atoms"] == 3 * 32
    assert (tmp_path / "run" / "evaluation.html").stat().st_size > 10_000

    start = argon_start(tmp_path / "start.extxyz")
    words = (
        "md",
        "run/best.kg",
        start,
        "--temperature-K",
        "60",
        "--steps",
        "40",
        "--every",
        "10",
        "--timestep-fs",
        "2",
    )
    code, out, err = run(*words, "--out", "run/a.h5", "--json", "md.json")
    assert code == 0, err
    assert "ns/day" in out
    assert json.loads((tmp_path / "md.json").read_text())["n_steps"] == 40
    with Trajectory.open(tmp_path / "run" / "a.h5") as trajectory:
        assert trajectory.steps.tolist() == [0, 10, 20, 30, 40]
    assert run(*words, "--out", "run/b.h5", "--seed", "1")[0] == 0

    code, out, err = run("analyze", "run/a.h5", "--reference", "run/b.h5")
    assert code == 0, err
    assert "g(r) Ar-Ar" in out or "g(r) Ar–Ar" in out
    assert (tmp_path / "run" / "analysis.json").is_file()

    code, out, err = run("report", "run")
    assert code == 0, err
    assert out.strip() == "run/report.html"
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<html" in page


def test_evaluate_shows_energies_and_stresses_where_model_and_frames_have_them(
    run: Run, argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    model = {"preset": "painn-small", "forces": "conservative", "cutoff_A": 6.0, "width": 8, "n_layers": 1}
    config = {**argon_config, "model": model, "training": {**argon_config["training"], "max_steps": 1}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code, _, err = run("train", "c.yaml", "--out", "run")
    assert code == 0, err
    frames = ase.io.read(argon_data / "test.extxyz", ":")
    for atoms in frames:
        atoms.calc.results["stress"] = np.full(6, 1e-3)
    ase.io.write(tmp_path / "test.extxyz", frames)
    code, out, err = run("evaluate", "run/best.kg", "test.extxyz")
    assert code == 0, err
    for row in ("energy MAE", "energy RMSE", "energies compared", "stress MAE", "stress RMSE"):
        assert row in out
    numbers = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert numbers["n_energies"] == numbers["n_stresses"] == len(frames)
    assert len(numbers["energy_parity_sample"]["frame"]) == len(frames)
    page = (tmp_path / "run" / "evaluation.html").read_text(encoding="utf-8")
    assert 'id="energies"' in page
    assert 'id="stresses"' in page


def test_resumed_md_equals_an_uninterrupted_one(run: Run, argon_model: Path, tmp_path: Path) -> None:
    start = argon_start(tmp_path / "start.extxyz")
    words = ("md", argon_model, start, "--ensemble", "langevin", "--temperature-K", "60", "--every", "5")
    assert run(*words, "--steps", "20", "--out", "whole.h5")[0] == 0
    assert run(*words, "--steps", "10", "--out", "parts.h5")[0] == 0
    assert run(*words, "--steps", "20", "--out", "parts.h5", "--resume")[0] == 0
    said = (tmp_path / "parts.h5.json").read_bytes()
    code, _, err = run(*words, "--steps", "20", "--out", "parts.h5", "--resume")
    assert code == 0
    assert "Nothing to do" in err
    assert (tmp_path / "parts.h5.json").read_bytes() == said
    with Trajectory.open(tmp_path / "whole.h5") as whole, Trajectory.open(tmp_path / "parts.h5") as parts:
        assert parts.steps.tolist() == whole.steps.tolist()
        assert np.array_equal(parts.positions(slice(None)), whole.positions(slice(None)))


def test_md_warns_outside_the_training_data(run: Run, argon_model: Path, tmp_path: Path) -> None:
    dense = bulk("Ar", "fcc", 3.6, cubic=True) * (3, 3, 3)
    ase.io.write(tmp_path / "dense.extxyz", dense)
    words = ("md", argon_model, "dense.extxyz", "--temperature-K", "20", "--steps", "2", "--out", "a.h5")
    code, _, err = run(*words, "--json", "-")
    assert code == 0
    assert "density" in err
    assert "shortest in training" in err


def test_models_lists_what_each_preset_can_do(run: Run) -> None:
    code, out, _ = run("models", "--json", "-")
    assert code == 0
    records = {r["preset"]: r for r in json.loads(out)}
    assert {"gamd", "gamd-code", "gamd-covariant"} <= set(records)
    assert records["forcenet-large"]["n_parameters"] == 34_810_408
    assert records["dimenet++-oc20-large"]["n_parameters"] == 10_716_806

    offered = {
        (preset, head): offer["offering"] != "not offered"
        for preset, record in records.items()
        for head, offer in record["offers"].items()
    }
    assert offered["gnnff", "conservative"]
    for preset in ("gnnff-code", "gnnff-pyg"):  # their batch normalisation refuses an energy
        assert offered[preset, "direct"]
        assert not offered[preset, "conservative"]
        assert "batch normalisation" in records[preset]["offers"]["conservative"]["note"]
    assert set(records["schnet"]["exact"]) == {"direct", "conservative"}
    assert "curl" not in records["schnet"]["exact"]["direct"]
    listing = run("models")[1]
    assert re.search(r"^schnet +.* RMFTCS +7\b", listing, re.M)
    assert re.search(r"^gns +.* ······ +8\b", listing, re.M)
    assert re.search(r"^gnnff-code .*● native +–", listing, re.M)
    assert re.search(r"^gnnff .*● native +extended", listing, re.M)
    detail = run("models", "gnnff-code")[1]
    assert re.search(r"conservative forces +not offered: .*batch normalisation", detail)


def test_models_shows_one_preset_in_a_narrow_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    detail = run("models", "dimenet++-oc20")[1]
    assert max(map(len, detail.splitlines())) <= 80
    assert re.search(r"^model\.width +192 +of the messages", detail, re.M)
    assert re.search(r"^model\.options\.angle_grad +true +whether forces are the true", detail, re.M)
    assert "Published: ForceNet, arXiv:2103.01436, table 1" in detail
    assert re.search(r"^0\.0332 eV/Å +OC20 S2F val ID, force MAE", detail, re.M)


def test_models_leaves_weights_unfilled_and_later_ones_as_they_were(run: Run) -> None:
    state = torch.get_rng_state()
    assert run("models", "forcenet-large")[0] == 0
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert (torch.nn.Linear(3, 3).weight != torch.nn.Linear(3, 3).weight).all()
    assert not torch.nn.init.zeros_(torch.ones(2)).any()


def test_template(run: Run, refused: Refused, tmp_path: Path) -> None:
    assert run("template", "t.yaml")[0] == 0
    assert "max_steps" in (tmp_path / "t.yaml").read_text()
    refused(run("template", "t.yaml"), "exists already")


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "train",
        "evaluate",
        "md",
        "analyze",
        "report",
        "models",
        "info",
        "template",
        "generate",
        "generate argon",
    ],
)
def test_help_of_each_verb_shows_an_example(run: Run, verb: str) -> None:
    code, out, _ = run(*verb.split(), "--help")
    assert code == 0
    assert f"Example: kinetograph {verb}" in out


# ---- what they refuse ----------------------------------------------------------------------------------


def frame(symbols: str = "Ar2", forces: np.ndarray | None = None) -> Atoms:
    atoms = Atoms(symbols, positions=[[0, 0, 0], [3.8, 0, 0]], cell=[12.0, 12.0, 12.0], pbc=True)
    if forces is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    return atoms


def nan_forces() -> Atoms:
    return frame(forces=np.array([[np.nan, 0, 0], [0, 0, 0]]))


def infinite_forces() -> Atoms:
    return frame(forces=np.array([[np.inf, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (frame, "the frame has no forces"),
        (nan_forces, "not finite"),
        (infinite_forces, "not finite"),
        (lambda: frame("ArKr", np.zeros((2, 3))), "Kr"),
    ],
)
def test_evaluate_refuses_bad_frames(
    run: Run, refused: Refused, argon_model: Path, tmp_path: Path, bad: Callable[[], Atoms], text: str
) -> None:
    ase.io.write(tmp_path / "bad.extxyz", [frame(forces=np.zeros((2, 3))), bad()], format="extxyz")
    refused(run("evaluate", argon_model, "bad.extxyz", "--out", "e"), text, "bad.extxyz")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("bad", [frame, nan_forces, infinite_forces])
def test_train_refuses_bad_frames_before_it_makes_a_folder(
    run: Run, refused: Refused, argon_config: dict[str, Any], tmp_path: Path, bad: Callable[[], Atoms]
) -> None:
    ase.io.write(tmp_path / "bad.extxyz", bad(), format="extxyz")
    config = {**argon_config, "data": {**argon_config["data"], "train": "bad.extxyz"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    refused(run("train", "c.yaml"), "bad.extxyz, frame 0")
    assert not (tmp_path / "run").exists()


def test_unknown_config_key_names_the_nearest(
    run: Run, refused: Refused, argon_config: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(argon_config))
    refused(run("train", "c.yaml", "training.max_step=3"), "unknown key 'training.max_step'", "'max_steps'")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a.set_cell(np.zeros((3, 3))), "cell vector is missing"),
        (lambda a: a.set_cell([[9, 0, 0], [9, 0, 0], [0, 0, 9]]), "singular"),
        (lambda a: a.set_atomic_numbers([18, 36]), "never saw the element Kr"),
        (lambda a: a.positions.__setitem__((0, 0), np.nan), "not finite"),
    ],
)
def test_md_refuses_bad_structures(
    run: Run, refused: Refused, argon_model: Path, tmp_path: Path, change: Callable[[Atoms], None], text: str
) -> None:
    atoms = frame()
    change(atoms)
    atoms.write(tmp_path / "bad.traj")
    refused(run("md", argon_model, "bad.traj", "--temperature-K", "10", "--out", "a.h5"), text, "bad.traj")
    assert not (tmp_path / "a.h5").exists()


def test_missing_truncated_and_foreign_files(
    run: Run, refused: Refused, argon_model: Path, argon_data: Path, tmp_path: Path
) -> None:
    test = argon_data / "test.extxyz"
    refused(run("evaluate", "none.kg", test), "no such model file", "none.kg")
    (tmp_path / "cut.kg").write_bytes(argon_model.read_bytes()[:500])
    refused(run("evaluate", "cut.kg", test), "cannot be read", "cut.kg")
    refused(run("info", "cut.kg"), "cannot be read")
    refused(run("info", test), "cannot be read")
    refused(run("info", tmp_path), "folder", "best.kg")
    refused(run("evaluate", argon_model, "none.extxyz", "--out", "e"), "no such file", "none.extxyz")
    refused(run("md", argon_model, "none.extxyz", "--temperature-K", "10"), "no such file")
    refused(run("train", "none.yaml"), "no such configuration file")
    refused(run("analyze", "none.h5"), "none.h5")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    refused(run("analyze", "cut.h5"), "cut.h5")
    refused(run("report", "nowhere"), "no such run folder")


def test_places_that_cannot_be_written_and_values_that_cannot_be_read(
    run: Run, refused: Refused, argon_config: dict[str, Any], argon_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(argon_config))
    refused(run("template", "nowhere/x.yaml"), "nowhere/x.yaml")
    refused(run("train", "c.yaml", "--out", "c.yaml"), "is a file")
    refused(run("train", "c.yaml", "model.preset=["), "not valid YAML")
    refused(run("train", "c.yaml", "model.cutoff_A=.inf"), "cutoff_A")
    refused(run("train", "c.yaml", "training.seed=100000000000000000000"), "training.seed")
    before = (tmp_path / "c.yaml").read_bytes()
    refused(run("info", argon_model, "--json", "c.yaml"), "exists already")
    assert (tmp_path / "c.yaml").read_bytes() == before


def test_outputs_that_exist_are_not_replaced(
    run: Run, refused: Refused, argon_model: Path, argon_data: Path, tmp_path: Path
) -> None:
    start = argon_start(tmp_path / "start.extxyz")
    md = ("md", argon_model, start, "--temperature-K", "60", "--steps", "2", "--out", "a.h5")
    evaluate = ("evaluate", argon_model, argon_data / "test.extxyz", "--out", "e")
    for words in (md, evaluate):
        assert run(*words)[0] == 0
        refused(run(*words), "exists already")
        assert run(*words, "--overwrite")[0] == 0


def test_md_refuses_impossible_settings(
    run: Run, refused: Refused, argon_model: Path, tmp_path: Path
) -> None:
    start = argon_start(tmp_path / "start.extxyz")
    refused(run("md", argon_model, start), "needs a temperature")
    refused(run("md", argon_model, start, "--temperature-K", "-5"), "temperature")
    refused(run("md", argon_model, start, "--temperature-K", "50", "--timestep-fs", "0"), "timestep_fs is 0")
    refused(run("md", argon_model, start, "--ensemble", "nve", "--temperature-K", "50"), "no meaning")
    refused(run("md", argon_model, start, "--ensemble", "langevin", "--massive"), "--massive has no meaning")
    refused(run("md", argon_model, start, "--temperature-K", "50", "--device", "abacus"), "abacus")
    refused(run("md", argon_model, start, "--temperature-K", "50", "--frame", "7"), "no frame 7")
    refused(run("md", argon_model, start, "--temperature-K", "50", "--resume"), "nothing to resume")


def _on_a_small_disk(folder: Path, kib: int, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command with ``folder`` on a small file system of its own, in a private namespace."""
    script = 'mount -t tmpfs -o size="$1"k tmpfs "$2" && shift 2 && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(kib), str(folder), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "300"}
    )


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0,
    reason="no private mount namespace to make a small disk in",
)
def test_a_full_disk_ends_with_one_message(
    argon_model: Path, argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    start = argon_start(tmp_path / "start.extxyz")
    small = tmp_path / "small"
    small.mkdir()
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(argon_config))
    program = (sys.executable, "-m", "kinetograph")
    md = (*program, "md", argon_model, start, "--temperature-K", "60", "--steps", "400", "--every", "1")
    for words in (
        (*md, "--out", small / "a.h5"),
        (*program, "evaluate", argon_model, argon_data / "test.extxyz", "--out", small),
        (*program, "train", config, "--out", small / "run"),
    ):
        done = _on_a_small_disk(small, 24, *words)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "space" in done.stderr
