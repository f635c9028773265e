"""What was made from a module's weights, kept for as long as they stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

Form = TypeVar("Form")
"""A model's form for running, on a CPU or on a GPU."""


class KeptForm:
    """One form, made anew when a weight was changed in place or stands elsewhere.

    Changes through ``parameter.data``, and parameters that are replaced, are not noticed before
    :meth:`forget`.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._weights: list[Tensor] | None = None
        """What the form is made from; empty where nobody would notice that it changed."""
        self._form: Any = None
        self._version: tuple[tuple[int, int], ...] | None = None

    def of(self, module: nn.Module, make: Callable[[], Form | None]) -> Form | None:
        """The form that ``make`` makes of this module, from the last call where its weights are the same.

        ``None`` where there is none, or where changes of the weights would go unnoticed. Who wants another
        kind of form must forget the last one first.
        """
        if self._weights is None:
            weights = [*module.parameters(), *module.buffers()]
            # Of tensors made in inference mode nobody counts the changes.
            self._weights = [] if any(weight.is_inference() for weight in weights) else weights
        if not self._weights:
            return None
        version = tuple((weight.data_ptr(), weight._version) for weight in self._weights)
        if version != self._version:
            self._form, self._version = make(), version
        form: Form | None = self._form
        return form
