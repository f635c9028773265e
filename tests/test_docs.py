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


@pytest.mark.parametrize("row", ["painn-small", "gamd", "gamd-covariant", "gns", "schnet", "gemnet-t"])
def test_measured_numbers_are_those_of_the_page(generator: ModuleType, row: str) -> None:
    """Of some direct forms. One digit is shown, so that a last digit of one may be off by half of itself."""
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    said = re.search(rf"^\| `{row}`[^|]*\| direct \|(.*)\|$", page, re.M)
    assert said is not None
    cells = dict(zip(PROPERTIES, (cell.strip() for cell in said[1].split("|")), strict=True))
    (made,) = (made for names, head, made in generator.forms() if row == names[0] and head == "direct")
    measured = generator.on_random_weights(made)
    numbers = {name: float(cell) for name, cell in cells.items() if cell not in ("✓", "0")}
    assert numbers
    assert {name: measured[name] for name in numbers} == pytest.approx(numbers, rel=0.5)
