"""``data``: what files hold, and trajectories in other formats, read back by ASE and MDAnalysis."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic

from kinetograph import units
from kinetograph.trajectory import Frame, Trajectory, TrajectoryWriter
from kinetograph.trajectory import export as exporting
from kinetograph.trajectory.export import convert

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., None]

TRICLINIC = np.array([[9.0, 1.0, 0.0], [2.0, 8.0, 0.5], [1.0, -1.5, 7.0]])
LEFT_HANDED = TRICLINIC[[1, 0, 2]]
NUMBERS = np.array([8, 1, 1, 8, 1, 1, 6, 6, 6, 6, 18])
"""Two molecules of water, a ring of four carbon atoms, and an atom of argon."""
BONDS = np.array([[0, 1], [2, 0], [3, 4], [3, 5], [9, 8], [6, 7], [7, 8], [6, 9]])
PERIODIC = np.array([True, True, True])


def positions_of(rng: np.random.Generator, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Molecules anywhere, their atoms about 1 Å apart, each atom moved by whole cells of its own."""
    ring = [[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [1.2, 1.2, 0.0], [0.0, 1.2, 0.0]]
    water = [[0.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, -0.3, 0.9]]
    shapes = [np.array(shape) for shape in (water, water, ring, [[0.0, 0.0, 0.0]])]
    whole = np.concatenate([shape + rng.normal(size=3) * 20.0 for shape in shapes])
    whole += rng.normal(size=whole.shape) * 0.05
    return whole + (rng.integers(-2, 3, size=whole.shape) * pbc) @ cell


def write(
    path: Path,
    n_frames: int = 7,
    *,
    cell: np.ndarray = TRICLINIC,
    pbc: np.ndarray = PERIODIC,
    bonds: np.ndarray | None = BONDS,
    steps: Callable[[int], int] = lambda number: 100 + 20 * number,
) -> list[Frame]:
    frames = []
    for number in range(n_frames):
        rng = np.random.default_rng(number)
        n_atoms = len(NUMBERS)
        stress = rng.normal(size=(3, 3)) * 0.01
        frames.append(
            Frame(
                step=steps(number),
                time_fs=0.5 * steps(number),
                positions=positions_of(rng, cell, pbc),
                cell=cell * (1.0 + 0.01 * number),
                velocities=rng.normal(size=(n_atoms, 3)) * 0.01,
                forces=rng.normal(size=(n_atoms, 3)),
                potential_energy=-1.0 - number,
                temperature=300.0 + number,
                stress=(stress + stress.T) / 2,
                pressure=10.0 * number,
            )
        )
    masses = np.array([16.0, 1.0, 2.0, 16.0, 1.0, 1.0, 12.0, 12.0, 12.0, 12.0, 40.0])
    metadata = {"timestep_fs": 0.5}
    with TrajectoryWriter(
        path, atomic_numbers=NUMBERS, masses=masses, pbc=pbc, bonds=bonds, metadata=metadata
    ) as out:
        for frame in frames:
            out.append(frame)
    return frames


# ---- convert -----------------------------------------------------------------------------------------


def test_extended_xyz_holds_all_that_ase_knows(run: Run, tmp_path: Path) -> None:
    frames = write(tmp_path / "a.h5")
    code, out, err = run("data", "convert", "a.h5", "a.extxyz", "--json", "a.json")
    assert code == 0, err
    assert "7 of 7" in out
    assert json.loads((tmp_path / "a.json").read_text())["n_frames"] == 7
    read = ase.io.read(tmp_path / "a.extxyz", ":")
    assert len(read) == 7
    for atoms, frame in zip(read, frames, strict=True):
        assert atoms.numbers.tolist() == NUMBERS.tolist()
        # The file has eight decimals, the trajectory seven digits.
        np.testing.assert_allclose(atoms.positions, frame.positions, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(atoms.cell.array, frame.cell, rtol=1e-15)
        np.testing.assert_allclose(
            atoms.get_velocities() / units.ASE_TIME_IN_FS, frame.velocities, rtol=1e-6, atol=1e-8
        )
        np.testing.assert_allclose(atoms.get_forces(), frame.forces, rtol=2e-7, atol=1e-8)
        assert atoms.get_masses()[2] == 2.0
        assert atoms.get_potential_energy() == frame.potential_energy
        np.testing.assert_allclose(atoms.get_stress(voigt=False), frame.stress, rtol=1e-12)
        assert atoms.info == {"step": frame.step, "time_fs": frame.time_fs}


def test_masses_that_ase_knows_are_left_out(run: Run, tmp_path: Path) -> None:
    atoms = Atoms("OH2")
    with TrajectoryWriter(
        tmp_path / "a.h5",
        atomic_numbers=atoms.numbers,
        masses=atoms.get_masses(),
        pbc=np.zeros(3, dtype=bool),
        metadata={},
    ) as out:
        out.append(Frame(step=0, time_fs=0.0, positions=np.eye(3), cell=np.zeros((3, 3))))
    assert run("data", "convert", "a.h5", "a.extxyz")[0] == 0
    assert "masses" not in (tmp_path / "a.extxyz").read_text()
    np.testing.assert_array_equal(ase.io.read(tmp_path / "a.extxyz").positions, np.eye(3))


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (("--every", "3"), [0, 3, 6]),
        (("--first", "2", "--last", "4"), [2, 3, 4]),
        (("--first", "-3"), [4, 5, 6]),
        (("--first", "1", "--last", "-2", "--every", "2"), [1, 3, 5]),
    ],
)
def test_parts_are_chosen_by_their_frames(
    run: Run, tmp_path: Path, words: tuple[str, ...], chosen: list[int]
) -> None:
    frames = write(tmp_path / "a.h5")
    assert run("data", "convert", "a.h5", "a.xyz", *words)[0] == 0
    read = ase.io.read(tmp_path / "a.xyz", ":", format="xyz")
    assert len(read) == len(chosen)
    for atoms, index in zip(read, chosen, strict=True):
        assert atoms.numbers.tolist() == NUMBERS.tolist()
        np.testing.assert_allclose(atoms.positions, frames[index].positions, rtol=1e-7)


