"""What can be added to a learned model, by name: the model then learns the difference."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from kinetograph.errors import UserError, nearest
from kinetograph.models.classical import ZBL
from kinetograph.models.dispersion import D3, D4
from kinetograph.models.electrostatics import FixedCharges
from kinetograph.models.options import words_of

Addition: TypeAlias = ZBL | D3 | D4 | FixedCharges

ADDITIONS: dict[str, type[Addition]] = {"zbl": ZBL, "d3": D3, "d4": D4, "charges": FixedCharges}


def build_addition(kind: str, elements: Sequence[int], arguments: Mapping[str, Any]) -> Addition:
    """A potential to stand beside a learned one in a :class:`~kinetograph.SumPotential`.

    Args:
        kind: a name in ``ADDITIONS``.
        elements: atomic numbers of all elements that it will meet.
        arguments: of its constructor, plain JSON, so that a model file can hold them.

    Raises:
        UserError: an unknown kind, an argument that it does not have, lacks, or that has an impossible
            value, an element that it does not know, or a library that is not installed.
    """
    if kind not in ADDITIONS:
        raise UserError(
            f"unknown addition {kind!r}{nearest(kind, list(ADDITIONS))}",
            mend=f"Known are: {', '.join(ADDITIONS)}.",
        )
    if not isinstance(arguments, Mapping):
        raise UserError(
            f"the arguments of the addition {kind!r} are {arguments!r}, not pairs of name and value",
            mend=f"Write {{{kind}: {{}}}} for none.",
        )
    known = inspect.signature(ADDITIONS[kind].__init__).parameters
    options = [name for name in known if name != "self"]
    for name in arguments:
        if name not in options:
            raise UserError(
                f"the addition {kind!r} has no option {name!r}{nearest(name, options)}",
                mend=f"It has: {', '.join(options)}.",
            )
    for name in options:
        if known[name].default is inspect.Parameter.empty and name not in arguments:
            words = words_of(ADDITIONS[kind])[name]
            raise UserError(
                f"the addition {kind!r} needs {name!r}",
                mend=f"Give it under model.add: {{{kind}: {{{name}: …}}}}; {words}.",
            )
    try:
        addition = ADDITIONS[kind](**arguments)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the addition {kind!r} cannot be built: {error}") from error
    addition.check_elements(elements)
    return addition
