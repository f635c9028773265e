"""Labelled frames: what is read, and what is refused with which words."""

from __future__ import annotations

import lzma
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from kinetograph.data.dataset import ForceDataset, StepSampler, collate
from kinetograph.data.frames import force_std, read_frames
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest


def frame(forces: np.ndarray | None) -> Atoms:
    atoms = Atoms("OH2", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    if forces is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
    return atoms


def test_forces_come_back_as_written_also_from_compressed_files(tmp_path: Path) -> None:
    forces = np.arange(9.0).reshape(3, 3)
    path = tmp_path / "a.extxyz"
    ase.io.write(path, [frame(forces), frame(2 * forces)], format="extxyz")
    packed = tmp_path / "a.extxyz.xz"
    packed.write_bytes(lzma.compress(path.read_bytes()))
    for name in (path, packed):
        frames = read_frames(name)
        assert len(frames) == 2
        np.testing.assert_allclose(frames.forces[1], 2 * forces)
        assert frames.elements == (1, 8)


def test_labels_of_frozen_atoms_are_not_zeroed(tmp_path: Path) -> None:
    atoms = frame(np.ones((3, 3)))
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "a.traj", atoms)
    # the calculator's result as stored is what the reference gave for the atom
    assert read_frames(tmp_path / "a.traj").forces[0][0].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_forces_that_are_not_finite_are_named_by_frame_and_atom(tmp_path: Path, bad: float) -> None:
    forces = np.zeros((3, 3))
    forces[2, 1] = bad
    path = tmp_path / "a.extxyz"
    ase.io.write(path, [frame(np.zeros((3, 3))), frame(forces)], format="extxyz")
    with pytest.raises(UserError, match=r"force on atom 2 is not finite.*frame 1"):
        read_frames(path)


def test_an_atom_that_is_no_element_is_named(tmp_path: Path) -> None:
    ghost = frame(np.zeros((3, 3)))
    ghost.numbers[1] = 0
    path = tmp_path / "a.extxyz"
    ase.io.write(path, [frame(np.zeros((3, 3))), ghost], format="extxyz")
    with pytest.raises(UserError, match=r"atom 1 is no element.*frame 1"):
        read_frames(path)


def test_a_frame_without_forces_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    ase.io.write(path, [frame(np.zeros((3, 3))), frame(None)], format="extxyz")
    with pytest.raises(UserError, match=r"no forces.*frame 1"):
        read_frames(path)


def test_missing_empty_and_garbled_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_frames(tmp_path / "none.extxyz")
    (tmp_path / "bad.extxyz").write_text("three\nnot a structure\n")
    with pytest.raises(UserError, match="cannot be read"):
        read_frames(tmp_path / "bad.extxyz")
    (tmp_path / "empty.extxyz").write_text("")
    with pytest.raises(UserError):
        read_frames(tmp_path / "empty.extxyz")


def test_force_scale_is_the_spread_of_components() -> None:
    assert force_std([np.array([[3.0, 0, 0]]), np.array([[0, 4.0, 0]])]) == pytest.approx(np.sqrt(25 / 6))


def test_a_bad_cell_is_named_by_file_and_frame(tmp_path: Path) -> None:
    bad = frame(np.zeros((3, 3)))
    bad.set_cell([[3, 0, 0], [3, 0, 0], [0, 0, 3]])
    bad.pbc = True
    path = tmp_path / "a.extxyz"
    ase.io.write(path, [frame(np.zeros((3, 3))), bad], format="extxyz")
    with pytest.raises(UserError, match=r"singular.*a\.extxyz, frame 1"):
        ForceDataset(read_frames(path), GraphRequest(cutoff=3.0))


def test_batches_are_a_function_of_seed_and_step_alone() -> None:
    whole = StepSampler(10, 3, 12, seed=7)
    batches = list(whole)
    later = StepSampler(10, 3, 12, seed=7)
    later.first_step = 7
    assert list(later) == batches[7:]
    assert list(StepSampler(10, 3, 12, seed=8)) != batches
    for start in range(0, 12, 3):  # every pass is a permutation of what fits
        assert len({i for batch in batches[start : start + 3] for i in batch}) == 9


def test_collated_samples_keep_their_forces_and_domain(argon_data: Path) -> None:
    frames = read_frames(argon_data / "train.extxyz")
    dataset = ForceDataset(frames, GraphRequest(cutoff=6.0))
    batch = collate(dataset.samples[:3])
    assert batch.system.n_systems == 3
    np.testing.assert_allclose(batch.forces, np.concatenate(frames.forces[:3]))
    domain = dataset.domain()
    distances = [atoms.get_all_distances(mic=True) for atoms in frames.atoms]
    shortest = min(d[d > 0].min() for d in distances)
    assert domain.elements == (18,)
    assert domain.shortest_A["Ar-Ar"] == pytest.approx(shortest, rel=1e-12)
    assert domain.density == pytest.approx((32 / 11.0**3, 32 / 11.0**3))


def test_frames_with_and_without_velocities_make_one_batch(tmp_path: Path) -> None:
    moving = frame(np.zeros((3, 3)))
    moving.set_momenta(np.ones((3, 3)))
    ase.io.write(tmp_path / "a.traj", [moving, frame(np.zeros((3, 3)))])
    dataset = ForceDataset(read_frames(tmp_path / "a.traj"), GraphRequest(cutoff=3.0))
    assert collate(dataset.samples).system.n_systems == 2
