"""What a run folder holds, read for a page."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kinetograph.errors import UserError
from kinetograph.report.view import Scene, scene_of
from kinetograph.trajectory import Trajectory

JSON_FILES = ("evaluation", "analysis", "summary")


@dataclass(frozen=True)
class RunRecord:
    """One run as a page shows it. What the folder lacks is ``None`` and named in ``missing``."""

    name: str
    folder: Path
    config: dict[str, Any] | None = None
    """``config.yaml``: the run as it was asked for."""
    metrics: dict[str, list[float | None]] | None = None
    """``metrics.csv``: column → one number a row, ``None`` where a cell is empty."""
    evaluation: dict[str, Any] | None = None
    """``evaluation.json``: ``ForceErrors.to_json()``, on its own or under ``errors``."""
    analysis: dict[str, Any] | None = None
    """``analysis.json``: ``Analysis.to_json()``."""
    summary: dict[str, Any] | None = None
    """``summary.json``."""
    scene: Scene | None = None
    """The first trajectory, thinned for the 3D view."""
    trajectory_name: str | None = None
    trajectory_metadata: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """One sentence for each thing that the page leaves out."""

    @property
    def errors(self) -> dict[str, Any] | None:
        """Those of the evaluation, on their own or under ``errors``."""
        if self.evaluation is None:
            return None
        inner = self.evaluation.get("errors")
        return inner if isinstance(inner, dict) else self.evaluation


def read_run(folder: Path | str, *, name: str | None = None) -> RunRecord:
    """Read what is there of ``config.yaml``, ``metrics.csv``, ``evaluation.json``, ``analysis.json``,
    ``summary.json`` and the first ``*.h5`` trajectory by name.

    Raises:
        UserError: the folder is missing or holds nothing of these, or a file in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError("there is no such run folder", where=str(folder))
    missing: list[str] = []

    def found(file: str, what: str) -> Path | None:
        path = folder / file
        if path.is_file():
            return path
        missing.append(f"{what} left out: the run folder has no {file}.")
        return None

    config_path = found("config.yaml", "The configuration is")
    metrics_path = found("metrics.csv", "The training curve is")
    evaluation_path = found("evaluation.json", "Force errors are")
    analysis_path = found("analysis.json", "Structure and dynamics are")
    summary_path = found("summary.json", "The summary is")
    scene, trajectory_name, metadata = None, None, {}
    trajectories = sorted(folder.glob("*.h5"))
    if trajectories:
        trajectory_name = trajectories[0].name
        trajectory = Trajectory.open(trajectories[0])
        try:
            metadata = trajectory.metadata
            if trajectory.n_frames:
                scene = scene_of(trajectory)
            else:
                missing.append(f"The 3D view is left out: {trajectory_name} has no frames.")
        finally:
            trajectory.close()
    else:
        missing.append("The 3D view is left out: the run folder has no trajectory (*.h5).")
    if len(missing) == len(JSON_FILES) + 3:
        raise UserError(
            "the folder holds nothing to report",
            where=str(folder),
            mend="Give the folder of a training run, an evaluation, a simulation or an analysis.",
        )
    return RunRecord(
        name=name or folder.resolve().name,
        folder=folder,
        config=_read_config(config_path),
        metrics=_read_metrics(metrics_path),
        evaluation=_read_json(evaluation_path),
        analysis=_read_json(analysis_path),
        summary=_read_json(summary_path),
        scene=scene,
        trajectory_name=trajectory_name,
        trajectory_metadata=metadata,
        missing=missing,
    )


def _read_config(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the file is not YAML ({error})", where=str(path)) from error
    return content if isinstance(content, dict) else {"config": content}


def _read_json(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the file is not JSON ({error})", where=str(path)) from error
    if not isinstance(content, dict):
        raise UserError("the file is JSON, but not the object that is expected", where=str(path))
    return content


def _read_metrics(path: Path | None) -> dict[str, list[float | None]] | None:
    if path is None:
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else {}) if name]
    return {name: [_number(row.get(name)) for row in rows] for name in names}


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