@pytest.mark.parametrize("cell", [TRICLINIC, LEFT_HANDED, np.diag([9.0, 8.0, 7.0])])
def test_dcd_holds_positions_cells_and_times(run: Run, tmp_path: Path, cell: np.ndarray) -> None:
    mda = pytest.importorskip("MDAnalysis")
    from MDAnalysis.lib.mdamath import triclinic_vectors

    frames = write(tmp_path / "a.h5", cell=cell)
    code, _, err = run("data", "convert", "a.h5", "a.dcd", "--every", "2", "--first", "1")
    assert code == 0, err
    universe = mda.Universe.empty(len(NUMBERS), trajectory=True)
    universe.load_new(str(tmp_path / "a.dcd"))
    assert universe.trajectory.n_frames == 3
    for seen, frame in zip(universe.trajectory, frames[1::2], strict=True):
        assert seen.time == pytest.approx(frame.time_fs / units.PS_IN_FS, rel=1e-6)
        box = triclinic_vectors(seen.dimensions)
        np.testing.assert_allclose(box @ box.T, frame.cell @ frame.cell.T, rtol=1e-5, atol=1e-4)
        # The atoms turn with the cell: where they are in it stays, up to single precision of 100 Å.
        # A left-handed cell spans the lattice of its mirror image, in which these numbers change sign.
        hand = np.sign(np.linalg.det(frame.cell))
        inside = frame.positions @ np.linalg.inv(frame.cell)
        np.testing.assert_allclose(seen.positions @ np.linalg.inv(box), hand * inside, atol=2e-5)
        if np.array_equal(cell, np.diag(np.diag(cell))):
            np.testing.assert_allclose(seen.positions, frame.positions, rtol=1e-6, atol=1e-5)


