"""Real DFT data: it reads, and a model learns from it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols

from kinetograph.bonds import BondRule
from kinetograph.config import check_config
from kinetograph.data.dataset import ForceDataset
from kinetograph.data.frames import read_frames
from kinetograph.graph import GraphRequest
from kinetograph.training.fit import train

pytestmark = pytest.mark.realdata


@pytest.mark.parametrize(
    "file",
    [
        "water_pbe0ts/test.extxyz.xz",  # liquid
        "mlearn_Cu/test.extxyz",  # crystals and surfaces
        "formate_cu110/test.extxyz",  # slab
        "3bpa/test_300K.extxyz.xz",  # molecule
    ],
)
def test_public_sets_read_as_their_manifest_says(realdata: Path, file: str) -> None:
    """Number of frames, elements, root mean square and largest force were counted by others."""
    said = json.loads((realdata / "MANIFEST.json").read_text())[file]
    frames = read_frames(realdata / file)
    forces = np.concatenate(frames.forces)
    assert len(frames) == said["frames"]
    assert sorted(chemical_symbols[z] for z in frames.elements) == sorted(said["elements"])
    assert np.sqrt(np.mean(forces**2)) == pytest.approx(said["force_rms"], rel=1e-5)
    few = replace(frames, atoms=frames.atoms[:2], forces=frames.forces[:2])
    dataset = ForceDataset(few, GraphRequest(cutoff=4.0, bond_rule=BondRule(max_separation=2)))
    assert dataset[0].neighbors.n_edges > len(few.atoms[0])


def test_a_model_learns_dft_water(realdata: Path, tmp_path: Path) -> None:
    """Forty steps on DFT water take the relative error from 1 well below it."""
    folder = realdata / "water_pbe0ts"
    config = {
        "model": {"cutoff_A": 4.0, "max_bond_separation": 2, "width": 32, "n_layers": 1},
        "data": {"train": str(folder / "train.extxyz.xz"), "valid": str(folder / "valid.extxyz")},
        "training": {"max_steps": 40, "validate_every": 40, "learning_rate": 0.01, "warmup_steps": 5},
    }
    torch.manual_seed(0)
    train(check_config(config, "test"), tmp_path / "run", progress=False)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["valid_relative_error"]) < 0.7
