"""Calculators of ASE by name: what a user's own reference is called on the command line."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from ase.calculators.calculator import BaseCalculator, get_calculator_class
from ase.calculators.names import names

from kinetograph.errors import UserError, nearest


def ase_calculator(name: str) -> BaseCalculator:
    """A calculator with its default settings, or one that the user's own function makes.

    Args:
        name: one of ASE's own, such as ``emt``; or ``module:callable``, such as ``tblite.ase:TBLite`` or
            ``my_dft:calculator`` for a function without arguments in ``my_dft.py`` of the current folder.

    Raises:
        UserError: there is none such, or it cannot be made.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute and module_name not in names:
        raise UserError(
            f"ASE has no calculator {name!r}{nearest(name, names)}",
            where="reference",
            mend="Name a function of your own as module:function.",
        )
    here = str(Path.cwd())
    if here not in sys.path:  # the command, unlike `python -m`, does not look there
        sys.path.append(here)
    try:
        make = getattr(import_module(module_name), attribute) if attribute else get_calculator_class(name)
        calculator = make()
    except Exception as error:  # of an import or a constructor that is not ours
        raise UserError(
            f"the calculator {name!r} cannot be made ({type(error).__name__}: {error})", where="reference"
        ) from error
    if not isinstance(calculator, BaseCalculator):
        raise UserError(
            f"{name!r} makes a {type(calculator).__name__}, not a calculator of ASE", where="reference"
        )
    return calculator
