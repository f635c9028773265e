"""Trajectories: what is written is read back, by us and by MDAnalysis, whatever happens to the writer."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.trajectory import Frame, Trajectory, TrajectoryWriter, h5md

N_ATOMS = 7
CELL = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [1.0, -1.5, 7.0]])


def frame(number: int, *, full: bool = True) -> Frame:
    rng = np.random.default_rng(number)
    positions = rng.normal(size=(N_ATOMS, 3)) * 20.0
    if not full:
        return Frame(step=10 * number, time_fs=5.0 * number, positions=positions, cell=CELL)
    return Frame(
        step=10 * number,
        time_fs=5.0 * number,
        positions=positions,
        cell=CELL * (1.0 + 0.01 * number),
        velocities=rng.normal(size=(N_ATOMS, 3)) * 0.01,
        forces=rng.normal(size=(N_ATOMS, 3)),
        potential_energy=-1.0 * number,
        kinetic_energy=2.0 * number,
        temperature=100.0 + number,
        stress=rng.normal(size=(3, 3)) * 0.01,
        pressure=-5.0 * number,
        conserved=3.0 * number,
    )


def writer(path: Path, **options: object) -> TrajectoryWriter:
    settings = {
        "atomic_numbers": np.array([8, 1, 1, 6, 18, 18, 79]),
        "masses": np.array([16.0, 1.0, 2.0, 12.0, 40.0, 40.0, 197.0]),
        "metadata": {"made": "here", "Å": [1, 2.5]},
        "pbc": np.array([True, True, True]),
        "bonds": np.array([[0, 1], [2, 3]]),
        "frames_per_flush": 4,
    }
    return TrajectoryWriter(path, **{**settings, **options})


def write(path: Path, n_frames: int, **options: object) -> list[Frame]:
    frames = [frame(number) for number in range(n_frames)]
    with writer(path, **options) as out:
        for one in frames:
            out.append(one)
    return frames


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    frames = write(tmp_path / "a.h5", 11)
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 11
        assert read.n_atoms == N_ATOMS
        assert read.steps.tolist() == [f.step for f in frames]
        assert read.times_fs.tolist() == [f.time_fs for f in frames]
        assert read.atomic_numbers.tolist() == [8, 1, 1, 6, 18, 18, 79]
        assert read.masses[-1] == 197.0
        assert read.pbc.all()
        assert read.bonds.tolist() == [[0, 1], [2, 3]]
        assert read.metadata == {"made": "here", "Å": [1, 2.5]}
        np.testing.assert_array_equal(read.cells, [f.cell for f in frames])
        # stored in single precision
        np.testing.assert_allclose(read.positions(), [f.positions for f in frames], rtol=1e-7)
        np.testing.assert_allclose(read.velocities(), [f.velocities for f in frames], rtol=1e-7)
        np.testing.assert_allclose(read.forces(), [f.forces for f in frames], rtol=2e-7)
        assert set(read.observables) == {
            "potential_energy_eV",
            "kinetic_energy_eV",
            "temperature_K",
            "pressure_bar",
            "conserved_eV",
        }
        assert read.observables["pressure_bar"].tolist() == [f.pressure for f in frames]
        np.testing.assert_array_equal(read.stresses(), [f.stress for f in frames])
        np.testing.assert_array_equal(read.stresses(slice(3, 5)), [f.stress for f in frames[3:5]])
        assert read.observables["temperature_K"].tolist() == [f.temperature for f in frames]


@pytest.mark.parametrize(
    "index", [slice(2, 9, 3), slice(None, None, -2), slice(8, 2), -1, [5, 1, 1], np.array([3])]
)
def test_frames_are_chosen_as_in_numpy(tmp_path: Path, index: object) -> None:
    write(tmp_path / "a.h5", 10)
    with Trajectory.open(tmp_path / "a.h5") as read:
        np.testing.assert_array_equal(read.positions(index), read.positions()[index])


def test_a_frame_is_an_atoms_object_with_momenta_forces_and_energy(tmp_path: Path) -> None:
    frames = write(tmp_path / "a.h5", 3)
    with Trajectory.open(tmp_path / "a.h5") as read:
        atoms = read.frame(-1)
        with pytest.raises(IndexError):
            read.frame(3)
    np.testing.assert_allclose(atoms.get_velocities() / units.ASE_TIME_IN_FS, frames[2].velocities, rtol=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), frames[2].forces, rtol=2e-7)
    assert atoms.get_potential_energy() == -2.0
    assert atoms.info["step"] == 20
    xx, xy, xz, yx, yy, yz, zx, zy, zz = frames[2].stress.ravel()
    expected = [xx, yy, zz, (yz + zy) / 2, (xz + zx) / 2, (xy + yx) / 2]
    np.testing.assert_allclose(atoms.get_stress(), expected, rtol=1e-15)  # tension is positive in both
    np.testing.assert_array_equal(atoms.cell.array, frames[2].cell)


def test_what_a_run_does_not_have_is_none(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5", pbc=np.zeros(3, dtype=bool), bonds=None) as out:
        out.append(frame(0, full=False))
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.velocities() is None
        assert read.forces() is None
        assert read.stresses() is None
        assert read.bonds is None
        assert read.observables == {}
        np.testing.assert_array_equal(read.cells, np.zeros((1, 3, 3)))


def test_mdanalysis_sees_the_same(tmp_path: Path) -> None:
    mda = pytest.importorskip("MDAnalysis")
    from MDAnalysis.lib.mdamath import triclinic_vectors

    frames = write(tmp_path / "a.h5", 5)
    universe = mda.Universe.empty(N_ATOMS, trajectory=True)
    universe.load_new(str(tmp_path / "a.h5"), format="H5MD")
    assert universe.trajectory.n_frames == 5
    for one, seen in zip(frames, universe.trajectory, strict=True):
        assert seen.time == pytest.approx(one.time_fs / units.PS_IN_FS)
        assert seen.data["step"] == one.step
        np.testing.assert_allclose(seen.positions, one.positions, rtol=1e-6)
        np.testing.assert_allclose(seen.velocities * 1e-3, one.velocities, rtol=1e-6)  # from Å/ps
        np.testing.assert_allclose(seen.forces, one.forces * units.EV_IN_KJ_PER_MOL, rtol=1e-6)
        # MDAnalysis keeps lengths and angles: compare what a rotation leaves
        box = triclinic_vectors(seen.dimensions)
        np.testing.assert_allclose(box @ box.T, one.cell @ one.cell.T, rtol=1e-5, atol=1e-4)
        assert seen.data["temperature_K"] == one.temperature
        assert seen.data["pressure_bar"] == one.pressure
        np.testing.assert_array_equal(seen.data["stress_eV_per_A3"], one.stress)


def test_resuming_drops_later_frames_and_goes_on(tmp_path: Path) -> None:
    frames = write(tmp_path / "a.h5", 10)
    write(tmp_path / "whole.h5", 12)
    with TrajectoryWriter.resume(tmp_path / "a.h5", after_step=55) as out:
        for number in range(6, 12):
            out.append(frame(number))
    with Trajectory.open(tmp_path / "a.h5") as read, Trajectory.open(tmp_path / "whole.h5") as whole:
        np.testing.assert_array_equal(read.steps, whole.steps)
        np.testing.assert_array_equal(read.positions(), whole.positions())
        np.testing.assert_array_equal(read.forces(), whole.forces())
        np.testing.assert_array_equal(read.cells, whole.cells)
        assert read.metadata == whole.metadata
        assert read.observables["conserved_eV"].tolist() == whole.observables["conserved_eV"].tolist()
    assert frames[0].step == 0


def test_a_file_without_frames_yet_opens_and_resumes(tmp_path: Path) -> None:
    writer(tmp_path / "a.h5")
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 0
        assert read.positions().shape == (0, N_ATOMS, 3)
    with TrajectoryWriter.resume(tmp_path / "a.h5", after_step=0) as out:
        out.append(frame(1))
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.steps.tolist() == [10]


def test_an_existing_output_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 3)
    with pytest.raises(UserError, match="exists already"):
        writer(tmp_path / "a.h5")
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 3
    writer(tmp_path / "a.h5", overwrite=True)
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 0


def test_a_missing_foreign_or_truncated_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such trajectory"):
        Trajectory.open(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(UserError, match="no H5MD file"):
        Trajectory.open(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = 1
    with pytest.raises(UserError, match="not an H5MD"):
        Trajectory.open(tmp_path / "other.h5")
    write(tmp_path / "a.h5", 200)
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError):
        Trajectory.open(tmp_path / "cut.h5")


def test_frames_out_of_order_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    with writer(tmp_path / "a.h5") as out:
        out.append(frame(2))
        with pytest.raises(ValueError, match="does not come after"):
            out.append(frame(1))
        with pytest.raises(ValueError, match="shape"):
            out.append(replace(frame(3), positions=np.zeros((3, 3))))
        with pytest.raises(ValueError, match="force of shape"):
            out.append(replace(frame(3), forces=np.zeros(3)))
        with pytest.raises(ValueError, match="no temperature_K"):
            out.append(replace(frame(3), temperature=None))
    with TrajectoryWriter.resume(tmp_path / "a.h5", after_step=20) as out:
        with pytest.raises(ValueError, match="though the first frame of the file has"):
            out.append(frame(3, full=False))
        out.append(frame(3))


def chunks_of(path: Path, name: str) -> list[tuple[bool, int]]:
    """For each chunk of an atom vector: whether it is compressed, and its bytes."""
    with h5py.File(path) as file:
        dataset = file[f"particles/trajectory/{name}/value"]
        found = [dataset.id.get_chunk_info(k) for k in range(dataset.id.get_num_chunks())]
        return [(info.filter_mask == 0, info.size) for info in found]


def long_frame(number: int, n_atoms: int = 60) -> Frame:
    """Velocities of a gas: signs and exponents repeat themselves, the other bits do not."""
    rng = np.random.default_rng(number)
    vectors = {name: rng.normal(size=(n_atoms, 3)) for name in ("positions", "velocities", "forces")}
    return Frame(step=number, time_fs=float(number), cell=CELL, **vectors)


def long_writer(path: Path, n_atoms: int = 60, **options: object) -> TrajectoryWriter:
    atoms = {"atomic_numbers": np.full(n_atoms, 18), "masses": np.full(n_atoms, 40.0), "bonds": None}
    return writer(path, **{**atoms, "frames_per_flush": None, **options})


@pytest.mark.parametrize("batch", [None, 40, 100])
def test_full_chunks_are_compressed_without_loss_by_filters_that_hdf5_has(
    tmp_path: Path, batch: int | None
) -> None:
    path = tmp_path / "a.h5"
    n_chunk = h5md.CHUNK_BYTES // (60 * 12)
    n_frames = 3 * n_chunk + 5
    with long_writer(path, frames_per_flush=batch) as out:
        for number in range(n_frames):
            out.append(long_frame(number))
    with h5py.File(path) as file:  # HDF5's own filters undo what was done
        stored = file["particles/trajectory/velocity/value"]
        assert stored.chunks[0] == n_chunk
        np.testing.assert_array_equal(
            stored[()], [long_frame(number).velocities.astype(np.float32) for number in range(n_frames)]
        )
    chunks = chunks_of(path, "velocity")
    if batch is None or batch >= n_chunk:
        assert [compressed for compressed, _ in chunks] == [True, True, True, False]
        assert all(size < 0.85 * h5md.CHUNK_BYTES for _, size in chunks[:3])
    assert len(chunks) == 4


def test_chunks_filled_bit_by_bit_take_no_more_room_than_without_compression(tmp_path: Path) -> None:
    """A chunk that is written again at another place leaves a hole for ever."""
    path = tmp_path / "a.h5"
    n_chunk = h5md.CHUNK_BYTES // (60 * 12)
    with long_writer(path) as out:
        for number in range(2 * n_chunk):
            out.append(long_frame(number))
            if number % 7 == 0:
                out.flush()
    raw = 2 * n_chunk * 3 * 60 * 12
    # Beside the vectors: cells, steps and times, each in chunks of its own, and the index.
    assert path.stat().st_size < raw + 3 * h5md.CHUNK_BYTES
    with Trajectory.open(path) as read:
        np.testing.assert_allclose(read.forces(-1), long_frame(2 * n_chunk - 1).forces, rtol=2e-7)


def test_resuming_in_the_middle_of_a_chunk_keeps_it(tmp_path: Path) -> None:
    n_chunk = h5md.CHUNK_BYTES // (60 * 12)
    for path, stops in ((tmp_path / "whole.h5", ()), (tmp_path / "a.h5", (n_chunk + 3, n_chunk + 9))):
        out = long_writer(path)
        for number in range(2 * n_chunk + 2):
            if number in stops:
                out.close()
                out = TrajectoryWriter.resume(path, after_step=number - 1)
            out.append(long_frame(number))
        out.close()
    with Trajectory.open(tmp_path / "a.h5") as read, Trajectory.open(tmp_path / "whole.h5") as whole:
        np.testing.assert_array_equal(read.steps, whole.steps)
        np.testing.assert_array_equal(read.positions(), whole.positions())
        np.testing.assert_array_equal(read.forces(), whole.forces())


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that does not write until the event is set."""
    ready = threading.Event()
    real = h5md.append

    def append(*arguments: object) -> None:
        assert ready.wait(30.0)
        real(*arguments)

    monkeypatch.setattr(h5md, "append", append)
    yield ready
    ready.set()