def test_dcd_of_molecules_has_no_cell(run: Run, tmp_path: Path) -> None:
    mda = pytest.importorskip("MDAnalysis")
    free = np.zeros(3, dtype=bool)
    frames = write(tmp_path / "a.h5", 1, cell=np.zeros((3, 3)), pbc=free)
    assert run("data", "convert", "a.h5", "a.dcd")[0] == 0
    universe = mda.Universe.empty(len(NUMBERS), trajectory=True)
    universe.load_new(str(tmp_path / "a.dcd"))
    assert universe.dimensions is None or not universe.dimensions[:3].any()
    np.testing.assert_allclose(universe.trajectory[0].positions, frames[0].positions, rtol=1e-6)


@pytest.mark.parametrize("pbc", [PERIODIC, np.array([True, True, False])])
@pytest.mark.parametrize("wrap", ["atoms", "molecules"])
def test_wrapping_moves_atoms_by_whole_cells_into_the_cell(
    run: Run, tmp_path: Path, pbc: np.ndarray, wrap: str
) -> None:
    frames = write(tmp_path / "a.h5", pbc=pbc)
    assert run("data", "convert", "a.h5", "a.extxyz", "--wrap", wrap)[0] == 0
    for atoms, frame in zip(ase.io.read(tmp_path / "a.extxyz", ":"), frames, strict=True):
        inverse = np.linalg.inv(frame.cell)
        moved = (atoms.positions - frame.positions) @ inverse
        np.testing.assert_allclose(moved, np.round(moved) * pbc, atol=2e-6)  # single precision of 100 Å
        if wrap == "atoms":
            centres = atoms.positions
        else:
            groups = [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9], [10]]
            centres = np.stack([atoms[group].get_center_of_mass() for group in groups])
        inside = (centres @ inverse)[:, pbc]
        assert (inside > -1e-6).all()
        assert (inside < 1.0 + 1e-6).all()
        if wrap == "molecules":
            bonds = atoms.positions[BONDS[:, 1]] - atoms.positions[BONDS[:, 0]]
            # ASE's shortest images; the cell is much larger than a bond
            _, lengths = find_mic(bonds, frame.cell, pbc)
            np.testing.assert_allclose(np.linalg.norm(bonds, axis=1), lengths, atol=1e-6)


def test_a_conversion_holds_one_frame_at_a_time(tmp_path: Path) -> None:
    n_atoms, n_frames = 20, 2000
    rng = np.random.default_rng(0)
    with TrajectoryWriter(
        tmp_path / "a.h5",
        atomic_numbers=np.full(n_atoms, 18),
        masses=np.full(n_atoms, 39.95),
        pbc=PERIODIC,
        metadata={},
    ) as out:
        for number in range(n_frames):
            positions = rng.normal(size=(n_atoms, 3))
            out.append(Frame(step=number, time_fs=number, positions=positions, cell=TRICLINIC))
    pytest.importorskip("MDAnalysis.lib.formats.libdcd")
    for ending in ("xyz", "dcd"):
        with Trajectory.open(tmp_path / "a.h5") as trajectory:
            tracemalloc.start()
            convert(trajectory, tmp_path / f"a.{ending}", wrap="atoms")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 0.25 * n_frames * n_atoms * 24  # of the positions, double precision


