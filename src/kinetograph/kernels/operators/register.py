"""How an operator is told to torch: its plain form, and the kernels that stand in for it on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from kinetograph.kernels.native import triton_kernels


class DoesNotFit(Exception):
    """A kernel has no room for sizes like these: the plain form is for them."""


def edge_operator(kernel: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Make an operator of its plain form, ``kinetograph::`` and the form's name.

    Args:
        kernel: what runs on a GPU where the first argument is in single precision, as ``module.function`` of
            ``kernels/gpu``; the plain form does otherwise, and where that raises :class:`DoesNotFit` or needs
            more than the device has.
    """
    module, function = kernel.split(".")

    def decorate(plain: Callable[..., Any]) -> CustomOpDef:
        operator: CustomOpDef = torch.library.custom_op(
            f"kinetograph::{plain.__name__}", plain, mutates_args=()
        )

        @operator.register_kernel("cuda")
        def on_gpu(*arguments: Any) -> Any:
            if arguments[0].dtype != torch.float32 or not triton_kernels():
                return plain(*arguments)
            from triton.runtime.errors import OutOfResources

            run = getattr(import_module(f"kinetograph.kernels.gpu.{module}"), function)
            with torch.cuda.device(arguments[0].device):  # Triton asks which one is current
                try:
                    return run(*(contiguous(x) for x in arguments))
                except (DoesNotFit, OutOfResources):
                    return plain(*arguments)

        return operator

    return decorate


def contiguous(argument: Any) -> Any:
    """A tensor, or a sequence of them, as kernels see memory; anything else as it is."""
    if isinstance(argument, Tensor):
        return argument.contiguous()
    if isinstance(argument, list | tuple):
        return [contiguous(x) for x in argument]
    return argument


def refuse_trained(rows: Tensor) -> None:
    """Raise ``ValueError`` where somebody would wait in vain for a derivative by a table."""
    if rows.requires_grad:
        raise ValueError("tables are for running: there are no derivatives by them")
