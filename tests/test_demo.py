"""The demo: small and quick for what it leaves behind, whole for the figures it must reach."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from kinetograph import demo
from kinetograph.errors import UserError
from kinetograph.trajectory import Trajectory

SUMMARY_KEYS = {
    "force_mae_eV_per_A",
    "relative_error",
    "cosine_mean",
    "cosine_share_above_0.96",
    "rdf_mae",
    "temperature_K",
    "ns_per_day",
}


def test_a_small_demo_leaves_a_page_and_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = functools.partial(
        demo.generate_argon,
        n_trajectories=3,
        n_frames=4,
        equilibration_ps=0.5,
        reference_ps=1.0,
        cold_start_ps=0.5,
    )
    monkeypatch.setattr(demo, "generate_argon", small)
    monkeypatch.setattr(demo, "RUN_PS", 1.0)
    monkeypatch.setattr(demo, "COLD_START_PS", 0.5)
    training = {**demo.TRAINING["training"], "max_steps": 100, "validate_every": 50}
    model = {**demo.TRAINING["model"], "width": 8}
    monkeypatch.setattr(demo, "TRAINING", {"model": model, "training": training})
    said: list[str] = []
    result = demo.demo(tmp_path / "demo", say=said.append, progress=False)
    assert result.page == tmp_path / "demo" / "report.html"
    assert result.page.stat().st_size > 1_000_000  # the scripts are inside
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert len(demo.summary_lines(summary)) == 5
    assert len([line for line in said if "/5 " in line]) == 5
    with (
        Trajectory.open(tmp_path / "demo" / "argon_2.h5") as run,
        Trajectory.open(tmp_path / "demo" / "data" / "reference_2.h5") as reference,
    ):
        # the very same start, but for the eight decimals of extended XYZ and single precision in H5MD
        np.testing.assert_allclose(run.positions(slice(0, 1)), reference.positions(slice(0, 1)), atol=1e-5)
    with pytest.raises(UserError, match="already holds a demo"):
        demo.demo(tmp_path / "demo", progress=False)


@pytest.mark.slow
def test_the_demo_reaches_its_figures(tmp_path: Path) -> None:
    """The figures asked of argon within the demo's budget; the paper has 6.01 % and 0.977."""
    summary = demo.demo(tmp_path / "demo", progress=False).summary
    assert summary["relative_error"] <= 0.03
    assert summary["cosine_mean"] >= 0.998
    assert summary["rdf_mae"] <= 0.03 or summary["rdf_within_error_band"]
    assert summary["temperature_K"] == pytest.approx(demo.TEMPERATURE_K, rel=0.01)
    # The spread of a spread: 1/sqrt(2 n) relative with some hundred independent samples.
    assert summary["temperature_std_K"] == pytest.approx(summary["temperature_std_expected_K"], rel=0.1)
