"""Run folders of synthetic data, written by the real writers."""

from __future__ import annotations

import json
from pathlib import Path

import ase.build
import numpy as np
import pytest
import yaml
from scipy.signal import lfilter

from kinetograph import units
from kinetograph.analysis import analyze, force_errors
from kinetograph.trajectory import Frame, Trajectory, TrajectoryWriter

ARGON = ase.build.bulk("Ar", "fcc", a=5.4, cubic=True) * (3, 3, 3)


def fluctuations(rng: np.random.Generator, n: int, shape: tuple[int, ...], memory: float = 0.8) -> np.ndarray:
    """(n, *shape) correlated noise of unit variance."""
    noise = rng.normal(size=(n + 100, *shape)) * np.sqrt(1.0 - memory**2)
    return lfilter([1.0], [1.0, -memory], noise, axis=0)[100:]


def write_argon(path: Path, seed: int, *, cold: bool = False, n_frames: int = 150) -> Path:
    """Argon atoms that shake around an fcc lattice at 60 K, or warm up to it from rest."""
    rng = np.random.default_rng(seed)
    n_atoms, stiffness, temperature = len(ARGON), 0.02, 60.0
    rise = 1.0 - np.exp(-np.arange(n_frames) / (20.0 + seed % 3)) if cold else np.ones(n_frames)
    motion = 0.45 * fluctuations(rng, n_frames, (n_atoms, 3)) * np.sqrt(rise)[:, None, None]
    dof = 3 * n_atoms - 3
    temperatures = temperature * rise * (1.0 + np.sqrt(2.0 / dof) * fluctuations(rng, n_frames, ()))
    with TrajectoryWriter(
        path,
        atomic_numbers=ARGON.numbers,
        masses=ARGON.get_masses(),
        pbc=ARGON.pbc,
        metadata={"thermostat": {"kind": "nose-hoover", "temperature_K": temperature}, "seed": seed},
    ) as writer:
        for i in range(n_frames):
            forces = -stiffness * motion[i] * (1.0 + 0.1 * rng.normal(size=(n_atoms, 1)))
            writer.append(
                Frame(
                    step=50 * i,
                    time_fs=100.0 * i,
                    positions=ARGON.positions + motion[i],
                    cell=np.asarray(ARGON.cell),
                    forces=forces,
                    temperature=float(temperatures[i]),
                    kinetic_energy=float(0.5 * dof * units.BOLTZMANN_EV_PER_K * temperatures[i]),
                    potential_energy=float(0.5 * stiffness * (motion[i] ** 2).sum()),
                )
            )
    return path


def write_water(path: Path, seed: int, *, n_frames: int = 40) -> Path:
    """64 waters that turn and drift, unwrapped, in a triclinic box."""
    rng = np.random.default_rng(seed)
    cell = np.array([[13.6, 0.0, 0.0], [2.5, 12.8, 0.0], [-1.5, 1.0, 13.1]])
    body = np.array([[0.0, 0.0, 0.0], [0.957, 0.0, 0.0], [-0.24, 0.927, 0.0]])
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3) / 4.0 + 0.125
    turns = np.linalg.qr(rng.normal(size=(64, 3, 3)))[0]
    drift = np.cumsum(0.3 * rng.normal(size=(n_frames, 64, 3)), axis=0)
    first = 3 * np.arange(64)
    with TrajectoryWriter(
        path,
        atomic_numbers=np.tile([8, 1, 1], 64),
        masses=np.tile([15.999, 1.008, 1.008], 64),
        pbc=np.full(3, True),
        bonds=np.concatenate([np.stack([first, first + 1], 1), np.stack([first, first + 2], 1)]),
        metadata={"model": "water.kg"},
    ) as writer:
        for i in range(n_frames):
            centers = grid @ cell + drift[i]
            positions = centers[:, None] + np.einsum("ak,mjk->maj", body, turns)
            positions = positions + 0.03 * rng.normal(size=positions.shape)
            writer.append(
                Frame(
                    step=i,
                    time_fs=25.0 * i,
                    positions=positions.reshape(-1, 3),
                    cell=cell,
                    forces=rng.normal(size=(192, 3)),
                    temperature=300.0 + 12.0 * float(rng.normal()),
                    kinetic_energy=7.4 + 0.3 * float(rng.normal()),
                )
            )
    return path


def write_run(folder: Path, seed: int, error: float) -> Path:
    """A complete run folder on argon."""
    folder.mkdir()
    reference_folder = folder.parent / f"{folder.name}-reference"
    reference_folder.mkdir()
    rng = np.random.default_rng(seed)
    paths = [
        write_argon(folder / "run-0.h5", seed),
        write_argon(folder / "run-1-cold.h5", seed + 1, cold=True),
    ]
    others = [
        write_argon(reference_folder / "a.h5", seed + 100),
        write_argon(reference_folder / "b.h5", seed + 102, cold=True),
    ]
    opened = [Trajectory.open(path) for path in [*paths, *others]]
    analysis = analyze(opened[:2], opened[2:]).to_json()
    true = opened[2].forces(slice(0, 40))
    assert true is not None
    for trajectory in opened:
        trajectory.close()
    predicted = (
        true + error * np.linalg.norm(true, axis=-1, keepdims=True) * rng.normal(size=true.shape) / 1.6
    )
    evaluation = force_errors(true, predicted, ARGON.numbers).to_json()
    (folder / "analysis.json").write_text(json.dumps(analysis))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    summary = {
        "model": "gamd-covariant",
        **{key: value for key, value in evaluation.items() if isinstance(value, float)},
        **analysis["summary"],
        "ns_per_day": 1.84,
        "command": "kinetograph demo",
        "versions": {"kinetograph": "0.1.0", "torch": "2.13.0", "python": "3.11"},
        "machine": "2 cores, x86_64",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    config = {
        "model": {"preset": "gamd-covariant", "width": 64, "cutoff_A": 7.5},
        "data": {"train": "argon-train.h5", "test": "argon-test.h5"},
        "training": {"max_steps": 2000, "batch_size": 8, "learning_rate": 1e-3},
        "note": "</script><script>throw new Error('not escaped')</script>",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    lines = ["step,train_loss,valid_loss,valid_force_mae_eV_per_A,lr"]
    for step in range(0, 2001, 20):
        loss = 0.6 * np.exp(-step / 400.0) + 0.02 + 0.01 * rng.random()
        valid = f"{loss * 1.1:.5f},{loss / 40:.6f}" if step % 100 == 0 else ","
        lines.append(f"{step},{loss:.5f},{valid},0.001")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two complete runs on argon."""
    root = tmp_path_factory.mktemp("runs")
    return write_run(root / "argon-covariant", 3, 0.02), write_run(root / "argon-paper", 6, 0.06)


@pytest.fixture(scope="session")
def water_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a water trajectory and its analysis, and nothing else."""
    folder = tmp_path_factory.mktemp("water")
    with Trajectory.open(write_water(folder / "water.h5", 5)) as trajectory:
        (folder / "analysis.json").write_text(json.dumps(analyze([trajectory]).to_json()))
    return folder
