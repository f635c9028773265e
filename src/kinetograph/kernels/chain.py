"""Chains of dense layers, sums and products on rows, fused and differentiable once: ``csrc/chain.cpp``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinetograph.kernels.native import Library, Workspace, floats, require

_READ, _LINEAR, _SILU, _ADD, _MULTIPLY, _WRITE = range(6)


class _Step(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                *("kind", "width", "n_in", "from_", "with_", "to", "by_from", "by_with", "by_to"),
                *("adds_from", "adds_with", "tensor", "index", "tape"),
            )
        ),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("weights", "back", "bias")),
    ]


@dataclass
class _Node:
    """A step before it has its place in memory; values have the number of the step that makes them."""

    kind: int
    width: int
    from_: int = -1
    with_: int = -1
    n_in: int = 0
    tensor: int = -1
    index: int = -1
    scale: float = 1.0
    weights: int = 0
    back: int = 0
    bias: int = 0
    followed: bool = True
    """Whether derivatives by this value are wanted."""


class Chain:
    """What is done with each row, in the order of the calls that describe it; then call it to do so.

    A value is a number that one call gives and others take. Widths are rounded up to whole registers: read
    tensors come padded with zeros, and written ones are.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        self.workspace = Workspace()
        self._tile = library("kg_chain_tile")
        self._kept: list[Tensor] = []
        self._nodes: list[_Node] = []
        self._read: list[int] = []  # widths
        self._written: list[tuple[int, bool]] = []  # widths, and whether rows are summed
        self._n_indices = 0
        self._steps: Any = None

    # ---- describing -----------------------------------------------------------------------------------

    def read(self, width: int, *, indexed: bool = False, followed: bool = True) -> int:
        """The next tensor: its rows one by one, or those of the next index.

        Args:
            followed: whether derivatives by it will be wanted.
        """
        width = self._up(width)
        self._read.append(width)
        return self._add(
            _Node(_READ, width, tensor=len(self._read) - 1, index=self._index(indexed), followed=followed)
        )

    def dense(
        self,
        x: int,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        plus: int | None = None,
        silu: float | None = None,
    ) -> int:
        """W x + b + plus, or with ``silu`` that many times SiLU of it."""
        n_in = self._nodes[x].width
        weight = pad(weight.detach(), (0, n_in - weight.shape[1], 0, self._up(len(weight)) - len(weight)))
        node = _Node(
            _LINEAR if silu is None else _SILU, len(weight), x, -1 if plus is None else plus, n_in=n_in
        )
        node.scale = 1.0 if silu is None else silu
        node.weights, node.back = self._pack(weight), self._pack(weight.T)
        if bias is not None:
            node.bias = self._keep(pad(bias.detach(), (0, len(weight) - len(bias))))
        return self._add(node)

    def add(self, x: int, y: int, scale: float = 1.0) -> int:
        """scale · (x + y)."""
        return self._add(_Node(_ADD, self._nodes[x].width, x, y, scale=scale))

    def multiply(self, x: int, y: int) -> int:
        """x ∘ y."""
        return self._add(_Node(_MULTIPLY, self._nodes[x].width, x, y))

    def write(self, x: int, *, summed: bool = False) -> None:
        """To the next tensor that a call gives: row by row, or the sum of all rows of the next index."""
        width = self._nodes[x].width
        self._written.append((width, summed))
        tensor = len(self._written) - 1
        self._add(_Node(_WRITE, width, x, tensor=tensor, index=self._index(summed)))

    # ---- running --------------------------------------------------------------------------------------

    def __call__(
        self, tensors: Sequence[Tensor], indices: Sequence[Tensor] = (), *, n_rows: int, n_sums: int = 0
    ) -> tuple[Tensor, ...]:
        """The written tensors, (n_rows, width) or where rows are summed (n_sums, width).

        Args:
            tensors: float32, as many as are read.
            indices: (n_rows,) int64 each.
        """
        require(torch.float32, *tensors)
        require(torch.int64, *indices)
        if self._steps is None:
            self._place()
        out: tuple[Tensor, ...] = _Run.apply(  # type: ignore[no-untyped-call]
            self, n_rows, n_sums, [i.contiguous() for i in indices], *tensors
        )
        return out

    # ---- placing values in memory ---------------------------------------------------------------------

    def _place(self) -> None:
        nodes = self._nodes
        for node in nodes:
            if node.kind != _READ:
                node.followed = any(nodes[i].followed for i in (node.from_, node.with_) if i >= 0)
        steps = (_Step * len(nodes))()
        tape = 0
        for step, node in zip(steps, nodes, strict=True):
            for name in ("kind", "width", "n_in", "tensor", "index", "scale", "weights", "back", "bias"):
                setattr(step, name, getattr(node, name))
            step.tape = tape
            tape += {_SILU: 1, _MULTIPLY: 2}.get(node.kind, 0) * node.width
            if node.kind == _WRITE:
                step.tensor += len(self._read)
        # Values live from the step that makes them to the last one that takes them.
        last = {i: k for k, node in enumerate(nodes) for i in (node.from_, node.with_) if i >= 0}
        slots = _Slots()
        for k, (step, node) in enumerate(zip(steps, nodes, strict=True)):
            step.from_, step.with_ = slots.of(node.from_), slots.of(node.with_)
            if node.kind != _WRITE:
                step.to = slots.take(k)
            for i in {node.from_, node.with_}:
                if last.get(i) == k:
                    slots.free(i)
        # Derivatives live from the last step that takes the value back to the one that makes it.
        back = _Slots()
        for k, (step, node) in reversed(list(enumerate(zip(steps, nodes, strict=True)))):
            step.by_to = back.of(k)
            for name, i in (("from", node.from_), ("with", node.with_)):
                wanted = i >= 0 and nodes[i].followed
                setattr(step, f"adds_{name}", int(wanted and back.of(i) >= 0))
                setattr(step, f"by_{name}", back.take(i) if wanted else -1)
            back.free(k)
        self._tape_width = tape
        self._n_slots = max(slots.n, back.n)
        self._largest = max(node.width for node in nodes)
        self._steps = steps

    def _run(
        self,
        name: str,
        tensors: Sequence[Tensor],
        indices: Sequence[Tensor],
        n_rows: int,
        tape: Tensor | None,
    ) -> None:
        memory = self.workspace.bytes("slots", 4 * self._n_slots * self._tile * self._largest)
        pointers = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        index = (ctypes.c_void_p * max(len(indices), 1))(*(i.data_ptr() for i in indices))
        self.library(
            name,
            *(self._steps, len(self._nodes), n_rows, pointers, index),
            *(tape, self._tape_width, memory, self._largest),
        )

    def _up(self, width: int) -> int:
        return -(-width // self.library.width) * self.library.width

    def _index(self, used: bool) -> int:
        self._n_indices += used
        return self._n_indices - 1 if used else -1

    def _add(self, node: _Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _pack(self, weight: Tensor) -> int:
        weight = weight.float().contiguous()
        packed = floats(weight.numel())
        self.library("kg_pack", weight, *weight.shape, packed)
        return self._keep(packed)

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.float().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


class _Slots:
    """Places for values, given again when they are free."""

    def __init__(self) -> None:
        self.n = 0
        self._free: list[int] = []
        self._of: dict[int, int] = {}

    def of(self, value: int) -> int:
        return self._of.get(value, -1)

    def take(self, value: int) -> int:
        if value not in self._of:
            if not self._free:
                self._free.append(self.n)
                self.n += 1
            self._of[value] = self._free.pop()
        return self._of[value]

    def free(self, value: int) -> None:
        if value in self._of:
            self._free.append(self._of.pop(value))


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chain: Chain, n_rows: int, n_sums: int, indices: list[Tensor], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        read = [tensor.contiguous() for tensor in tensors]
        written = [
            _zeros(n_sums, width) if summed else floats(n_rows, width) for width, summed in chain._written
        ]
        tape = None
        if any(ctx.needs_input_grad):
            n_bytes = 4 * chain._tape_width * (n_rows + chain._tile)
            tape = chain.workspace.bytes("tape", n_bytes)
        chain._run("kg_chain", [*read, *written], indices, n_rows, tape)
        ctx.chain, ctx.n_rows, ctx.indices, ctx.tape = chain, n_rows, indices, tape
        ctx.shapes = [tensor.shape for tensor in read]
        return tuple(written)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *by_written: Tensor) -> tuple[Tensor | None, ...]:
        chain: Chain = ctx.chain
        reads = [node for node in chain._nodes if node.kind == _READ]
        by_read = [
            _zeros(*shape) if node.index >= 0 else floats(*shape)
            for node, shape in zip(reads, ctx.shapes, strict=True)
        ]
        chain._run(
            "kg_chain_back",
            [*by_read, *(by.contiguous() for by in by_written)],
            ctx.indices,
            ctx.n_rows,
            ctx.tape,
        )
        wanted = [by if node.followed else None for node, by in zip(reads, by_read, strict=True)]
        return (None, None, None, None, *wanted)
