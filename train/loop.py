"""The training loop: epochs of steps, and between them evaluation and checkpoints."""

from __future__ import annotations

import copy
import json
import math
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from maris_fast.config import TrainingSettings, dump_settings
from maris_fast.data_shards.stream import Batch, CacheReader
from maris_fast.errors import ConfigError, TrainingError
from maris_fast.model import Maris
from maris_fast.train import checkpoints, master_state, resuming
from maris_fast.train.batch_statistics import average_batch_statistics
from maris_fast.train.checkpoints import Best, RunState
from maris_fast.train.engine import Engine, StepResult
from maris_fast.train.environment import environment
from maris_fast.train.evaluation import evaluate
from maris_fast.train.journal import Journal, NoJournal, RunJournal
from maris_fast.train.pace import Pace
from maris_fast.train.ranks import Ranks
from maris_fast.train.schedules import gate_threshold, learning_rate, total_steps
from maris_fast.train.source import Source
from maris_fast.train.stopping import StopRequest
from maris_fast.weights import WeightsMeta, save_weights


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished, or stopped with a checkpoint to go on from."""

    step: int
    total_steps: int
    finished: bool
    best: Best | None


def train(settings: TrainingSettings, ranks: Ranks) -> Outcome:
    """Trains MARIS as ``settings`` say, from the start or from the run folder's newest checkpoint.

    All ranks call it, and all of them raise what goes wrong.

    Raises:
        ConfigError: the run folder is not empty and not to be resumed; settings that do not fit together.
        InputError: the cache is missing, broken, or lacks a split.
        TrainingError: the loss or the weights are no longer finite.
        CheckpointError: the checkpoint is of another run, or one cannot be written.
    """
    found = ranks.from_rank_zero(lambda: resuming.find(settings.run))
    data = settings.data
    with (
        CacheReader(data.cache, data.train_split) as training,
        CacheReader(data.cache, data.val_split) as validation,
    ):
        source = Source.of(training.manifest, data.train_split)
        torch.manual_seed(settings.run.seed)  # the same weights on all ranks
        model = Maris(settings.model, source.visual_channels, source.text_channels)
        return Trainer(settings, ranks, source, training, validation, model, found).run()


class Trainer:
    """One run. ``step`` counts optimiser steps done; epoch and position follow from it."""

    def __init__(
        self,
        settings: TrainingSettings,
        ranks: Ranks,
        source: Source,
        training: CacheReader,
        validation: CacheReader,
        model: Maris,
        found: tuple[Path, RunState] | None,
    ) -> None:
        self.settings, self.ranks = settings, ranks
        self.source, self.training, self.validation = source, training, validation
        self.steps_per_epoch = training.steps_per_epoch(settings.data.expressions_per_step)
        self.total_steps = total_steps(settings.schedule, self.steps_per_epoch)
        self.step = 0
        self.evaluated: int | None = None
        self.scores: dict[str, Any] | None = None
        self.best: Best | None = None

        # Evaluated and saved are the whole weights in a plain module: no ZeRO stage, no waiting for ranks.
        self.plain = copy.deepcopy(model).to(ranks.device).eval().requires_grad_(False)
        self.model = model.to(ranks.device)
        moments = self._resume(*found) if found else None
        self.engine = Engine(self.model, settings, ranks)
        if moments is not None:
            master_state.restore_moments(self.engine.wrapped, self.model, moments, self.step)
        self.started_at = self.step
        self.pace = Pace()

    def run(self) -> Outcome:
        """Trains to the end, or until it is asked to stop."""
        self.ranks.from_rank_zero(self._open_folder)
        with self._journal() as journal, StopRequest(self.ranks) as request:
            stop = False
            if self._evaluation_due() and self.evaluated != self.step:
                self._evaluate(journal)
            while self.step < self.total_steps and not stop:
                epoch, first = divmod(self.step, self.steps_per_epoch)
                self.pace.restart()
                for parts in self.pace.watch(self._epoch(epoch, first)):
                    result = self._step(parts)
                    journal.advance(self.step)
                    if self._log_due():
                        journal.record("train", self._record(epoch, result))
                        self.pace.restart()
                    urgent = request.agreed()
                    stop = urgent or self._steps_are_used_up()
                    if self._evaluation_due() and not urgent:
                        self._evaluate(journal)
                        self.pace.restart()
                    if self._checkpoint_due() or stop:
                        self._checkpoint()
                    if stop or self.step >= self.total_steps:
                        break
            finished = self.step >= self.total_steps and self.evaluated == self.step
            outcome = Outcome(self.step, self.total_steps, finished, self.best)
            journal.say(_farewell(outcome, self.settings))
        return outcome

    # A step

    def _epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, ...]]:
        """This rank's batches of each step, as many as there are accumulation steps."""
        data, accumulation = self.settings.data, self.settings.engine.accumulation_steps
        batches = self.training.batches(
            seed=self.settings.run.seed,
            epoch=epoch,
            expressions_per_step=data.expressions_per_step,
            expressions_per_image=data.expressions_per_image,
            rank=self.ranks.rank,
            world=self.ranks.world,
            accumulation=accumulation,
            first_step=first,
            ahead=data.prefetch,
        )
        return zip(*[batches] * accumulation, strict=True)

    def _step(self, parts: tuple[Batch, ...]) -> StepResult:
        self.model.tau = self._tau()
        result = self.engine.step([part.to(self.ranks.device) for part in parts], self._lr())
        self.step += 1
        self.pace.expressions += parts[0].step_expressions
        self.pace.images += sum(part.images for part in parts)
        return result

    def _lr(self) -> float:
        return learning_rate(self.step, self.total_steps, self.settings.optimiser)

    def _tau(self) -> float:
        return gate_threshold(self.step, self.total_steps, self.settings.schedule, self.settings.model.tau)

    def _record(self, epoch: int, result: StepResult) -> dict[str, Any]:
        """Of the step just done; the one place where a step's numbers are waited for."""
        shares = result.losses.double()
        dist.all_reduce(shares)
        focal, dice, total = shares.tolist()
        if not math.isfinite(total):
            raise _diverged(f"the loss of step {self.step} is {total}")
        seconds = self.pace.seconds
        ranks = self.ranks.gather((self.pace.images, self.pace.waited))
        return {
            "step": self.step,
            "epoch": epoch,
            "loss": total,
            "focal": focal,
            "dice": dice,
            "lr": self.engine.lr,
            "tau": self.model.tau,
            "gradient_norm": float(result.gradient_norm),
            "expressions_per_s": self.pace.expressions / seconds,
            "images_per_s": sum(images for images, _ in ranks) / seconds,
            "data_wait_share": sum(waited for _, waited in ranks) / (seconds * len(ranks)),
            "memory_mb": _peak_memory_mb(self.ranks.device),
        }

    # When

    def _log_due(self) -> bool:
        return self.step % self.settings.run.log_every == 0 or self.step == self.total_steps

    def _evaluation_due(self) -> bool:
        every = self.settings.run.evaluate_every
        epochs, inside = divmod(self.step, self.steps_per_epoch)
        due = every is not None and inside == 0 and epochs % every == 0
        return self.step > 0 and (due or self.step == self.total_steps)

    def _checkpoint_due(self) -> bool:
        every = self.settings.run.checkpoint_every or self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps

    def _steps_are_used_up(self) -> bool:
        allowed = self.settings.run.stop_after_steps
        return allowed is not None and self.step - self.started_at >= allowed

    # Between steps

    def _whole_state(self) -> dict[str, Tensor]:
        """Parameters and buffers, the same on all ranks."""
        average_batch_statistics(self.model)
        return {
            **self.model.state_dict(),
            **master_state.whole_parameters(self.engine.wrapped, self.model),
        }

    def _evaluate(self, journal: Journal) -> None:
        state = self._whole_state()
        self.plain.load_state_dict(state)
        self.plain.tau = self.model.tau
        self.scores = evaluate(
            self.plain,
            self.validation,
            self.ranks,
            max_expressions=self.settings.data.expressions_per_step,
            precision=self.settings.engine.precision,
        )
        self.evaluated = self.step
        journal.record("evaluation", {"step": self.step, **self.scores})
        if self.best is None or self.scores["oIoU"] > self.best.score:
            self.best = Best(step=self.step, score=self.scores["oIoU"])
            self._save_weights("best", state)

    def _checkpoint(self) -> None:
        state = self._whole_state()
        moments = master_state.whole_moments(self.engine.wrapped, self.model)
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        where = RunState(
            step=self.step,
            epoch=epoch,
            step_in_epoch=inside,
            seed=self.settings.run.seed,
            evaluated=self.evaluated,
            best=self.best,
            data=self.source.fingerprint,
            settings=self.settings.model_dump(mode="json"),
        )
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise _diverged(f"after step {self.step} the weights are not finite, and are not kept")
        tensors = {
            **{f"model.{name}": tensor for name, tensor in state.items()},
            **{f"optimiser.{name}": tensor for name, tensor in moments.items()},
        }
        run = self.settings.run
        self.ranks.from_rank_zero(
            lambda: str(checkpoints.save(run.folder, where, tensors, run.keep_checkpoints))
        )
        self._save_weights("last", state)

    def _save_weights(self, name: str, state: dict[str, Tensor]) -> None:
        meta = WeightsMeta(
            model=self.settings.model,
            visual_channels=self.source.visual_channels,
            text_channels=self.source.text_channels,
            tau=self.model.tau,
            step=self.step,
            scores=self.scores if self.evaluated == self.step else None,
            encoders=self.source.encoders,
            random_encoders=self.source.random_encoders,
        )
        path = self.settings.run.folder / f"{name}.safetensors"
        self.ranks.from_rank_zero(lambda: save_weights(path, state, meta))

    # Start

    def _resume(self, folder: Path, state: RunState) -> dict[str, Tensor]:
        data = self.source.fingerprint
        self.ranks.from_rank_zero(lambda: resuming.check(folder, state, self.settings, data, self.model))
        self.step, self.evaluated, self.best = state.step, state.evaluated, state.best
        self.model.tau = gate_threshold(
            max(0, self.step - 1), self.total_steps, self.settings.schedule, self.settings.model.tau
        )
        return resuming.load(folder, self.model, self.ranks)

    def _open_folder(self) -> None:
        folder = self.settings.run.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / resuming.SETTINGS).write_text(dump_settings(self.settings))
            (folder / "environment.json").write_text(json.dumps(environment(self.ranks), indent=1) + "\n")
        except OSError as error:
            raise ConfigError(f"run.folder {folder} cannot be written: {error}; set it to another") from error

    def _journal(self) -> Journal:
        if not self.ranks.first:
            return NoJournal()
        return RunJournal(self.settings.run.folder, self.step, self.total_steps)


def _diverged(what: str) -> TrainingError:
    return TrainingError(
        f"{what}: the run has diverged; lower optimiser.lr, lengthen optimiser.warmup_share or lower "
        "optimiser.clip_norm, and start again, or go on from the last checkpoint with run.resume=auto"
    )


def _farewell(outcome: Outcome, settings: TrainingSettings) -> str:
    folder = settings.run.folder
    if not outcome.finished:
        return (
            f"stopped after step {outcome.step} of {outcome.total_steps}; the same command with "
            "run.resume=auto goes on from there"
        )
    best = f"; best oIoU {outcome.best.score:.4f} at step {outcome.best.step}" if outcome.best else ""
    return f"finished {outcome.total_steps} steps{best}; weights in {folder}/best.safetensors"


def _peak_memory_mb(device: torch.device) -> float:
    """Of the device, or of this process where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
