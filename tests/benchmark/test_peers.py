"""Other programs beside ours: how they are talked to, and what happens when one is missing or fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kinetograph import units
from kinetograph.benchmark import environments
from kinetograph.benchmark.measure import Clock, Row
from kinetograph.benchmark.peer_process import PeerFailed, PeerProcess
from kinetograph.benchmark.peers import peer_rows
from kinetograph.benchmark.structures import water
from kinetograph.cli import main
from kinetograph.errors import UserError
from kinetograph.reference import openmm_systems as reference

TURNS = environments.PROGRAMS
CLOCK = Clock(torch.device("cpu"), 1)

WELL_BEHAVED = f"""
import os, sys
sys.path.insert(0, {str(TURNS)!r})
import turns

def prepare(task):
    print("a library that prints")
    os.write(1, b"and one that writes past Python\\n")
    def calls(n):
        print("in every call")
        for _ in range(n * 200_000):
            pass
    return turns.Ready(
        title="Fake", distributions=("pip",), computes=task["task"], precision="float32", calls=calls,
        n_edges=len(task["numbers"]), energy_eV=1.5,
    )

turns.serve(prepare)
"""

ANSWER = (
    '{"name": "Fake 1", "versions": {}, "computes": "x", "precision": "y", "n_edges": 7, "energy_eV": null}'
)
CANNOT_START = "import sys; sys.stderr.write('much to say\\nno such force field\\n\\n'); sys.exit(3)"
ENDS_LATER = f"""
import json, sys
sys.stdin.readline()
print('{ANSWER}', flush=True)
for _ in range(2):
    sys.stdin.readline()
    print('{{"seconds": 1e-3}}', flush=True)
sys.exit("out of memory")
"""
SAYS_NONSENSE = "import sys; sys.stdin.readline(); print('hello', flush=True); sys.stdin.readline()"
SAYS_LITTLE = (
    'import sys; sys.stdin.readline(); print(\'{"name": "Fake"}\', flush=True); sys.stdin.readline()'
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Makes an environment with a program in it; gives the folder of all of them."""
    programs, folder = tmp_path / "programs", tmp_path / "environments"
    programs.mkdir()
    monkeypatch.setattr(environments, "PROGRAMS", programs)

    def make(name: str, program: str) -> Path:
        python = environments.interpreter(folder, name)
        python.parent.mkdir(parents=True)
        python.symlink_to(os.path.realpath(sys.executable))
        environments.program(name).write_text(program)
        return folder

    return make


def rows(folder: Path, *names: str) -> tuple[list[Row], list[str]]:
    said: list[str] = []
    found = peer_rows(folder, names, 24, [192], CLOCK, 0.0, said.append)
    return list(found), said


# ----------------------------------------------------------------------------------------------- conversation


def process_of(tmp_path: Path, text: str) -> PeerProcess:
    program = tmp_path / "program.py"
    program.write_text(text)
    return PeerProcess(Path(sys.executable), program, {"threads": 1, "task": "count", "numbers": [8, 1, 1]})


def test_what_a_library_prints_is_no_answer(tmp_path: Path) -> None:
    with process_of(tmp_path, WELL_BEHAVED) as process:
        assert process.answer["name"].startswith("Fake ")
        assert process.answer["n_edges"] == 3
        assert process.seconds(1) > 0.0


def test_n_calls_take_about_n_times_as_long(tmp_path: Path) -> None:
    with process_of(tmp_path, WELL_BEHAVED) as process:
        one = sorted(process.seconds(1) for _ in range(5))[2]
        # Processor time of a loop, the least of several; another program beside may slow a turn down.
        assert 5.0 < min(process.seconds(10) for _ in range(3)) / one < 20.0


def test_a_process_ends_when_it_is_closed(tmp_path: Path) -> None:
    with process_of(tmp_path, WELL_BEHAVED) as process:
        pass
    assert process._process.returncode == 0


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (CANNOT_START, "^no such force field$"),
        (SAYS_NONSENSE, "'hello', which is no answer"),
        ("import sys; sys.stdin.readline()", "^it said nothing$"),
    ],
)
def test_a_program_that_does_not_answer_fails_with_its_last_line(
    tmp_path: Path, program: str, says: str
) -> None:
    with pytest.raises(PeerFailed, match=says):
        process_of(tmp_path, program)


# ------------------------------------------------------------------------------------------------ comparisons


def test_ours_and_theirs_stand_side_by_side(fake: Callable[[str, str], Path]) -> None:
    found, said = rows(fake("openmm", WELL_BEHAVED), "openmm")
    assert said == []
    assert {row.case for row in found} == {"MD step of water", "MD step of argon"}
    for ours, theirs in zip(found[::2], found[1::2], strict=True):
        assert (ours.variant, ours.speedup) == ("fast", 1.0)
        assert theirs.case == ours.case
        assert theirs.variant.startswith("Fake ")
        assert theirs.speedup == pytest.approx(theirs.median_s / ours.median_s)
        assert theirs.n_atoms == theirs.n_edges == ours.n_atoms
        assert theirs.more["ns_per_day"] == pytest.approx(2e-6 * 86400 / theirs.median_s)
        assert "pip" in str(theirs.more["version"])


