"""How an operator is told to torch: its plain form, and the kernels that stand in for it on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef


def edge_operator(kernel: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Make an operator of its plain form, ``kinetograph::`` and the form's name.

    Args:
        kernel: what runs on a GPU where the first argument is in single precision, as ``module.function`` of
            ``kernels/gpu``; the plain form does otherwise, and where that gives ``NotImplemented``.
    """
    module, function = kernel.split(".")

    def decorate(plain: Callable[..., Any]) -> CustomOpDef:
        operator: CustomOpDef = torch.library.custom_op(
            f"kinetograph::{plain.__name__}", plain, mutates_args=()
        )

        @operator.register_kernel("cuda")
        def on_gpu(*arguments: Any) -> Any:
            if arguments[0].dtype != torch.float32:
                return plain(*arguments)
            found = getattr(import_module(f"kinetograph.kernels.gpu.{module}"), function)(*arguments)
            return plain(*arguments) if found is NotImplemented else found

        return operator

    return decorate
