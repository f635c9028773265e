"""What tests share: seeds, the skips for what a machine lacks, and where real data lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
        if "realdata" in item.keywords and not Path(os.environ.get("KINETOGRAPH_DATA", "/nonexistent")).is_dir():
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
