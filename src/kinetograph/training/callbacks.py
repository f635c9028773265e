"""What a training run writes and shows: checkpoints, the best model, a table of metrics, a progress bar."""

from __future__ import annotations

import csv
import io
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kinetograph.atomic_file import write_atomically
from kinetograph.data.dataset import ForceDataset
from kinetograph.errors import RunFailed, UserError
from kinetograph.evaluation import errors_on
from kinetograph.learned_potential import LearnedPotential
from kinetograph.potential import Potential
from kinetograph.sum_potential import SumPotential
from kinetograph.training.module import ForceTraining
from kinetograph.training.settings import OptimizerSettings

FORCES = "valid_force_mae_eV_per_A"
ENERGY = "valid_energy_mae_eV_per_atom"
DIRECT = "valid_direct_force_mae_eV_per_A"
LOSS = "valid_loss_eV_per_A"
COLUMNS = (
    "step",
    "wall_s",
    "learning_rate",
    "train_loss",
    FORCES,
    "valid_relative_error",
    ENERGY,
    DIRECT,
    LOSS,
)
"""Of ``metrics.csv``. Cells are empty where a model gives no energy, or has one kind of forces only."""

Row = dict[str, float]


class RunFolder(Callback):
    """Validates at every multiple of ``validate_every`` and at the end, and writes what a run leaves.

    After each validation: ``last.ckpt``, a row of ``metrics.csv``, and ``best.kg`` if it is the best: if
    the mean absolute error of forces, and that of energies as they count in training, is the least so far.
    Each file is replaced in one atomic step, so that a run killed at any moment leaves files that
    open. SIGINT (Ctrl-C) and SIGTERM stop after a whole step, with a checkpoint there.

    Args:
        valid: frames to validate on; the averaged weights are what is validated and kept.
        save_model: writes a model file; given the path, the model, and the metrics of the moment.
        additions: potentials that are added to the model, so that errors are those of the whole.
        data: fingerprints of the frames; a run goes on with the same frames only.
        config: how much energies count beside forces, and the patience.
    """

    def __init__(
        self,
        folder: Path,
        valid: ForceDataset,
        save_model: Callable[[Path, LearnedPotential, Row], None],
        *,
        data: dict[str, str],
        additions: Sequence[Potential] = (),
        config: OptimizerSettings,
    ) -> None:
        self.folder = folder
        self.valid = valid
        self.save_model = save_model
        self.data = data
        self.additions = additions
        self.config = config
        self.best = math.inf
        self.best_row: Row = {"step": 0.0, FORCES: math.inf}
        self.wall_before = 0.0
        self.rows: list[Row] = []
        self.stop_signal: int | None = None
        self._started = 0.0
        self._losses: list[float] = []
        self._old_handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_row": self.best_row,
            "rows": self.rows,
            "wall_s": self.wall_s,
            "losses": self._losses,
            "data": self.data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["data"] != self.data:
            raise UserError(
                "the frames are not those that this run was started with",
                where=str(self.folder),
                mend="Resume with the same files, or start a new run with training.initial_model.",
            )
        self.best, self.best_row = state["best"], state["best_row"]
        self.rows, self.wall_before = list(state["rows"]), state["wall_s"]
        self._losses = list(state["losses"])

    @property
    def wall_s(self) -> float:
        return self.wall_before + (time.monotonic() - self._started if self._started else 0.0)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._started = time.monotonic()
        if trainer.received_sigterm:  # before the first step, when the signal went to Lightning
            raise SystemExit(128 + signal.SIGTERM)
        if self._patience_is_used_up:  # a run that stopped early stays stopped
            trainer.should_stop = True

        def stop(number: int, frame: object) -> None:
            self.stop_signal = number
            trainer.should_stop = True

        try:  # also what Lightning does on SIGTERM: it would end the program as if all were well
            self._old_handlers = {
                number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)
            }
        except ValueError:  # not in the main thread: interrupts go elsewhere
            self._old_handlers = {}

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers = {}

    @property
    def _patience_is_used_up(self) -> bool:
        patience = self.config.early_stop_patience
        since_best = sum(row["step"] > self.best_step for row in self.rows)
        return patience is not None and since_best >= patience

    @property
    def best_step(self) -> int:
        return int(self.best_row["step"])

    @property
    def best_force_mae(self) -> float:
        """eV/Å, of ``best.kg``."""
        return self.best_row[FORCES]

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, *args: Any
    ) -> None:
        loss = float(outputs["loss"].detach())
        if not math.isfinite(loss):
            raise RunFailed(
                f"the training went wrong at step {trainer.global_step}: the loss is not finite. "
                "Lower training.learning_rate; what was written until then is kept."
            )
        self._losses.append(loss)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, ForceTraining)
        step = trainer.global_step
        if step % pl_module.config.validate_every and step < pl_module.config.max_steps:
            # Between two validations: an interrupt, or a resumed run that closes the stretch it stopped in.
            if self.stop_signal is not None:
                self._write_checkpoint(trainer)
            return
        if self.rows and self.rows[-1]["step"] == step:
            return
        pl_module.refresh_statistics()
        row = {
            "step": float(step),
            "wall_s": round(self.wall_s, 3),
            "learning_rate": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "train_loss": sum(self._losses) / max(1, len(self._losses)),
            **self.validate(pl_module.best_weights),
        }
        self._losses.clear()
        self.rows.append(row)
        for logger in trainer.loggers:
            logger.log_metrics({name: value for name, value in row.items() if name != "step"}, step=step)
        if row[LOSS] < self.best:
            self.best, self.best_row = row[LOSS], row
            known = {name: value for name, value in row.items() if math.isfinite(value)}
            self.save_model(self.folder / "best.kg", pl_module.best_weights, known)
        if self._patience_is_used_up:
            trainer.should_stop = True
        self._write_metrics()
        self._write_checkpoint(trainer)

    def finish_untrained(self, model: LearnedPotential) -> None:
        """Write what a run leaves, for a model that has nothing to train."""
        self._started = time.monotonic()
        row = {
            "step": 0.0,
            "wall_s": 0.0,
            "learning_rate": 0.0,
            "train_loss": math.nan,
            **self.validate(model),
        }
        self.rows.append(row)
        self.best, self.best_row = row[LOSS], row
        self.save_model(self.folder / "best.kg", model, {k: v for k, v in row.items() if math.isfinite(v)})
        self._write_metrics()

    def validate(self, model: LearnedPotential) -> Row:
        """Errors of a model, with what is added to it, on the validation frames."""
        whole: Potential = model
        if self.additions:
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            whole = SumPotential(model, *self.additions).to(device)
        errors = errors_on(whole, self.valid)
        row = {FORCES: errors.forces.mae, "valid_relative_error": errors.forces.relative_error}
        row[LOSS] = errors.forces.mae
        if errors.energies is not None:
            row[ENERGY] = errors.energies.mae_per_atom
            # As they count in training, one eV/atom as one eV/Å.
            if self.config.energy_loss == "mae":
                counted = errors.energies.mae_per_atom
            else:
                counted = errors.energies.rmse_per_atom**2 / float(model.force_scale)
            row[LOSS] += self.config.energy_weight * counted
        if len(model.model.heads) > 1:
            answers = model.answers
            model.use_forces("direct")
            row[DIRECT] = errors_on(whole, self.valid).forces.mae
            model.use_forces(answers)
        return row

    def _write_metrics(self) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "step": int(row["step"])} for row in self.rows)
        write_atomically(self.folder / "metrics.csv", table.getvalue().encode())

    def _write_checkpoint(self, trainer: lightning.Trainer) -> None:
        path = self.folder / "last.ckpt"
        temporary = path.with_name(path.name + ".writing")
        try:
            trainer.save_checkpoint(temporary)
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"cannot write the checkpoint: {error}",
                where=str(path),
                mend="Free some space, then --resume.",
            ) from error


