"""Calculators of ASE by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from kinetograph.errors import UserError
from kinetograph.reference.calculators import ase_calculator


def test_one_of_ases_own_and_one_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(ase_calculator("emt"), EMT)
    assert isinstance(ase_calculator("ase.calculators.lj:LennardJones"), LennardJones)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_this_folder.py").write_text("from ase.calculators.emt import EMT as mine\n")
    assert isinstance(ase_calculator("of_this_folder:mine"), EMT)


def test_what_is_no_calculator_is_refused() -> None:
    with pytest.raises(UserError, match="no calculator 'vap'; did you mean 'vasp'"):
        ase_calculator("vap")
    with pytest.raises(UserError, match=r"cannot be made \(ModuleNotFoundError: .*'nowhere'"):
        ase_calculator("nowhere:calculator")
    with pytest.raises(UserError, match=r"cannot be made .*no attribute 'nothing'"):
        ase_calculator("ase.calculators.eam:nothing")
    with pytest.raises(UserError, match="makes a list, not a calculator"):
        ase_calculator("builtins:list")
