"""``kinetograph relax`` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.lj import LennardJones

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., None]


def argon(seed: int) -> ase.Atoms:
    atoms = bulk("Ar", "fcc", 5.4, cubic=True) * (2, 2, 2)
    atoms.rattle(0.2, seed=seed)
    atoms.info["name"] = f"argon {seed}"
    return atoms


@pytest.fixture
def start(tmp_path: Path) -> Path:
    path = tmp_path / "start.extxyz"
    ase.io.write(path, [argon(1), argon(2), argon(3)], format="extxyz")
    return path


def test_a_table_for_a_person_and_files_for_what_follows(
    run: Run, argon_model: Path, start: Path, tmp_path: Path
) -> None:
    words = ("relax", argon_model, start, "--steps", 6, "--fmax-eV-per-A", "1e-9", "--batch-atoms", 40)
    code, out, err = run(*words, "--trajectory", "way", "--every", 4, "--out", "new/relaxed.extxyz")
    assert code == 0, err
    for text in ("0 of 3", "6.0 on average, 6 at most", "structures/s, 21 force evaluations"):
        assert text in out
    assert "0/3 structures" in err
    ends = ase.io.read(tmp_path / "new" / "relaxed.extxyz", ":")
    assert [atoms.info["name"] for atoms in ends] == ["argon 1", "argon 2", "argon 3"]
    record = json.loads((tmp_path / "new" / "relaxed.extxyz.json").read_text())
    assert (record["n_structures"], record["n_converged"], record["n_failed"]) == (3, 0, 0)
    assert record["method"] == "lbfgs"
    for number, (atoms, of) in enumerate(zip(ends, record["structures"], strict=True)):
        assert of["structure"] == number
        assert (of["n_steps"], of["converged"], of["failure"]) == (6, False, None)
        assert of["energy_eV"] is None
        forces = np.linalg.norm(atoms.get_forces(), axis=1)
        assert of["max_force_eV_per_A"] == pytest.approx(forces.max(), rel=1e-5)
        way = ase.io.read(tmp_path / "way" / f"{number:05d}.extxyz", ":")
        assert [frame.info["n_steps"] for frame in way] == [0, 4, 6]
        np.testing.assert_allclose(way[-1].positions, atoms.positions, atol=1e-7)

    code, out, err = run(*words, "--method", "fire", "--json", "-", "--out", "fire.extxyz")
    assert code == 0, err
    assert json.loads(out)["method"] == "fire"  # stdout holds the JSON alone
    assert "Relaxation" in err


def test_one_structure_shows_its_numbers(run: Run, argon_model: Path, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "one.extxyz", argon(1))
    code, out, err = run("relax", argon_model, "one.extxyz", "--steps", 2, "--fmax-eV-per-A", "10")
    assert code == 0, err
    assert "1 of 1" in out
    assert "largest force" in out
    assert bool(ase.io.read(tmp_path / "relaxed.extxyz").info["converged"])


def test_cells_move_with_a_model_that_gives_a_stress(
    run: Run, refused: Refused, argon_config: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    model = {"preset": "painn-small", "forces": "conservative", "cutoff_A": 6.0, "width": 8, "n_layers": 1}
    config = {**argon_config, "model": model, "training": {**argon_config["training"], "max_steps": 1}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert run("train", "c.yaml", "--out", "run")[0] == 0
    words = ("relax", "run/best.kg", start, "--steps", 3, "--smax-eV-per-A3", "1e-12")
    code, _, err = run(*words, "--cell", "isotropic", "--pressure-bar", 1000)
    assert code == 0, err
    record = json.loads((tmp_path / "relaxed.extxyz.json").read_text())
    assert (record["cell"], record["pressure_bar"]) == ("isotropic", 1000.0)
    assert all(of["max_stress_eV_per_A3"] > 1e-12 for of in record["structures"])
    cells = [atoms.cell.array for atoms in ase.io.read(tmp_path / "relaxed.extxyz", ":")]
    for cell in cells:
        np.testing.assert_allclose(cell, cell[0, 0] * np.eye(3), atol=1e-7)
        assert abs(cell[0, 0] - 10.8) > 1e-4
    refused(run(*words, "--cell", "xx,zy", "--overwrite"), "cell is 'xx,zy'", "xx,yy,zz,yz,xz,xy")


def test_a_structure_that_fails_has_a_sentence_and_the_others_are_finished(
    run: Run, argon_model: Path, tmp_path: Path
) -> None:
    fused = argon(2)
    fused.positions[9] = fused.positions[4] + [0.0, 1e-5, 0.0]
    ase.io.write(tmp_path / "start.traj", [argon(1), fused, argon(3)])
    words = ("relax", argon_model, "start.traj", "--steps", 3, "--fmax-eV-per-A", "10")
    code, out, err = run(*words)
    assert code == 1
    assert "Traceback" not in err
    assert "structure 1, step 0: atoms 4 and 9 are in one place" in out
    assert "2 of 3" in out
    record = json.loads((tmp_path / "relaxed.extxyz.json").read_text())
    assert [of["failure"] is None for of in record["structures"]] == [True, False, True]
    ends = ase.io.read(tmp_path / "relaxed.extxyz", ":")
    assert [bool(atoms.info["converged"]) for atoms in ends] == [True, False, True]
    assert "in one place" in ends[1].info["failure"]


def test_outputs_that_exist_are_not_replaced(
    run: Run, refused: Refused, argon_model: Path, start: Path, tmp_path: Path
) -> None:
    words = ("relax", argon_model, start, "--steps", 1, "--trajectory", "way")
    assert run(*words)[0] == 0
    before = (tmp_path / "relaxed.extxyz").read_bytes()
    refused(run(*words), "relaxed.extxyz", "exists already")
    refused(run(*words, "--out", "other.extxyz"), "way", "holds trajectories already")
    refused(run("relax", argon_model, start, "--out", "x.extxyz", "--json", start), "start.extxyz", "exists")
    assert not (tmp_path / "other.extxyz").exists()
    # what is refused later has replaced nothing either
    refused(run(*words, "--overwrite", "--cell", "full"), "gives no stress")
    assert (tmp_path / "relaxed.extxyz").read_bytes() == before
    assert len(list((tmp_path / "way").iterdir())) == 3
    assert run(*words, "--overwrite", "--steps", 2)[0] == 0
    assert (tmp_path / "relaxed.extxyz").read_bytes() != before


def test_bad_input_ends_with_one_message(
    run: Run, refused: Refused, argon_model: Path, start: Path, tmp_path: Path
) -> None:
    refused(run("relax", "none.kg", start), "no such model file", "none.kg")
    refused(run("relax", argon_model, "none.extxyz"), "no such file", "none.extxyz")
    refused(run("relax", argon_model, start, "--cell", "full"), "gives no stress", "Hold the cell")
    refused(run("relax", argon_model, start, "--pressure-bar", 5), "cell that is held")
    refused(run("relax", argon_model, start, "--fmax-eV-per-A", 0), "fmax_eV_per_A is 0")
    refused(run("relax", argon_model, start, "--max-step-A", -1), "max_step_A is -1")
    refused(run("relax", argon_model, start, "--forces", "conservative"), "GAMD has no conservative")
    refused(run("relax", argon_model, start, "--device", "abacus"), "abacus")
    other = argon(2)
    other.numbers[3] = 36
    ase.io.write(tmp_path / "krypton.extxyz", [argon(1), other])
    refused(
        run("relax", argon_model, "krypton.extxyz"), "never saw the element Kr", "krypton.extxyz, structure 1"
    )
    fused = argon(1)
    fused.positions[3] = fused.positions[0]
    ase.io.write(tmp_path / "fused.extxyz", [fused, fused])
    refused(run("relax", argon_model, "fused.extxyz", "--batch-atoms", 1), "atoms 0 and 3 are in one place")
    assert sorted(path.name for path in tmp_path.glob("relaxed*")) == []


@pytest.mark.parametrize("n_finished", [0, 1])
def test_an_interruption_says_what_is_there_and_leaves_no_numbers_of_an_earlier_run(
    run: Run, argon_model: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_finished: int
) -> None:
    from kinetograph.dynamics.relax.reporters import RelaxationStatus

    words = ("relax", argon_model, start, "--steps", 1, "--json", "own.json", "--batch-atoms", 1)
    assert run(*words)[0] == 0
    before = (tmp_path / "relaxed.extxyz").read_bytes()

    def stop(self: RelaxationStatus, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RelaxationStatus, "finished" if n_finished else "report", stop)
    code, _, err = run(*words, "--overwrite")
    assert code == 130
    written = sorted(path.name for path in tmp_path.glob("*.json"))
    if n_finished:
        assert "Interrupted; the structures that were finished are in relaxed.extxyz." in err
        assert len(ase.io.read(tmp_path / "relaxed.extxyz", ":")) == n_finished
        assert written == []
    else:
        assert "Interrupted; none was finished." in err
        assert (tmp_path / "relaxed.extxyz").read_bytes() == before
        assert written == ["own.json", "relaxed.extxyz.json"]


def test_scores_against_a_reference(
    run: Run, refused: Refused, argon_model: Path, start: Path, tmp_path: Path
) -> None:
    """The reference is Lennard-Jones, its forces with another calculator of the same potential."""
    (tmp_path / "mine.py").write_text(
        "from ase.calculators.lj import LennardJones\n"
        "def argon(): return LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0)\n"
        "def nothing(): return None\n"
    )
    targets = ase.io.read(start, ":")
    for atoms in targets:
        atoms.positions += [0.0, 0.0, 0.2]
    ase.io.write(tmp_path / "targets.extxyz", targets)
    # no step is made: every atom is 0.2 Å from its target, and of the 490 thresholds 299 are above that
    words = ("relax", argon_model, start, "--steps", 0)
    code, out, err = run(*words, "--targets", "targets.extxyz", "--reference", "mine:argon", "--json", "-")
    assert code == 0, err
    assert "ADwT" in err
    assert "AFbT" in err
    scores = json.loads(out)["scores"]
    assert scores == json.loads((tmp_path / "relaxed.extxyz.json").read_text())["scores"]
    assert (scores["targets"], scores["reference"]) == ("targets.extxyz", "mine:argon")
    assert scores["adwt"] == pytest.approx(299 / 490, abs=1.1 / 490)
    assert scores["mean_distance_A"] == pytest.approx(0.2, abs=1e-7)
    largest = []
    for atoms in ase.io.read(start, ":"):
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0)
        largest.append(np.linalg.norm(atoms.get_forces(), axis=1).max())
    thresholds = [0.01 + 0.001 * step for step in range(390)]
    expected = np.mean([[force < threshold for threshold in thresholds] for force in largest])
    assert scores["afbt"] == pytest.approx(expected, abs=1.1 / 390)

    again = (*words, "--overwrite")
    refused(run(*again, "--targets", "targets.extxyz", "--cell", "full"), "the cell moves", "--targets")
    refused(run(*again, "--targets", "targets.extxyz", "--out", "targets.extxyz"), "would replace")
    ase.io.write(tmp_path / "two.extxyz", targets[:2])
    refused(run(*again, "--targets", "two.extxyz"), "do not hold the same atoms")
    refused(run(*again, "--reference", "emy"), "no calculator 'emy'", "did you mean 'emt'")
    refused(run(*again, "--reference", "mine:nothing"), "NoneType, not a calculator")
    refused(run(*again, "--reference", "mine:other"), "cannot be made", "other")
    assert (json.loads((tmp_path / "relaxed.extxyz.json").read_text()))["scores"] == scores
    # what the reference cannot do costs the scores, not the relaxation
    code, out, err = run(*again, "--reference", "emt")
    assert code == 2
    assert "speed" in out
    assert "Error: the reference cannot compute it" in err
    assert "Traceback" not in err
    assert "scores" not in json.loads((tmp_path / "relaxed.extxyz.json").read_text())


def test_help_shows_examples(run: Run) -> None:
    code, out, _ = run("relax", "--help")
    assert code == 0
    assert "Example: kinetograph relax" in out
    assert "--targets relaxed_by_dft.extxyz" in out