def test_a_conversion_that_fails_leaves_nothing(
    run: Run, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.h5")
    (tmp_path / "a.extxyz").write_text("before")
    real, count = exporting.write_extxyz, 0

    def fills_the_disk(file: object, atoms: Atoms) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        real(file, atoms)

    monkeypatch.setattr(exporting, "write_extxyz", fills_the_disk)
    refused(run("data", "convert", "a.h5", "a.extxyz", "--overwrite"), "No space left", "a.extxyz")
    assert (tmp_path / "a.extxyz").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.extxyz", "a.h5"]


def test_convert_refuses_what_it_cannot_do(run: Run, refused: Refused, tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    write(tmp_path / "bare.h5", bonds=None)
    write(tmp_path / "free.h5", cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool))
    write(tmp_path / "empty.h5", 0)
    (tmp_path / "text.h5").write_text("no trajectory")
    change = ("data", "convert")
    refused(run(*change, "none.h5", "a.xyz"), "no such trajectory", "none.h5")
    refused(run(*change, "text.h5", "a.xyz"), "no H5MD file")
    refused(run(*change, "empty.h5", "a.xyz"), "no frames")
    refused(run(*change, "a.h5", "a.pdb"), "format .pdb is not known", ".dcd")
    refused(run(*change, "a.h5", "nowhere/a.xyz"), "No such file or directory")
    refused(run(*change, "a.h5", "a.xyz", "--first", "7"), "no frame 7; the trajectory has 7")
    refused(run(*change, "a.h5", "a.xyz", "--last", "-8"), "no frame -8")
    refused(run(*change, "a.h5", "a.xyz", "--first", "3", "--last", "2"), "comes after")
    refused(run(*change, "a.h5", "a.xyz", "--every", "0"), "every is 0")
    refused(run(*change, "bare.h5", "a.xyz", "--wrap", "molecules"), "which atoms are bonded")
    refused(run(*change, "free.h5", "a.xyz", "--wrap", "atoms"), "nothing to wrap into")
    assert not (tmp_path / "a.xyz").exists()
    (tmp_path / "a.xyz").write_text("before")
    refused(run(*change, "a.h5", "a.xyz"), "exists already")
    assert (tmp_path / "a.xyz").read_text() == "before"
    assert run(*change, "a.h5", "a.xyz", "--overwrite")[0] == 0
    assert (tmp_path / "a.xyz").read_text() != "before"


def test_dcd_refuses_times_it_cannot_hold_and_names_what_is_missing(
    run: Run, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("MDAnalysis")
    write(tmp_path / "a.h5", steps=lambda number: number**2)
    refused(run("data", "convert", "a.h5", "a.dcd"), "not evenly spaced")
    assert run("data", "convert", "a.h5", "a.dcd", "--last", "1")[0] == 0
    monkeypatch.setitem(sys.modules, "MDAnalysis.lib.formats.libdcd", None)
    refused(run("data", "convert", "a.h5", "b.dcd"), "MDAnalysis", "pip install 'kinetograph[analysis]'")
    assert not (tmp_path / "b.dcd").exists()


def test_a_trajectory_whose_writer_was_killed_can_be_converted_up_to_damage(
    run: Run, refused: Refused, tmp_path: Path
) -> None:
    frames = write(tmp_path / "a.h5", 600)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    with Trajectory.open(tmp_path / "a.h5") as trajectory:
        chunk = trajectory.file["particles/trajectory/force/value"].id.get_chunk_info(0)
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    (tmp_path / "a.h5").write_bytes(content)
    refused(run("data", "convert", "a.h5", "a.extxyz"), "frame 0 cannot be read", "a.h5")
    later = 500  # in the second chunk
    assert run("data", "convert", "a.h5", "a.extxyz", "--first", str(later))[0] == 0
    atoms = ase.io.read(tmp_path / "a.extxyz", 0)
    np.testing.assert_allclose(atoms.get_forces(), frames[later].forces, rtol=2e-7, atol=1e-8)


# ---- info --------------------------------------------------------------------------------------------


def test_info_of_a_trajectory(run: Run, tmp_path: Path) -> None:
    frames = write(tmp_path / "a.h5")
    code, out, err = run("data", "info", "a.h5", "--json", "a.json")
    assert code == 0, err
    for text in ("C4", "100 to 220, 20 apart", "0.06 ps, a frame each 10 fs, time step 0.5 fs", "volume"):
        assert text in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["n_frames"] == 7
    assert record["elements"] == {"H": 4, "C": 4, "O": 2, "Ar": 1}
    assert record["n_bonds"] == len(BONDS)
    assert record["observables"]["temperature_K"] == {"min": 300.0, "mean": 303.0, "max": 306.0}
    assert record["observables"]["pressure_bar"]["max"] == 60.0
    assert "stress_eV_per_A3" in record["fields"]
    sizes = np.linalg.norm([frame.forces for frame in frames], axis=-1)
    assert record["force_eV_per_A"]["max"] == pytest.approx(sizes.max(), rel=1e-6)
    assert record["force_eV_per_A"]["rms"] == pytest.approx(np.sqrt((sizes**2).mean()), rel=1e-6)
    volumes = [abs(np.linalg.det(frame.cell)) for frame in frames]
    assert record["volume_A3"]["max"] == pytest.approx(max(volumes))
    code, out, _ = run("data", "info", "a.h5", "--json", "-")
    assert json.loads(out)["length_ps"] == pytest.approx(0.06)  # stdout holds the JSON alone


@pytest.mark.parametrize("n_frames", [0, 1])
def test_info_of_a_trajectory_of_molecules_that_has_hardly_begun(
    run: Run, tmp_path: Path, n_frames: int
) -> None:
    write(tmp_path / "a.h5", n_frames, cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool), bonds=None)
    code, out, err = run("data", "info", "a.h5", "--json", "a.json")
    assert code == 0, err
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["n_frames"] == n_frames
    assert record["first_cell_A"] is None
    assert record["n_bonds"] is None
    assert record["time_between_frames_fs"] is None
    assert ("no frames yet" in out) == (n_frames == 0)


def test_info_of_labelled_frames(run: Run, tmp_path: Path) -> None:
    frames = [Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, x]], cell=[12.0] * 3, pbc=True) for x in range(3)]
    frames.append(Atoms("H2O", positions=np.eye(3)))
    for number, atoms in enumerate(frames[:2]):
        forces = np.full((2, 3), 1.0 + number)
        atoms.calc = SinglePointCalculator(atoms, energy=-2.0 * number, forces=forces, stress=np.zeros(6))
    ase.io.write(tmp_path / "a.extxyz", frames)
    code, out, err = run("data", "info", "a.extxyz", "--json", "a.json")
    assert code == 0, err
    assert "in 2 of 4" in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["n_frames"] == 4
    assert record["n_atoms"] == {"min": 2.0, "mean": 2.25, "max": 3.0}
    assert record["elements"] == {"H": 2, "O": 1, "Ar": 6}
    assert record["n_periodic"] == 3
    assert [record[f"n_with_{name}"] for name in ("energy", "forces", "stress")] == [2, 2, 2]
    assert record["energy_eV_per_atom"] == {"min": -1.0, "mean": -0.5, "max": 0.0}
    assert record["force_eV_per_A"]["max"] == pytest.approx(2.0 * np.sqrt(3.0))
    assert record["n_not_finite"] == 0


