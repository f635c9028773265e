"""The options of an architecture: their names and words, and values that no constructor can mean."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from torch import nn

from kinetograph.errors import UserError
from kinetograph.nn.model import Model, option_key

MAY_BE_ZERO = (
    "max_bond_separation",
    "n_before_skip",
    "n_after_skip",
    "n_dense",
    "n_concat",
    "n_atom",
    "n_embedding_layers",
)
"""Numbers of optional layers, and of bonds that need not be looked at."""


def names_of(architecture: type[nn.Module]) -> list[str]:
    """Names of the hyperparameters, cutoff and forces left out."""
    names = inspect.signature(architecture.__init__).parameters
    return [name for name in names if name not in ("self", "elements", "cutoff", "forces")]


def defaults_of(architecture: type[nn.Module]) -> dict[str, Any]:
    """What each option is unless it is named, and the kind of forces; as JSON has them."""
    parameters = inspect.signature(architecture.__init__).parameters
    defaults = {name: parameters[name].default for name in (*names_of(architecture), "forces")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def words_of(architecture: type[nn.Module]) -> dict[str, str]:
    """What each option is, from the arguments in the docstring of the class."""
    document = inspect.getdoc(architecture) or ""
    words: dict[str, str] = {}
    current: list[str] = []
    for line in document.partition("Args:\n")[2].splitlines():
        if line and not line.startswith(" "):
            break
        begins = re.match(r"    (\w[\w, ]*): (.*)", line)
        if begins:
            current = begins[1].split(", ")
            words.update(dict.fromkeys(current, begins[2]))
        elif line.strip():
            words.update({name: f"{words[name]} {line.strip()}" for name in current})
    module = architecture.__module__
    kinds = get_type_hints(architecture.__init__)
    plain = {name: _plain(words.get(name, ""), module) for name in names_of(architecture)}
    for name, text in plain.items():
        choices = [one for one in _choices(kinds[name]) if isinstance(one, str)]
        if any(one not in text for one in choices):
            plain[name] = f"{text}. One of: {', '.join(choices)}"
    return plain


def _choices(kind: Any) -> list[Any]:
    """The literals of a type, those of a union's members with it."""
    return [deep for one in get_args(kind) for deep in ([one] if isinstance(one, str) else _choices(one))]


def _plain(text: str, module: str) -> str:
    """Without the marks of a docstring."""
    text = text.replace("the module's docstring", module).replace("``", "")
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).rstrip(".")


def check_values(architecture: type[Model], hyperparameters: Mapping[str, Any]) -> None:
    """Refuse what is not of an option's kind: counts and sizes are whole and at least one, and so on.

    Raises:
        UserError: the option, what it is and what it must be.
    """
    kinds = get_type_hints(architecture.__init__)
    for name, value in hyperparameters.items():
        choices = get_args(kinds[name]) or (kinds[name],)
        if value is None and type(None) in choices:
            continue
        needed = None
        if kinds[name] == Sequence[float]:
            listed = isinstance(value, list | tuple) and len(value) > 0
            if not listed or not all(_is_number(one) and one > 0.0 for one in value):
                needed = "a list of positive numbers"
        elif bool in choices:
            needed = None if isinstance(value, bool) else "true or false"
        elif float in choices:
            positive = name == "cutoff" or type(None) in choices
            if not _is_number(value) or value < 0.0 or (positive and value == 0.0):
                needed = "a positive number"
        elif int in choices:
            least = 0 if name in MAY_BE_ZERO else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                needed = f"a whole number of at least {least}"
        if needed is not None:
            where = "model.cutoff_A" if name == "cutoff" else option_key(name)
            raise UserError(f"{name} is {value!r}, not {needed}", where=where)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