def test_two_questions_to_one_program_are_two_rows(fake: Callable[[str, str], Path]) -> None:
    found, _ = rows(fake("mace", WELL_BEHAVED), "mace")
    names = [row.variant for row in found if row.case == "painn conservative"]
    assert [name.split()[-1] for name in names] == ["fast", "32x0e", "128x0e"]
    assert all(row.relative_error < 1e-4 for row in found if row.variant == "fast")


def test_a_peer_without_an_environment_is_left_out_and_the_rest_goes_on(
    fake: Callable[[str, str], Path],
) -> None:
    folder = fake("openmm", WELL_BEHAVED)
    found, said = rows(folder, "lammps", "openmm")
    assert len(found) == 4
    (line,) = said
    assert "lammps is left out" in line
    assert f"python -m kinetograph.benchmark.environments {folder} lammps" in line


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (CANNOT_START, "no such force field"),
        (ENDS_LATER, "out of memory"),
        (SAYS_LITTLE, "lacks 'precision'"),
    ],
)
def test_a_peer_that_fails_says_so_and_the_rest_goes_on(
    fake: Callable[[str, str], Path], program: str, says: str
) -> None:
    fake("lammps", program)
    found, said = rows(fake("openmm", WELL_BEHAVED), "openmm", "lammps")
    assert [row.variant.split()[0] for row in found] == ["fast", "Fake"] * 2
    assert len(said) == 2
    assert all("lammps is left out of 'MD step of" in line and says in line for line in said)


def test_no_environment_at_all_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--install"):
        rows(tmp_path, "mace")


# ----------------------------------------------------------------------------------------------- command line


def test_the_command_writes_rows_and_a_page(
    fake: Callable[[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = fake("torch-sim", WELL_BEHAVED)
    words = ["benchmark", "peers", "--environments", folder, "--peers", "torch-sim", "--atoms", "192"]
    monkeypatch.setattr(
        sys, "argv", ["kinetograph", *map(str, words), "--seconds", "0", "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "over ours" in capsys.readouterr().out
    data = json.loads((tmp_path / "out" / "peers.json").read_text())
    assert [row["variant"].split()[0] for row in data["rows"]] == ["fast", "Fake"]
    page = (tmp_path / "out" / "benchmark.html").read_text()
    assert "Beside other programs" in page
    assert "time over ours" in page


def test_an_unknown_peer_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'schnetpack'"):
        environments.chosen("openmm,schnetpck")


def test_every_peer_has_its_program() -> None:
    assert all(environments.program(name).is_file() for name in environments.PACKAGES)


def test_an_environment_that_fails_is_said_and_the_next_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is installed: a folder that is no package fails in pip, at once."""
    broken, empty = environments.Packages((str(tmp_path / "nothing"),)), environments.Packages(("pip",))
    monkeypatch.setattr(environments, "PACKAGES", {"mace": broken, "openmm": empty})
    said: list[str] = []
    folder = tmp_path / "environments"
    assert environments.install(folder, ["mace", "openmm"], said.append) == ["openmm"]
    assert any(line.startswith("mace: left out, ") for line in said)
    assert environments.install(folder, ["openmm"], said.append) == ["openmm"]
    assert said[-1] == "openmm: is there"


# --------------------------------------------------------------------------------------------- the real peers


@pytest.mark.slow
@pytest.mark.parametrize("name", list(environments.PACKAGES))
def test_a_real_peer_sees_the_same_structure(name: str) -> None:
    """As many edges as we do, and the same energy where the potential is the same."""
    folder = Path(os.environ.get("KINETOGRAPH_PEERS", "/nonexistent"))
    if not environments.interpreter(folder, name).exists():
        pytest.skip(f"KINETOGRAPH_PEERS names no folder with an environment of {name}")
    said: list[str] = []
    found = list(peer_rows(folder, [name], 192, [192], CLOCK, 0.0, said.append))
    assert said == []
    for row in found:
        ours = next(one for one in found if one.case == row.case and one.variant == "fast")
        if row.case in ("schnet", "painn 128 conservative", "MD step of argon"):
            assert row.n_edges == ours.n_edges
        if row.case == "MD step of argon":
            # OpenMM computes pairs in single precision.
            assert row.more["energy_eV"] == pytest.approx(ours.more["energy_eV"], rel=1e-5)
        if row.case == "MD step of water" and row is not ours:
            # The meshes are exact to 1e-4 of the forces, and an electron volt holds 64 molecules here.
            assert row.more["energy_eV"] == pytest.approx(energy_of_rigid_water(192), abs=1e-2)


def energy_of_rigid_water(n_atoms: int) -> float:
    """eV, of the package's own reference with a fine mesh and no switch."""
    openmm = pytest.importorskip("openmm")
    box = water(n_atoms)
    system = reference.water_system(n_atoms // 3, float(box.cell[0, 0, 0]), rigid=True)
    (force,) = (force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    force.setUseSwitchingFunction(False)
    force.setEwaldErrorTolerance(1e-7)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(1e-3), platform)
    context.setPositions(box.positions.numpy() / units.NM_IN_A)
    energy = context.getState(getEnergy=True).getPotentialEnergy()._value
    return float(energy * units.KJ_PER_MOL_IN_EV)