def test_info_counts_labels_that_are_not_finite(run: Run, tmp_path: Path) -> None:
    frames = [Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, x]]) for x in range(3)]
    for number, atoms in enumerate(frames):
        forces = np.full((2, 3), np.nan if number == 1 else 1.0)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    ase.io.write(tmp_path / "a.extxyz", frames)
    code, out, err = run("data", "info", "a.extxyz", "--json", "a.json")
    assert code == 0, err
    assert "1 of 3 frames have labels that are not finite" in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["force_eV_per_A"]["mean"] == pytest.approx(np.sqrt(3.0))


def test_info_refuses_what_it_cannot_read(run: Run, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("nothing of the kind")
    (tmp_path / "b.h5").write_text("nothing of the kind")
    write(tmp_path / "c.trajectory")  # known by its first bytes
    refused(run("data", "info", "none.h5"), "no such trajectory")
    refused(run("data", "info", "none.extxyz"), "no such file")
    refused(run("data", "info", "a.txt"), "cannot be read as structures")
    refused(run("data", "info", "b.h5"), "no H5MD file")
    refused(run("data", "info", "c.trajectory", "--json", "a.txt"), "exists already")
    assert run("data", "info", "c.trajectory")[0] == 0


@pytest.mark.parametrize("verb", ["data", "data info", "data convert"])
def test_help_shows_an_example(run: Run, verb: str) -> None:
    code, out, _ = run(*verb.split(), "--help")
    assert code == 0
    assert f"Example: kinetograph {verb}" in out
