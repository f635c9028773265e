"""Benchmarks: what rows say, and that what they say is counted and compared as it claims."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kinetograph import kernels
from kinetograph.benchmark.cases import CASES, chosen
from kinetograph.benchmark.lists import neighbor_rows
from kinetograph.benchmark.machine import peak_flops
from kinetograph.benchmark.measure import Clock, Row, counted, in_turns, relative_error
from kinetograph.benchmark.memory import memory_rows
from kinetograph.benchmark.scaling import scaling_rows
from kinetograph.benchmark.step import step_rows
from kinetograph.benchmark.structures import water
from kinetograph.benchmark.train import train_rows
from kinetograph.cli.app import app
from kinetograph.cli.benchmark import _shares
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.kernels.filter import EdgeNetwork
from kinetograph.report.benchmark_page import write_benchmark_page

CPU = Clock(torch.device("cpu"), 1)
KEYS = {
    *("case", "variant", "precision", "n_atoms", "n_edges", "median_s", "speedup", "fraction_of_peak"),
    "relative_error",
}


def test_one_thread_is_timed_by_the_processor() -> None:
    assert CPU.seconds(lambda: time.sleep(0.05)) < 0.02
    assert Clock(torch.device("cpu"), 2).seconds(lambda: time.sleep(0.05)) > 0.04


def test_actions_take_turns() -> None:
    calls: list[str] = []
    in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, 0.0)
    assert calls == ["a", "b"] * (len(calls) // 2)
    assert len(calls) >= 8  # one to warm up and three rounds


def test_products_are_counted_in_torch_and_in_kernels() -> None:
    left, right = torch.randn(6, 32), torch.randn(32, 48)
    assert counted(lambda: left @ right)[1] == 2 * 6 * 32 * 48
    library = kernels.library()
    if library is None:
        pytest.skip("no compiled kernels here")
    network = EdgeNetwork(library, [(torch.randn(48, 32), None, "none")])
    assert counted(lambda: network(left))[1] == 2 * 6 * 32 * 48


def test_the_peak_is_at_least_what_a_product_reaches() -> None:
    left, right = torch.randn(2, 1024, 1024)
    torch.mm(left, right)
    reached = 2.0 * 1024**3 / CPU.seconds(lambda: torch.mm(left, right))
    assert peak_flops(CPU) > 0.5 * reached  # a busy machine changes its mind


def test_the_error_is_relative_to_all_forces() -> None:
    exact = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64)
    assert relative_error(exact + torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.0]]), exact) == pytest.approx(
        0.1
    )


def test_a_step_has_its_naive_form_its_fast_one_and_its_shares() -> None:
    rows = list(step_rows(chosen("gamd,painn"), 96, CPU, {"float32": 1e11, "bfloat16": 2e11}, 0.0))
    by = {(row.case, row.variant): row for row in rows if row.precision == "float32"}
    assert [v for c, v in by if c == "gamd"] == ["naive", "plain", "fast", "whole step"]
    naive, fast = by["gamd", "naive"], by["gamd", "fast"]
    assert naive.speedup == 1.0
    assert fast.median_s is not None
    assert naive.median_s is not None
    assert fast.speedup == pytest.approx(naive.median_s / fast.median_s)
    assert all(row.relative_error is not None and row.relative_error < 1e-5 for row in (naive, fast))
    potential, system = CASES["gamd"].potential(), water(96)
    assert fast.n_edges == neighbors_for(system, potential.request).n_edges
    whole = by["painn", "whole step"].to_json()
    shares = [whole[f"{part}_share"] for part in ("force", "neighbor", "integrator")]
    assert sum(shares) == pytest.approx(1.0)
    assert whole["force_share"] > 0.3
    # Atoms that fly wear lists out; a call by itself is what it is within a step, or about that.
    assert 0.2 < whole["force_call_s"] / (whole["force_share"] * whole["median_s"]) < 5.0
    assert fast.to_json().keys() >= KEYS


def test_lists_scaling_and_training_have_rows() -> None:
    lists = list(neighbor_rows([96], CPU, 0.0))
    assert {row.variant for row in lists} == {"vesin", "fast", "ASE", "whole step"}
    grown = list(scaling_rows(chosen("painn"), [96, 384], CPU, 0.0))
    assert [row.n_atoms for row in grown] == [96, 384]
    assert 0.0 < grown[-1].to_json()["exponent"] < 2.0
    _, trained = train_rows(chosen("painn"), 48, CPU, 0.0)
    assert trained.median_s is not None
    assert trained.median_s > 0.0


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    (row,) = memory_rows(chosen("gamd"), 3000, torch.device("cpu"), 1)
    # Edge states alone, 59 an atom with this skin and 34 within the cutoff, are 128 numbers each.
    assert 10.0 < row.to_json()["kB_per_atom"] < 60.0


def test_a_case_that_is_unknown_is_refused() -> None:
    with pytest.raises(UserError, match="gamd"):
        chosen("gamdd")


def test_the_command_writes_rows_and_a_page(tmp_path: Path) -> None:
    arguments = ["benchmark", "step", "--cases", "painn", "--atoms", "48", "--seconds", "0"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "step.json").read_text())
    assert data["machine"]["threads"] == 1
    assert {row["variant"] for row in data["rows"]} == {"plain", "fast", "whole step"}
    page = (tmp_path / "benchmark.html").read_text()
    assert "Force calls and whole steps" in page
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert isinstance(again.exception, UserError)


def test_scaling_shows_force_calls_and_lists_by_themselves(tmp_path: Path) -> None:
    """As the GAMD paper's table 3 does, beside whole steps."""
    arguments = ["benchmark", "scaling", "--cases", "painn", "--sizes", "48,96", "--seconds", "0"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    heads = next(line.split() for line in result.output.splitlines() if line.startswith("case"))
    assert heads == [
        "case",
        "atoms",
        "edges/atom",
        "step",
        "force",
        "call",
        "new",
        "list",
        "ns/day",
        "exponent",
    ]
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    (shown,) = (line.split() for line in result.output.splitlines() if line.split()[:1] == ["96"])
    assert shown[3:5] == [f"{1e3 * rows[1][name]:.3g}" for name in ("force_call_s", "new_list_s")]
    page = (tmp_path / "benchmark.html").read_text()
    assert "force call alone, ms" in page
    on_gpu = Row("painn", "whole step", "float32", 3, 6, 1.0, more={"force_call_s": 1.0, "new_list_s": 1.0})
    assert _shares(on_gpu) == ["", "", ""]


def test_a_page_needs_a_benchmark(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(UserError, match="no benchmark"):
        write_benchmark_page(tmp_path / "page.html", [tmp_path / "other.json"])


def test_rows_are_plain_data() -> None:
    row = Row("a", "b", "float32", 1, 2, 0.5, more={"exponent": 1.0})
    assert row.to_json()["exponent"] == 1.0
    assert json.loads(json.dumps(row.to_json())) == row.to_json()


def test_what_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["benchmark", "train", "--cases", "painn", "--atoms", "3", "--seconds", "0"]
    began = time.perf_counter()
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "file")])
    assert isinstance(result.exception, OSError)  # which ends the command with a sentence
    assert time.perf_counter() - began < 5.0
    (tmp_path / "benchmark.html").write_text("somebody else's")
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert isinstance(result.exception, UserError)
    assert (tmp_path / "benchmark.html").read_text() == "somebody else's"


def test_files_that_are_no_rows_are_passed_over(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps({"benchmark": "step", "rows": [{"case": "a"}], "machine": {}}))
    own = tmp_path / "own.json"
    row = Row("a", "fast", "float32", 3, 6, 0.1, 2.0, "naive")
    own.write_text(json.dumps({"benchmark": "step", "rows": [row.to_json()], "machine": {"threads": 1}}))
    page = write_benchmark_page(tmp_path / "page.html", [foreign, own])
    assert page.read_text().count("<h2>") == 1


def test_boxes_of_one_size_have_no_exponent() -> None:
    (row,) = scaling_rows(chosen("painn"), [96, 97], CPU, 0.0)
    assert "exponent" not in row.to_json()
