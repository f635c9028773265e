"""L-BFGS without a line search: one evaluation a step, and no need of an energy.

Byrd, Nocedal and Schnabel, Math. Program. 63, 129 (1994), Theorem 2.2: from the last m steps s and changes of
the gradient y, the inverse Hessian in compact form, which takes no loop over the history::

    H f = γ f + S b − γ Y a,    a = R⁻¹ Sᵀ f,    b = R⁻ᵀ ((D + γ Yᵀ Y) a − γ Yᵀ f)

R is the upper triangle of Sᵀ Y with its diagonal D, the oldest pair first. A pair of negative curvature
(s·y ≤ 0) is not remembered, so that H stays positive definite. Steps are shortened to ``max_step_A``, as in
ASE and in OC20's relaxations (Chanussot et al., ACS Catal. 11, 6059 (2021)).

===========  =========================================================
symbol       here
===========  =========================================================
S, Y         ``s``, ``y`` (n_rows, m, 3)
Sᵀ Y, Yᵀ Y   ``sy``, ``yy`` (n_systems, m, m)
γ            ``scale``: s·y / y·y of the newest pair
===========  =========================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.dynamics.relax.coordinates import Rows
from kinetograph.dynamics.relax.methods import Memory, shortened
from kinetograph.dynamics.settings import require_positive, require_whole
from kinetograph.nn.segments import sum_to

LEAST_COSINE = 1e-6
"""Of s and y: below it their product is noise."""


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS (Liu and Nocedal, Math. Program. 45, 503 (1989))."""

    memory: int = 20
    """Pairs of steps and changes of the gradient that are remembered."""
    curvature_eV_per_A2: float = 70.0
    """Of the first step, when none is known."""
    max_step_A: float = 0.2
    """The longest step of an atom."""

    def __post_init__(self) -> None:
        require_positive("curvature_eV_per_A2", self.curvature_eV_per_A2)
        require_positive("max_step_A", self.max_step_A)
        require_whole("memory", self.memory, least=1)

    def start(self, x: Tensor, rows: Rows) -> Memory:
        m, n = self.memory, rows.n_systems
        return Memory(
            of_rows={
                "x": x,
                "forces": torch.full_like(x, torch.nan),
                "s": x.new_zeros(len(x), m, 3),
                "y": x.new_zeros(len(x), m, 3),
            },
            of_systems={
                "sy": x.new_zeros(n, m, m),
                "yy": x.new_zeros(n, m, m),
                "scale": x.new_full((n,), 1.0 / self.curvature_eV_per_A2),
            },
        )

    def step(self, x: Tensor, forces: Tensor, rows: Rows, memory: Memory) -> tuple[Tensor, Memory]:
        memory = self._with_pair(x, forces, rows, memory)
        step = shortened(self._newton_step(forces, rows, memory), rows, self.max_step_A)
        return x + step, memory

    def _with_pair(self, x: Tensor, forces: Tensor, rows: Rows, memory: Memory) -> Memory:
        """The memory with the newest pair behind the others; a pair of zeros where it is not wanted."""
        old, of = memory.of_rows, memory.of_systems
        s, y = x - old["x"], old["forces"] - forces
        curvature, square = rows.dot(s, y), rows.dot(y, y)
        flat = LEAST_COSINE * (rows.dot(s, s) * square).sqrt()
        good = curvature > flat  # not before the first step, where all is NaN
        s, y = (torch.where(rows.spread(good), value, 0.0) for value in (s, y))
        all_s, all_y = _behind(old["s"], s), _behind(old["y"], y)
        # Rows and columns of the newest pair; the others move up by one.
        sy, yy = (torch.nn.functional.pad(of[name][:, 1:, 1:], (0, 1, 0, 1)) for name in ("sy", "yy"))
        sy[:, :, -1] = _products(all_s, y, rows)
        yy[:, :, -1] = yy[:, -1, :] = _products(all_y, y, rows)
        return Memory(
            of_rows={"x": x, "forces": forces, "s": all_s, "y": all_y},
            of_systems={"sy": sy, "yy": yy, "scale": torch.where(good, curvature / square, of["scale"])},
        )

    def _newton_step(self, forces: Tensor, rows: Rows, memory: Memory) -> Tensor:
        """(n_rows, 3): H f."""
        s, y, scale = memory.of_rows["s"], memory.of_rows["y"], memory.of_systems["scale"][:, None]
        sy = memory.of_systems["sy"]
        d = sy.diagonal(dim1=1, dim2=2)
        # A pair of zeros gets a 1 on the diagonal: it adds nothing.
        r = torch.triu(sy) + torch.diag_embed((d == 0.0).to(sy))
        a = _solved(r, _products(s, forces, rows), upper=True)
        yy_a = (memory.of_systems["yy"] * a.unsqueeze(1)).sum(dim=2)
        middle = d * a + scale * (yy_a - _products(y, forces, rows))
        b = _solved(r.transpose(1, 2), middle, upper=False)
        b, a = b[rows.owner].unsqueeze(2), (scale * a)[rows.owner].unsqueeze(2)
        return scale[rows.owner] * forces + (b * s - a * y).sum(dim=1)


def _behind(history: Tensor, newest: Tensor) -> Tensor:
    """(n_rows, m, 3): the oldest leaves, the newest comes last."""
    return torch.cat([history[:, 1:], newest.unsqueeze(1)], dim=1)


def _products(history: Tensor, vector: Tensor, rows: Rows) -> Tensor:
    """(n_systems, m): of each vector of the history (n_rows, m, 3) with one (n_rows, 3)."""
    return sum_to(rows.owner, (history * vector.unsqueeze(1)).sum(dim=2), rows.n_systems)


def _solved(triangle: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(triangle, right.unsqueeze(2), upper=upper)
    return solution[:, :, 0]
