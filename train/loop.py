"""The training loop: epochs of steps, and between them evaluation and checkpoints."""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from maris_fast.config import TrainingSettings, dump_settings
from maris_fast.data_shards.stream import EVALUATED_AT_ONCE, Batch, CacheReader
from maris_fast.errors import ConfigError, TrainingError
from maris_fast.model import Maris
from maris_fast.system.devices import fitting
from maris_fast.system.files import replace_text
from maris_fast.system.terminal import write_line
from maris_fast.train import (
    announcement,
    attention_health,
    checkpoints,
    kernel_choice,
    optimiser_state,
    resuming,
    run_files,
)
from maris_fast.train.batch_statistics import average_batch_statistics
from maris_fast.train.by_products import ByProduct
from maris_fast.train.cache_info import CacheInfo
from maris_fast.train.checkpoints import Best, RunState
from maris_fast.train.engine import Engine, StepResult, smaller_parts
from maris_fast.train.environment import environment
from maris_fast.train.progress_state import Phase
from maris_fast.train.ranks import Ranks
from maris_fast.train.run_folder import owned_by_rank_zero, require_still_owned
from maris_fast.train.run_logger import RankZeroLogger, RunLogger
from maris_fast.train.same_inputs import require_same_cache
from maris_fast.train.schedules import gate_threshold, learning_rate, total_steps
from maris_fast.train.split_scores import score_split
from maris_fast.train.stopping import StopRequest
from maris_fast.train.throughput import Throughput, peak_tflops
from maris_fast.train.validation_pictures import SampleMasks, SampleSheet
from maris_fast.train.wandb_mirror import require_wandb
from maris_fast.weight_files import BEST, LAST
from maris_fast.weights import WeightsMeta, save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished, or stopped with a checkpoint to resume from."""

    step: int
    total_steps: int
    finished: bool
    best: Best | None


WriteReport = Callable[[Path, Path], None]
"""Writes the report of the run in a folder, the first argument, to a file, the second."""


def train(settings: TrainingSettings, ranks: Ranks, write_report: WriteReport | None = None) -> Outcome:
    """Trains MARIS as ``settings`` say, from the start or from the run folder's newest checkpoint.

    All ranks must call it; errors are raised on all of them. Rank 0 calls ``write_report`` of a finished run.

    Raises:
        ConfigError: the run folder is not empty and not to be resumed, or belongs to another run; settings
            that do not fit together.
        InputError: the cache is missing, broken, lacks a split, or is not the same for all ranks.
        TrainingError: the loss or the weights are no longer finite.
        CheckpointError: the checkpoint belongs to another run, or a checkpoint cannot be written.
    """
    with owned_by_rank_zero(settings.run.folder, ranks):
        outcome = _train(settings, ranks)
        if write_report is not None and outcome.finished and ranks.first:
            _report(settings.run.folder, write_report)
        return outcome


def _train(settings: TrainingSettings, ranks: Ranks) -> Outcome:
    found = ranks.from_rank_zero(lambda: resuming.find(settings.run))
    data = settings.data
    on_gpu_in_bf16 = ranks.device.type == "cuda" and settings.engine.precision == "bf16"
    dtype = torch.bfloat16 if on_gpu_in_bf16 else torch.float32
    with (
        CacheReader(data.cache, data.train_split, data, device=ranks.device, dtype=dtype) as training,
        CacheReader(data.cache, data.val_split, data, device=ranks.device, dtype=dtype) as validation,
    ):
        require_same_cache(ranks, (training, validation), "data.cache")
        cache_info = CacheInfo.of(training.manifest, data.train_split)
        kernels = kernel_choice.settle(settings, ranks, training, dtype)
        torch.manual_seed(settings.run.seed)  # the same weights on all ranks
        model = Maris(settings.model, cache_info.visual_channels, cache_info.text_channels)
        return Trainer(settings, ranks, cache_info, training, validation, model, found, kernels).run()


class Trainer:
    """One run. ``step`` counts optimiser steps done; epoch and position follow from it."""

    def __init__(
        self,
        settings: TrainingSettings,
        ranks: Ranks,
        cache_info: CacheInfo,
        training: CacheReader,
        validation: CacheReader,
        model: Maris,
        found: tuple[Path, RunState] | None,
        kernels: kernel_choice.Taken,
    ) -> None:
        self.settings, self.ranks, self.kernels = settings, ranks, kernels
        self.cache_info, self.training, self.validation = cache_info, training, validation
        self.steps_per_epoch = training.steps_per_epoch(settings.data.expressions_per_step)
        self.total_steps = total_steps(settings.schedule, self.steps_per_epoch)
        self.step = 0
        self.evaluated: int | None = None
        self.scores: dict[str, Any] | None = None
        self.best: Best | None = None
        self.sheet = SampleSheet(cache_info.image_root)
        self.attention_warnings = attention_health.Warnings(settings.model)

        # Evaluation runs the whole weights in a plain module: no ZeRO stage, no waiting for ranks.
        self.plain = copy.deepcopy(model).to(ranks.device).eval().requires_grad_(False)
        self.model = model.to(ranks.device)
        moments = self._resume(*found) if found else None
        self.engine = Engine(self.model, settings, ranks)
        if moments is not None:
            optimiser_state.restore_moments(self.engine.wrapped, self.model, moments, self.step)
        self.started_at = self.step
        self.began = time.perf_counter()
        self.throughput = Throughput(settings.model, cache_info)
        self.peak = peak_tflops(ranks.device, settings.run.peak_tflops)
        self.overlap = torch.zeros(2, dtype=torch.int64, device=ranks.device)

    def run(self) -> Outcome:
        """Trains to the end, or until it is asked to stop."""
        self.ranks.from_rank_zero(self._open_folder)
        with self._logger() as logger, StopRequest(self.ranks) as request:
            stop = False
            logger.say(self._plan())
            if self._evaluation_due() and self.evaluated != self.step:
                self._evaluate(logger)
            self.throughput.restart()
            while self.step < self.total_steps and not stop:
                epoch, first = divmod(self.step, self.steps_per_epoch)
                self._at("reading data")
                for parts in self.throughput.timed(self._epoch(epoch, first)):
                    self._at("computing")
                    result = self._step(parts)
                    logger.advance(self.step)
                    if self._log_due():
                        logger.record("train", self._record(epoch, result, logger))
                    elif self.step == self.started_at + 1:
                        self._tell_first_step(result, logger)
                    urgent = request.agreed()
                    stop = urgent or self._steps_are_used_up()
                    with self.throughput.paused():
                        if self._attention_due():
                            self._look_at_attention(parts[0], logger)
                        if self._evaluation_due() and not urgent:
                            self._evaluate(logger)
                        if self._checkpoint_due() or stop:
                            self._checkpoint()
                    if stop or self.step >= self.total_steps:
                        break
                    self._at("reading data")
            self._at("ending")
            finished = self.step >= self.total_steps and self.evaluated == self.step
            outcome = Outcome(self.step, self.total_steps, finished, self.best)
            logger.say(_farewell(outcome, self.settings))
        return outcome

    # A step

    def _epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, ...]]:
        """This rank's batches for each step, one per accumulation step."""
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
            last_epoch=(self.total_steps - 1) // self.steps_per_epoch,
        )
        return zip(*[batches] * accumulation, strict=True)

    def _at(self, phase: Phase) -> None:
        # The first step reads cold files, compiles and loads kernels: it still counts as starting.
        started = self.step > self.started_at or phase == "ending"
        self.ranks.progress.at(phase if started else "starting", self.step)

    def _step(self, parts: tuple[Batch, ...]) -> StepResult:
        self.model.tau = self._tau()
        with fitting(smaller_parts(self.settings.engine)):
            result = self.engine.step(parts, self._lr())
        self.step += 1
        self.overlap += result.overlap
        self.throughput.count(parts)
        return result

    def _lr(self) -> float:
        return learning_rate(self.step, self.total_steps, self.settings.optimiser)

    def _tau(self) -> float:
        return gate_threshold(self.step, self.total_steps, self.settings.schedule, self.settings.model.tau)

    def _record(self, epoch: int, result: StepResult, logger: RunLogger) -> dict[str, Any]:
        """Losses of the step just done, oIoU and speeds since the last record.

        Reading the step's numbers waits for the device, so not every step does it.
        """
        with self.ranks.progress.waiting():
            sums = torch.cat([result.losses.double(), self.overlap.double()])
            dist.all_reduce(sums)
            focal, dice, total, *no_target, intersection, union = sums.tolist()
        if not math.isfinite(total):
            raise _diverged(f"the loss of step {self.step} is {total}")
        self._require_finite_gradients()
        rates = self.throughput.rates(self.ranks, self.peak)
        self.throughput.restart()
        self.overlap.zero_()
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "epoch": epoch,
            "elapsed_s": time.perf_counter() - self.began,
            "resumed_from": self.started_at,
            "loss": total,
            "focal": focal,
            "dice": dice,
            **({"no_target": no_target[0]} if no_target else {}),
            "oIoU": intersection / union if union else 1.0,
            "lr": self.engine.lr,
            "tau": self.model.tau,
            "gradient_norm": float(result.gradient_norm),
            **rates,
            "bad_samples": self._bad_samples(logger),
        }

    def _tell_first_step(self, result: StepResult, logger: RunLogger) -> None:
        """Prints a line before the first record, which comes only after ``run.log_every`` steps."""
        with self.ranks.progress.waiting():
            losses = result.losses.double()
            dist.all_reduce(losses)
        seconds = time.perf_counter() - self.began
        logger.say(f"first step ({self.step:,}) done after {seconds:.1f} s: loss {float(losses[2]):.4f}")

    def _bad_samples(self, logger: RunLogger) -> int:
        """The number of images that all ranks have skipped so far; new ones are reported."""
        readers = (self.training, self.validation)
        lines = [line for reader in readers for line in reader.bad_samples.tell()]
        ranks = self.ranks.gather((sum(len(reader.bad_samples) for reader in readers), lines))
        for rank, (_, told) in enumerate(ranks):
            for line in told:
                logger.say(f"rank {rank} {line}")
        return sum(count for count, _ in ranks)

    def _look_at_attention(self, batch: Batch, logger: RunLogger) -> None:
        """Records attention health with the weights after this step, on part of its batch."""
        with self.ranks.progress.waiting():
            self.plain.load_state_dict(self._own_state())
            self.plain.tau = self.model.tau
            bf16 = self.settings.engine.precision == "bf16"
            sums = attention_health.attention_sums(self.plain, batch, bf16)
            dist.all_reduce(sums)
        values: dict[str, Any] = attention_health.numbers(sums)
        if warnings := self.attention_warnings.new(values):
            values["warnings"] = warnings
        logger.record("attention", {"step": self.step, **values})
        if self.ranks.first:
            for text in warnings:
                log.warning("%s", text)

    # What is due

    def _attention_due(self) -> bool:
        wanted = self.settings.run.attention_health and self._log_due()
        return wanted and attention_health.has_attention(self.plain)

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

    def _require_finite_gradients(self) -> None:
        if skipped := self.engine.skipped_steps:
            raise _diverged(
                f"by step {self.step}, {skipped} steps have had gradients that are not finite, and changed "
                "no weight"
            )

    # Between steps

    def _whole_state(self) -> dict[str, Tensor]:
        """Parameters and buffers, the same on all ranks.

        Raises:
            TrainingError: they or gradients are not finite, and must not be saved.
        """
        average_batch_statistics(self.model)
        self._require_finite_gradients()
        state = self._own_state()
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise _diverged(f"after step {self.step} the weights are not finite, and are not kept")
        return state

    def _own_state(self) -> dict[str, Tensor]:
        """The same, except that batch statistics are this rank's own."""
        whole = optimiser_state.whole_parameters(self.engine.wrapped, self.model)
        return {**self.model.state_dict(), **whole}

    def _evaluate(self, logger: RunLogger) -> None:
        with self.ranks.progress.busy("evaluating", self.step):
            self._score(logger)

    def _score(self, logger: RunLogger) -> None:
        state = self._whole_state()
        self.plain.load_state_dict(state)
        self.plain.tau = self.model.tau
        masks = SampleMasks(self.settings.run.pictures)
        self.scores = score_split(
            self.plain,
            self.validation.evaluation_batches(
                rank=self.ranks.rank,
                world=self.ranks.world,
                max_expressions=min(self.settings.data.expressions_per_step, EVALUATED_AT_ONCE),
            ),
            self.ranks,
            precision=self.settings.engine.precision,
            see=masks.see if self.settings.run.pictures else None,
        )
        self.evaluated = self.step
        skipped = self._bad_samples(logger)
        logger.record("evaluation", {"step": self.step, **self.scores, "bad_samples": skipped})
        self._draw(masks, logger)
        if self.best is None or self.scores["oIoU"] > self.best.score:
            self.best = Best(step=self.step, score=self.scores["oIoU"])
            self._save_weights(BEST, state)

    def _draw(self, masks: SampleMasks, logger: RunLogger) -> None:
        for kept in self.ranks.gather(masks.kept()):
            masks.merge(kept)
        if self.ranks.first and masks.kept():
            logger.picture(self.step, lambda: self.sheet.draw(masks.kept(), logger.say))

    def _checkpoint(self) -> None:
        with self.ranks.progress.busy("writing a checkpoint", self.step):
            self._keep()

    def _keep(self) -> None:
        state = self._whole_state()
        moments = optimiser_state.whole_moments(self.engine.wrapped, self.model)
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        where = RunState(
            step=self.step,
            epoch=epoch,
            step_in_epoch=inside,
            seed=self.settings.run.seed,
            evaluated=self.evaluated,
            best=self.best,
            data=self.cache_info.fingerprint,
            settings=self.settings.model_dump(mode="json"),
        )
        tensors = {
            **{f"model.{name}": tensor for name, tensor in state.items()},
            **{f"optimiser.{name}": tensor for name, tensor in moments.items()},
        }
        run = self.settings.run

        def save() -> None:
            require_still_owned(run.folder)
            checkpoints.save(run.folder, where, tensors, run.keep_checkpoints)

        self.ranks.from_rank_zero(save)
        self._save_weights(LAST, state)

    def _save_weights(self, name: str, state: dict[str, Tensor]) -> None:
        meta = WeightsMeta(
            model=self.settings.model,
            visual_channels=self.cache_info.visual_channels,
            text_channels=self.cache_info.text_channels,
            tau=self.model.tau,
            step=self.step,
            scores=self.scores if self.evaluated == self.step else None,
            encoders=self.cache_info.encoders,
        )
        folder = self.settings.run.folder

        def save() -> None:
            require_still_owned(folder)
            save_weights(folder / name, state, meta)

        self.ranks.from_rank_zero(save)

    # Start

    def _plan(self) -> str:
        return announcement.before_steps(
            self.settings,
            world=self.ranks.world,
            device=self.ranks.device.type,
            compiled=self.engine.compiled,
            done=self.step,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_steps,
        )

    def _resume(self, folder: Path, state: RunState) -> dict[str, Tensor]:
        data = self.cache_info.fingerprint
        self.ranks.from_rank_zero(lambda: resuming.check(folder, state, self.settings, data, self.model))
        self.step, self.evaluated, self.best = state.step, state.evaluated, state.best
        self.model.tau = gate_threshold(
            max(0, self.step - 1), self.total_steps, self.settings.schedule, self.settings.model.tau
        )
        return resuming.load(folder, self.model, self.ranks)

    def _open_folder(self) -> None:
        folder = self.settings.run.folder
        require_wandb(self.settings.run.wandb_project)
        made_with = {**environment(self.ranks), "data": self.cache_info.dataset, "kernels": self.kernels}
        changed = kernel_choice.differing(folder / run_files.ENVIRONMENT, self.kernels)
        if self.step and changed:
            log.warning("the run resumes with other implementations: %s", "; ".join(changed))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.step == 0:
                run_files.set_aside(folder)
            replace_text(folder / run_files.SETTINGS, [dump_settings(self.settings)])
            replace_text(folder / run_files.ENVIRONMENT, [json.dumps(made_with, indent=1), "\n"])
        except OSError as error:
            raise ConfigError(f"run.folder {folder} cannot be written: {error}; set it to another") from error

    def _logger(self) -> RunLogger:
        if not self.ranks.first:
            return RunLogger()
        return RankZeroLogger(self.settings, self.step, self.total_steps)


def _diverged(what: str) -> TrainingError:
    return TrainingError(
        f"{what}: the run has diverged; lower optimiser.lr, lengthen optimiser.warmup_share or lower "
        "optimiser.clip_norm, and start again, or resume from the last checkpoint with run.resume=auto"
    )


def _report(folder: Path, write_report: WriteReport) -> None:
    """Writes the report of a finished run; its failure does not fail the run."""
    page = folder / run_files.REPORT
    if ByProduct(page.name, f"again: maris-fast report {folder}").attempt(lambda: write_report(folder, page)):
        write_line(f"report: {page}", sys.stdout)


def _farewell(outcome: Outcome, settings: TrainingSettings) -> str:
    folder = settings.run.folder
    if not outcome.finished:
        return (
            f"stopped after step {outcome.step} of {outcome.total_steps}; the same command with "
            "run.resume=auto resumes from there"
        )
    best = f"; best oIoU {outcome.best.score:.4f} at step {outcome.best.step}" if outcome.best else ""
    return f"finished {outcome.total_steps} steps{best}; weights in {folder / BEST}"
