from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

from kinetograph import kernels
from kinetograph.kernels import build
from kinetograph.kernels.native import Library, Workspace

SHOW = "from kinetograph import kernels; print(kernels.choice().name)"


def show(choice: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KINETOGRAPH_KERNELS": choice}
    return subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=False
    )


def test_where_there_is_a_compiler_the_kernels_are_in_use() -> None:
    if shutil.which("cc") is None:
        pytest.skip("no compiler")
    assert kernels.library() is not None, kernels.choice().reason


def test_the_environment_chooses() -> None:
    assert show("plain").stdout.split()[0] == "plain"
    baseline = show("baseline")
    if build.library_path("baseline").exists():
        assert baseline.stdout.split()[0] == "baseline"
    else:
        assert "no compiled kernels for baseline" in baseline.stderr
    refused = show("avx1024")
    assert refused.returncode != 0
    assert "unknown kernels 'avx1024'" in refused.stderr


def test_plain_forms_are_switched_on_for_a_while() -> None:
    before = kernels.choice()
    with kernels.plain_forms():
        assert kernels.library() is None
        assert kernels.choice().name == "plain"
    assert kernels.choice() == before


def test_kernels_older_than_their_sources_are_not_used(library: Library) -> None:
    # What the loader compares: a library says what it was compiled from.
    assert library.source_hash == build.source_hash()


@pytest.mark.parametrize("shape", [(1, 5, 16), (7, 48, 48), (50, 33, 144), (100, 128, 384), (3, 16, 80)])
@pytest.mark.parametrize("with_silu", [False, True])
def test_products_are_those_of_double_precision(
    library: Library, shape: tuple[int, int, int], with_silu: bool
) -> None:
    n_rows, n_in, n_out = shape
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n_rows, n_in, generator=generator)
    weight, bias = torch.randn(n_out, n_in, generator=generator), torch.randn(n_out, generator=generator)
    packed, out = torch.empty(n_out * n_in), torch.empty(n_rows, n_out)
    library("kg_pack", weight, n_out, n_in, packed)
    library("kg_product", rows, packed, bias, out, n_rows, n_in, n_out, int(with_silu))
    expected = rows.double() @ weight.double().T + bias.double()
    if with_silu:
        expected = torch.nn.functional.silu(expected)
    # Sums of n_in terms of order one in single precision.
    assert (out - expected).abs().max() < 2e-7 * n_in**0.5 * expected.abs().max()


@pytest.mark.parametrize("shape", [(1, 16, 16), (50, 32, 144), (100, 128, 384), (13, 48, 80)])
def test_products_of_bfloat16_are_those_of_double_precision(
    library: Library, shape: tuple[int, int, int]
) -> None:
    if not library.has_bfloat16:
        pytest.skip("this instruction set has no products of bfloat16")
    n_rows, n_in, n_out = shape
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n_rows, n_in, generator=generator).bfloat16()
    weight = torch.randn(n_out, n_in, generator=generator).bfloat16()
    bias = torch.randn(n_out, generator=generator)
    packed, out = torch.empty(n_out * n_in, dtype=torch.bfloat16), torch.empty(n_rows, n_out)
    library("kg_pack_bfloat16", weight, n_out, n_in, packed)
    library("kg_product_bfloat16", rows, packed, bias, out, n_rows, n_in, n_out)
    expected = rows.double() @ weight.double().T + bias.double()
    # Products of two factors of eight bits are exact; their sums are in single precision.
    assert (out - expected).abs().max() < 2e-7 * n_in**0.5 * expected.abs().max()


def test_a_row_does_not_feel_the_others(library: Library) -> None:
    weight, rows = torch.randn(48, 20), torch.randn(37, 20)
    packed = torch.empty(weight.numel())
    library("kg_pack", weight, 48, 20, packed)
    together, alone = torch.empty(37, 48), torch.empty(37, 48)
    library("kg_product", rows, packed, None, together, 37, 20, 48, 1)
    for row in range(37):
        library("kg_product", rows[row].clone(), packed, None, alone[row], 1, 20, 48, 1)
    assert torch.equal(together, alone)


def test_a_workspace_keeps_its_memory() -> None:
    workspace = Workspace()
    first = workspace.bytes("a", 100)
    assert workspace.bytes("a", 50) is first
    assert workspace.bytes("b", 50) is not first
    assert len(workspace.bytes("a", 1000)) >= 1000
