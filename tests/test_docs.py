"""Pages that are written from the code say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from kinetograph.learned_potential import LearnedPotential
from kinetograph.nn.model import PROPERTIES

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_table", DOCS / "model_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_models_is_what_the_code_would_write(generator: ModuleType) -> None:
    """All but the measured numbers, which take minutes: `python docs/model_table.py` writes it anew."""
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    assert generator.offers() in page
    assert generator.presets() in page

    def unmeasured(_: LearnedPotential) -> dict[str, float]:
        return dict.fromkeys(PROPERTIES, 0.0)

    tables = f"{generator.exact(unmeasured)}\n{generator.CHANGED}{generator.changed(unmeasured)}\n"
    assert re.sub(r"\| [0-9.e+-]+ (?=\|)", "| 0 ", page).endswith(tables)
