"""One real step: the cache's first batch, read, through the configured model, its loss and its optimiser."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from maris_fast.config import TrainingSettings
from maris_fast.doctor.finding import Finding, broken, count, not_run, ok, size
from maris_fast.doctor.subject import Subject
from maris_fast.system.launchers import be_alone

if TYPE_CHECKING:
    from maris_fast.train.ranks import Ranks

CPU_EXPRESSIONS = 2
"""On a CPU a whole step may take minutes, and memory is the machine's."""


def first_step(subject: Subject) -> Finding:
    """A rank's part of a step in full on a GPU, with the memory it takes; on a CPU of two expressions.

    Without torch.compile, whose first step takes minutes. On a GPU this was not tried.
    """
    assert subject.training is not None
    if subject.training.data.shards is not None:
        return not_run("shards come through data.shards, and one would be fetched whole")
    be_alone()
    import torch

    from maris_fast.train.ranks import join, leave

    ranks = join(subject.training.engine)
    settings = alone(subject, on_gpu=ranks.device.type == "cuda")
    began = time.perf_counter()
    try:
        expressions, loss = _step(settings, ranks)
    except torch.OutOfMemoryError as error:
        return judge_memory(str(error).splitlines()[0], subject.training)
    leave()
    seconds = time.perf_counter() - began
    said = f"{count(expressions, 'expression')} on {ranks.device.type}, {seconds:.1f} s, loss {loss:.3f}"
    if ranks.device.type == "cuda":
        said += f", {size(torch.cuda.max_memory_reserved())} of {size(torch.cuda.mem_get_info()[1])}"
    return judge_loss(loss, said)


def _step(settings: TrainingSettings, ranks: Ranks) -> tuple[int, float]:
    """Expressions of the first batch, padding included, and their loss."""
    import torch

    from maris_fast.data_shards.stream import CacheReader
    from maris_fast.model import Maris
    from maris_fast.train.engine import Engine

    data = settings.data
    bf16 = ranks.device.type == "cuda" and settings.engine.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    with CacheReader(data.cache, data.train_split, data, device=ranks.device, dtype=dtype) as reader:
        batches = reader.batches(
            seed=settings.run.seed,
            epoch=0,
            expressions_per_step=data.expressions_per_step,
            expressions_per_image=data.expressions_per_image,
        )
        batch = next(batches)
        model = Maris(settings.model, reader.channels, reader.text_channels)
        engine = Engine(model, settings, ranks)
        losses = engine.step((batch,), settings.optimiser.lr).losses
        return len(batch.words), float(losses[2])


def alone(subject: Subject, *, on_gpu: bool) -> TrainingSettings:
    """The settings of one rank that does its own part of a step, and nothing else of it."""
    settings = subject.training
    assert settings is not None
    part = math.ceil(
        settings.data.expressions_per_step / (subject.world * settings.engine.accumulation_steps)
    )
    changed = {
        "data": {"expressions_per_step": part if on_gpu else min(part, CPU_EXPRESSIONS)},
        "engine": {"accumulation_steps": 1, "compile": False},
    }
    sections = {name: getattr(settings, name).model_copy(update=values) for name, values in changed.items()}
    return settings.model_copy(update=sections)


def judge_memory(said: str, settings: TrainingSettings) -> Finding:
    now = settings.engine.accumulation_steps
    return broken(
        f"a rank's part of a step does not fit: {said}",
        "memory for it (docs/training.md has a table)",
        f"set engine.accumulation_steps={2 * now}, which halves the part, or start more ranks",
    )


def judge_loss(loss: float, said: str) -> Finding:
    if math.isfinite(loss):
        return ok(said)
    return broken(said, "a finite loss", "set engine.precision=fp32, and verify the cache: maris-fast verify")
