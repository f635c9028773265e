"""What tests share: seeds, the skips for what a machine lacks, and where real data lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

if not Path("/dev/nvidiactl").exists():  # Triton decides when it is first imported, which torch may do
    os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    no_data = pytest.mark.skip(reason="KINETOGRAPH_DATA does not point to the reference data")
    no_browser = pytest.mark.skip(reason="no chromium and chromedriver on PATH")
    has_browser = shutil.which("chromium") and shutil.which("chromedriver")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if (
            "realdata" in item.keywords
            and not Path(os.environ.get("KINETOGRAPH_DATA", "/nonexistent")).is_dir()
        ):
            item.add_marker(no_data)
        if "browser" in item.keywords and not has_browser:
            item.add_marker(no_browser)


@pytest.fixture
def realdata() -> Path:
    """Folder of the reference data; use with the marker ``realdata``."""
    return Path(os.environ["KINETOGRAPH_DATA"])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


def write_argon(path: Path, *, n_frames: int, seed: int, n_side: int = 2) -> None:
    """Labelled frames of a rattled argon crystal; the labels are an exact Lennard-Jones."""
    import ase.io
    from ase.build import bulk
    from ase.calculators.singlepoint import SinglePointCalculator

    from kinetograph.graph import neighbors_for
    from kinetograph.models.classical import LennardJones
    from kinetograph.system import System

    potential = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=6.0, truncation="switch", switch_start=5.0)
    frames = []
    for number in range(n_frames):
        atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (n_side, n_side, n_side)
        atoms.rattle(0.3, seed=1000 * seed + number)
        system = System.from_ase(atoms)
        prediction = potential(system, neighbors_for(system, potential.request))
        assert prediction.energy is not None
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(prediction.energy), forces=prediction.forces.numpy()
        )
        frames.append(atoms)
    path.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, frames, format="extxyz")


@pytest.fixture(scope="session")
def argon_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, valid and test frames of argon."""
    folder = tmp_path_factory.mktemp("argon")
    write_argon(folder / "train.extxyz", n_frames=8, seed=0)
    write_argon(folder / "valid.extxyz", n_frames=3, seed=1)
    write_argon(folder / "test.extxyz", n_frames=3, seed=2)
    return folder


@pytest.fixture(scope="session")
def argon_config(argon_data: Path) -> dict[str, dict[str, object]]:
    """A tiny training configuration on that data."""
    return {
        "model": {"preset": "gamd-covariant", "cutoff_A": 6.0, "width": 8, "n_layers": 1},
        "data": {"train": str(argon_data / "train.extxyz"), "valid": str(argon_data / "valid.extxyz")},
        "training": {"max_steps": 12, "validate_every": 4, "warmup_steps": 2, "ema_decay": 0.9},
    }


@pytest.fixture(scope="session")
def argon_model(argon_config: dict[str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file trained for a moment on argon."""
    from kinetograph.config import check_config
    from kinetograph.training.fit import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    return train(check_config(argon_config, "test"), folder, progress=False).model
