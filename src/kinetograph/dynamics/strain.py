"""Strain: what a barostat may do to a cell, and what that does to vectors.

The rows of a cell h are its vectors, so a deformation M takes cells and positions alike from the right::

    h → h M,   r → r M,   with M = exp(ε), ε symmetric: the cell does not turn

===================  ==========================================  =================
mode                 what of ε is left                           independent parts
===================  ==========================================  =================
``isotropic``        its mean diagonal: the shape stays          1
``semi-isotropic``   one number for x and y, one for z           2
``full``             all of it                                   6
===================  ==========================================  =================

These parts are computed on the host, structure by structure: the same to the bit in every batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from kinetograph.dynamics.velocities import per_atom
from kinetograph.errors import UserError
from kinetograph.system import System

Array = np.ndarray[Any, Any]
Mode = Literal["isotropic", "semi-isotropic", "full"]

PARTS: dict[Mode, int] = {"isotropic": 1, "semi-isotropic": 2, "full": 6}
"""How many numbers a strain has in each mode."""


def check_mode(mode: str) -> None:
    """Raise ``UserError`` unless there is such a mode."""
    if mode not in PARTS:
        raise UserError(f"mode is {mode!r}", where="mode", mend=f"Use one of {', '.join(get_args(Mode))}.")


def allowed(tensors: Array, mode: Mode) -> Array:
    """(n, 3, 3): the part of each tensor that a strain of the mode can have."""
    symmetric = 0.5 * (tensors + tensors.swapaxes(1, 2))
    if mode == "full":
        return symmetric
    x, y, z = (symmetric[:, i, i] for i in range(3))
    if mode == "isotropic":
        across = along = (x + y + z) / 3.0
    else:
        across, along = 0.5 * (x + y), z
    diagonal = np.zeros_like(symmetric)
    diagonal[:, 0, 0] = diagonal[:, 1, 1] = across
    diagonal[:, 2, 2] = along
    return diagonal


def traceless(tensors: Array) -> Array:
    """(n, 3, 3): each tensor without its mean diagonal."""
    return tensors - allowed(tensors, "isotropic")


def trace(tensors: Array) -> Array:
    """(n,)."""
    total: Array = tensors[:, 0, 0] + tensors[:, 1, 1] + tensors[:, 2, 2]
    return total


def norm_square(tensors: Array) -> Array:
    """(n,): Σ_ij t_ij²."""
    squares = tensors * tensors
    rows = squares[:, :, 0] + squares[:, :, 1] + squares[:, :, 2]
    total: Array = rows[:, 0] + rows[:, 1] + rows[:, 2]
    return total


def of_symmetric(matrices: Array, function: Callable[[Array], Array]) -> Array:
    """(n, 3, 3): a function of symmetric matrices, by their eigenvalues; NaN stays NaN."""
    broken = ~np.isfinite(matrices).all(axis=(1, 2), keepdims=True)
    values, axes = np.linalg.eigh(np.where(broken, 0.0, matrices))
    result = (axes * function(values)[:, None, :]) @ axes.swapaxes(1, 2)
    return np.where(broken, np.nan, result)


def transformed(vectors: Tensor, matrices: Tensor, system: System) -> Tensor:
    """(n_atoms, 3): the vector of each atom times the matrix of its structure, v M."""
    m = per_atom(matrices, system)
    return vectors[:, 0:1] * m[:, 0] + vectors[:, 1:2] * m[:, 1] + vectors[:, 2:3] * m[:, 2]


def host(values: Tensor) -> Array:
    """The same numbers as an array on the host."""
    array: Array = values.detach().cpu().numpy()
    return array


def like(array: Array, tensor: Tensor) -> Tensor:
    """The same numbers as a tensor on the device of another, in its type."""
    return torch.from_numpy(array).to(tensor)