class ProgressBar(Callback):
    """Step, rate, time left, loss and validation error, on stderr; a line per validation off a terminal."""

    def __init__(
        self, run: RunFolder, max_steps: int, name: str = "training", console: Console | None = None
    ) -> None:
        self.run = run
        self.name = name
        self.console = console or Console(stderr=True)
        self.max_steps = max_steps
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._start_step = 0
        self._started = 0.0
        self._valid = ""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start_step, self._started = trainer.global_step, time.monotonic()
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn(self.name),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=self.console,
            )
            self._progress.start()
            self._task = self._progress.add_task(
                "train", total=self.max_steps, completed=trainer.global_step, rate="", text=""
            )

    def _rate(self, step: int) -> float:
        return (step - self._start_step) / max(1e-9, time.monotonic() - self._started)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, *args: Any
    ) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task,
                completed=trainer.global_step,
                rate=f"{self._rate(trainer.global_step):.1f}/s",
                text=f"loss {float(outputs['loss']):.4f}{self._valid}",
            )

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        step = trainer.global_step
        if not self.run.rows or self.run.rows[-1]["step"] != step or step == self._start_step:
            return
        row = self.run.rows[-1]
        mae, relative = row[FORCES], row["valid_relative_error"]
        self._valid = f", valid MAE {1000.0 * mae:.4g} meV/Å ({100.0 * relative:.2f} %)"
        if ENERGY in row:
            self._valid += f", {1000.0 * row[ENERGY]:.3g} meV/atom"
        if self._progress is None:
            rate = self._rate(step)
            left = (self.max_steps - step) / max(rate, 1e-9)
            self.console.print(
                f"{self.name}: step {step}/{self.max_steps}, {rate:.1f}/s, {left:.0f} s left{self._valid}",
                highlight=False,
            )

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._stop()
