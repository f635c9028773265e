"""Wrapping of molecules, and what goes into the 3D view."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from kinetograph.report import scene_of
from kinetograph.report.view import wrapped_molecules
from kinetograph.trajectory import Trajectory

CELL = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [-1.0, 1.5, 10.0]])


def test_broken_chains_become_whole_with_their_centres_inside(rng: np.random.Generator) -> None:
    steps = rng.normal(size=(4, 3, 5, 3))
    steps *= 1.4 / np.linalg.norm(steps, axis=-1, keepdims=True)
    chains = rng.uniform(-20.0, 20.0, size=(4, 3, 1, 3)) + np.cumsum(steps, axis=2)
    whole = chains.reshape(4, 15, 3)
    torn = whole + rng.integers(-2, 3, size=whole.shape).astype(float) @ CELL
    # chains of five, bonds listed in no order and direction
    bonds = np.array(
        [[5 * c + a, 5 * c + a + 1][:: 1 if a % 2 else -1] for c in range(3) for a in (2, 0, 3, 1)]
    )
    mended = wrapped_molecules(torn, np.broadcast_to(CELL, (4, 3, 3)), np.full(3, True), bonds)
    lengths = np.linalg.norm(mended[:, bonds[:, 0]] - mended[:, bonds[:, 1]], axis=-1)
    assert np.allclose(lengths, 1.4)
    centers = mended.reshape(4, 3, 5, 3).mean(axis=2) @ np.linalg.inv(CELL)
    assert (centers >= -1e-9).all()
    assert (centers < 1.0 + 1e-9).all()
    moved = (mended - torn) @ np.linalg.inv(CELL)
    assert np.allclose(moved, np.rint(moved), atol=1e-9)


def test_directions_without_a_period_are_left_alone(rng: np.random.Generator) -> None:
    positions = rng.uniform(-30.0, 30.0, size=(2, 6, 3))
    cells = np.zeros((2, 3, 3))
    none = np.zeros((0, 2), dtype=np.int64)
    assert np.array_equal(wrapped_molecules(positions, cells, np.full(3, False), none), positions)
    slab = np.broadcast_to(np.diag([9.0, 8.0, 0.0]), (2, 3, 3))
    wrapped = wrapped_molecules(positions, slab, np.array([True, True, False]), none)
    assert np.allclose(wrapped[..., 2], positions[..., 2])
    assert (wrapped[..., :2] <= [9.0, 8.0]).all()


def test_packed_positions_are_the_wrapped_ones_to_a_hundredth(water_folder: Path) -> None:
    with Trajectory.open(water_folder / "water.h5") as trajectory:
        scene = scene_of(trajectory)
    packed = scene.to_json()
    values = np.frombuffer(base64.b64decode(packed["positions"]), dtype="<i2") * packed["resolution_A"]
    assert (
        np.abs(values.reshape(scene.positions.shape) - scene.positions).max()
        <= 0.5 * packed["resolution_A"] + 1e-9
    )
    assert packed["n_frames"] == 40
    first, second = np.array(packed["bonds"]).reshape(-1, 2).T
    lengths = np.linalg.norm(scene.positions[:, first] - scene.positions[:, second], axis=-1)
    assert lengths.max() < 1.3
