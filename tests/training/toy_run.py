"""A whole run on the toy model: the real trainer, engine, checkpoints and logger, on generated batches."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maris_fast.config import ReadingSettings, TrainingSettings
from maris_fast.data_shards.stream import Batch
from maris_fast.data_shards.stream.bad_samples import BadSamples
from maris_fast.train import resuming
from maris_fast.train.cache_info import CacheInfo
from maris_fast.train.loop import Trainer
from tests.encoders.provenances import provenance
from tests.training.processes import records
from tests.training.toy import TEXT, VISUAL, ToyModel, part_of, toy_batch

STEPS_PER_EPOCH = 3
EXPRESSIONS = 8


class ToyReader:
    """The stream's interface over generated batches; at ``signal_at`` (epoch, step) one rank gets SIGTERM."""

    def __init__(self, signal_at: tuple[int, int] | None = None) -> None:
        self.signal_at = signal_at
        self.bad_samples = BadSamples(ReadingSettings())

    def steps_per_epoch(self, expressions_per_step: int) -> int:
        return STEPS_PER_EPOCH

    def batches(
        self, *, seed: int, epoch: int, rank: int, world: int, accumulation: int, first_step: int, **_: Any
    ) -> Iterator[Batch]:
        for step in range(first_step, STEPS_PER_EPOCH):
            if (epoch, step) == self.signal_at and rank == world - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            whole = toy_batch(1000 * seed + 10 * epoch + step, EXPRESSIONS)
            for part in range(accumulation):
                yield part_of(whole, part * world + rank, accumulation * world)

    def evaluation_batches(self, *, rank: int, world: int, **_: Any) -> Iterator[Batch]:
        # Uneven on purpose: only rank 0 has a second batch.
        for index in range(2 if rank == 0 else 1):
            batch = toy_batch(10**6 + 10 * rank + index, 4)
            yield replace(batch, weights=torch.ones(4))


def toy_settings(folder: Path, **changes: Any) -> TrainingSettings:
    values: dict[str, Any] = {
        "data": {"cache": "none", "expressions_per_step": EXPRESSIONS},
        "run": {"folder": str(folder), "log_every": 1, "keep_checkpoints": 9, "pictures": 0},
        "schedule": {"epochs": 3, "tau_ramp_share": 1.0},
        "optimiser": {"lr": 1e-2, "clip_norm": 0.5},
        "engine": {"device": "cpu", "timeout_minutes": 1},
    }
    for name, value in changes.items():
        section, key = name.split(".")
        values.setdefault(section, {})[key] = value
    return TrainingSettings.model_validate(values)


def toy_trainer(
    settings: TrainingSettings, ranks: Any, model: torch.nn.Module | None = None, **reader: Any
) -> Trainer:
    found = ranks.from_rank_zero(lambda: resuming.find(settings.run))
    source = CacheInfo(VISUAL, TEXT, provenance(), "f00d", 1, Path("none"))
    training: Any = ToyReader(**reader)
    whole: Any = model or ToyModel(batch_norm=True)
    return Trainer(settings, ranks, source, training, training, whole, found, {})


def losses(folder: Path) -> list[tuple[int, float, float]]:
    return [(one["step"], one["loss"], one["gradient_norm"]) for one in records(folder, "train")]


def replaced(settings: TrainingSettings, **run: Any) -> TrainingSettings:
    return settings.model_copy(update={"run": settings.run.model_copy(update=run)})