def test_a_run_goes_on_while_its_frames_are_written(tmp_path: Path, slow_disk: threading.Event) -> None:
    out = writer(tmp_path / "a.h5", frames_per_flush=4)
    out.append(frame(0))
    out.flush()  # makes the file anew: the first batch
    for number in range(1, 8):
        out.append(frame(number))  # returns though the disk has not written yet
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 1
    slow_disk.set()
    out.flush()
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 8


def test_frames_handed_over_are_on_disk_when_the_answer_says_so(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    out = writer(tmp_path / "a.h5", frames_per_flush=100)
    out.append(frame(0))
    out.flush()
    assert out.hand_over() is None
    out.append(frame(1))
    writing = out.hand_over()
    assert writing is not None
    assert out.hand_over() is writing
    assert not writing.done()
    slow_disk.set()
    writing.result()
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 2
    out.append(frame(2))
    out.close()
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 3


def test_a_run_waits_where_the_disk_is_slower_than_the_run(
    tmp_path: Path, slow_disk: threading.Event
) -> None:
    out = writer(tmp_path / "a.h5", frames_per_flush=4)
    out.append(frame(0))
    out.flush()
    for number in range(1, 8):
        out.append(frame(number))
    waiting = threading.Thread(target=out.append, args=(frame(8),))  # the second batch is full
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    slow_disk.set()
    waiting.join(30.0)
    assert not waiting.is_alive()
    out.close()
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 9


def test_what_the_disk_refuses_reaches_the_run_at_the_next_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = writer(tmp_path / "a.h5", frames_per_flush=300)
    out.append(frame(0))
    out.flush()

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def append_all() -> None:
        for number in range(1, 1000):
            given.append(number)
            out.append(frame(number))
            time.sleep(0.001)

    given = [0]
    with monkeypatch.context() as patch:
        patch.setattr(h5md, "append", refuse)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            append_all()
    assert 300 <= len(given) < 600  # long before the next batch is full
    out.close()
    with Trajectory.open(tmp_path / "a.h5") as read:  # no frame was lost
        np.testing.assert_array_equal(read.steps, 10 * np.array(given))


def test_frames_do_not_grow_old_in_memory(tmp_path: Path) -> None:
    out = writer(tmp_path / "a.h5", frames_per_flush=1000, seconds_per_flush=0.2)
    out.append(frame(0))
    time.sleep(0.25)
    out.append(frame(1))
    for _ in range(100):
        with Trajectory.open(tmp_path / "a.h5") as read:
            if read.n_frames == 2:
                return
        time.sleep(0.1)
    pytest.fail("the frames are not on disk")


def test_memory_does_not_grow_with_the_length_of_a_run(tmp_path: Path) -> None:
    """All that Python and numpy hold; HDF5's own chunk caches are of fixed size."""
    n_frames, n_atoms = 20_000, 20
    rng = np.random.default_rng(0)
    path = tmp_path / "a.h5"
    in_one_batch = 200 * 3 * n_atoms * 24  # bytes, double precision
    in_all = n_frames * 3 * n_atoms * 24
    tracemalloc.start()
    try:
        with long_writer(path, n_atoms, frames_per_flush=200) as out:
            for number in range(n_frames):
                vectors = rng.normal(size=(3, n_atoms, 3))
                out.append(
                    Frame(
                        step=number,
                        time_fs=float(number),
                        positions=vectors[0],
                        cell=CELL,
                        velocities=vectors[1],
                        forces=vectors[2],
                    )
                )
        # Two batches with the objects around them, and what one of them becomes.
        writing = tracemalloc.get_traced_memory()[1]
        assert writing < 8 * in_one_batch < 0.1 * in_all
        tracemalloc.reset_peak()
        with Trajectory.open(path) as read:
            assert read.n_frames == n_frames
            for start in range(0, n_frames, 200):
                assert read.positions(slice(start, start + 200)).shape == (200, n_atoms, 3)
            for index in range(0, n_frames, 500):
                read.frame(index)
        # Steps and times of all frames are kept: 16 bytes each, twice while they are read.
        assert tracemalloc.get_traced_memory()[1] - 32 * n_frames < 8 * in_one_batch
    finally:
        tracemalloc.stop()


def test_the_file_can_be_read_while_it_grows_and_a_reader_does_not_stop_the_writer(tmp_path: Path) -> None:
    out = writer(tmp_path / "a.h5", frames_per_flush=1)
    out.append(frame(0))
    out.flush()
    body = """
import h5py, sys
with h5py.File("a.h5", "r") as locking, t.Trajectory.open("a.h5") as free:  # MDAnalysis locks as h5py does
    print("open", flush=True)
    sys.stdin.readline()
    print(free.n_frames, free.positions(0).shape)
with t.Trajectory.open("a.h5") as late:
    print(late.n_frames)
"""
    with start_child(tmp_path, body) as reader:
        assert reader.stdout.readline() == "open\n"
        out.append(frame(1))
        out.append(frame(2))
        out.flush()
        shown, _ = reader.communicate("go on\n")
    assert shown.split("\n")[:2] == [f"1 ({N_ATOMS}, 3)", "3"]


CHILD = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import kinetograph.trajectory.h5md as t
from test_trajectory_child import frame, writer

{body}
"""


def start_child(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    (tmp_path / "test_trajectory_child.py").write_text(Path(__file__).read_text())
    script = CHILD.format(folder=str(tmp_path), body=body)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path
    )


@pytest.mark.parametrize("writes_before_the_kill", [1, 4, 12, 13])
def test_a_writer_killed_in_the_middle_of_an_append_leaves_what_was_there(
    tmp_path: Path, writes_before_the_kill: int
) -> None:
    body = f"""
out = writer("a.h5", frames_per_flush=3)
for number in range(6):
    out.append(frame(number))
out.flush()
real, count = t._extend, 0
def killing(*arguments):
    global count
    real(*arguments)
    count += 1
    if count == {writes_before_the_kill}:
        os.kill(os.getpid(), signal.SIGKILL)
t._extend = killing
for number in range(6, 12):
    out.append(frame(number))
"""
    with start_child(tmp_path, body) as child:
        child.communicate()
    assert child.returncode == -9
    write(tmp_path / "whole.h5", 12)
    path = tmp_path / "a.h5"
    with Trajectory.open(path) as read, Trajectory.open(tmp_path / "whole.h5") as whole:
        assert read.is_damaged
        assert read.n_frames in (6, 9)
        np.testing.assert_array_equal(read.positions(), whole.positions(slice(read.n_frames)))
        n_read = read.n_frames
    with TrajectoryWriter.resume(path, after_step=10 * (n_read - 1)) as out:
        for number in range(n_read, 12):
            out.append(frame(number))
    with Trajectory.open(path) as read, Trajectory.open(tmp_path / "whole.h5") as whole:
        assert not read.is_damaged
        np.testing.assert_array_equal(read.steps, whole.steps)
        np.testing.assert_array_equal(read.positions(), whole.positions())
        np.testing.assert_array_equal(read.forces(), whole.forces())


def test_a_writer_killed_at_any_moment_leaves_all_that_was_flushed(tmp_path: Path) -> None:
    """Children that write as fast as they can are killed after random times."""
    body = """
import mmap, random, struct, time
with writer("before.h5") as out:  # its thread does not come along into the children
    out.append(frame(0))
deadline = time.monotonic() + 120.0
for trial in range(12):
    told = mmap.mmap(-1, 16)  # shared with the child: frames appended and frames flushed
    child = os.fork()
    if child == 0:
        out = writer(f"{trial}.h5", frames_per_flush=7, overwrite=True)
        for number in range(100000):
            out.append(frame(number))
            told[:8] = struct.pack("q", number + 1)
            if number % 23 == 0:
                out.flush()
                told[8:] = struct.pack("q", number + 1)
    while told[8] == 0 and told[9] == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(random.Random(trial).uniform(0.0, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(*struct.unpack("qq", told[:]), flush=True)
"""
    with start_child(tmp_path, body) as child:
        shown, errors = child.communicate()
    counts = [tuple(map(int, line.split())) for line in shown.splitlines()]
    assert len(counts) == 12, errors
    assert all(n_flushed > 0 for _, n_flushed in counts)
    n_damaged = 0
    for trial, (n_appended, n_flushed) in enumerate(counts):
        with Trajectory.open(tmp_path / f"{trial}.h5") as read:
            n_damaged += read.is_damaged
            # The last word on what was appended and flushed may not have been told.
            assert n_flushed <= read.n_frames <= n_appended + 1
            assert read.n_frames >= n_appended - 2 * 7
            last = read.n_frames - 1
            np.testing.assert_array_equal(read.steps, 10 * np.arange(read.n_frames))
            for index in {0, last // 2, last}:
                expected = frame(index)
                np.testing.assert_allclose(read.positions(index), expected.positions, rtol=1e-7)
                np.testing.assert_allclose(read.forces(index), expected.forces, rtol=2e-7)
                np.testing.assert_array_equal(read.stresses(index), expected.stress)
        with TrajectoryWriter.resume(tmp_path / f"{trial}.h5", after_step=10 * last) as out:
            out.append(frame(last + 1))
        with Trajectory.open(tmp_path / f"{trial}.h5") as read:
            assert read.n_frames == last + 2
    assert n_damaged > 0  # else none was killed while it wrote, and the test shows little


def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path: Path) -> None:
    """A limit on the size of a file makes writes fail as a full disk does."""
    body = """
import resource
out = writer("a.h5", frames_per_flush=50)
try:
    for number in range(100000):
        if number == 50:
            size = os.path.getsize("a.h5")
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1600000, size + 1600000))
        out.append(frame(number))
except Exception as error:
    print(type(error).__name__, out._n_written)
    print(error)
"""
    with start_child(tmp_path, body) as child:
        shown, errors = child.communicate()
    name, n_written = shown.split()[:2]
    assert name == "UserError", shown + errors
    assert "cannot be written" in shown
    assert int(n_written) >= 50
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert not read.is_damaged
        assert read.n_frames == int(n_written)
        np.testing.assert_allclose(read.positions(49), frame(49).positions, rtol=1e-7)


def test_a_disk_without_space_is_refused_before_the_file_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where space cannot be set aside, as on macOS."""
    out = writer(tmp_path / "a.h5", frames_per_flush=2)
    out.append(frame(0))
    out.append(frame(1))
    out.flush()
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    out.append(frame(2))
    out.append(frame(3))
    with pytest.raises(UserError, match="No space left"):
        out.flush()
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert not read.is_damaged
        assert read.n_frames == 2
    monkeypatch.undo()
    out.close()  # there is space again: nothing was lost
    with Trajectory.open(tmp_path / "a.h5") as read:
        assert read.n_frames == 4
