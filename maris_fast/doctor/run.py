"""Checks of the run itself: its ranks, settings, cache and folder, and one real step of it."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from maris_fast.config import TrainingSettings
from maris_fast.doctor.finding import Finding, broken, not_run, ok, size, warning
from maris_fast.doctor.machine import Folder, look_at
from maris_fast.doctor.subject import Subject
from maris_fast.errors import InputError, MarisError
from maris_fast.system.launchers import be_alone, free_port
from maris_fast.system.object_store import StoreError
from maris_fast.system.terminal import count

if TYPE_CHECKING:
    from maris_fast.train.ranks import Ranks

SHOWN = 3
PATIENCE = 0.1
"""Minutes, to which joining adds one: below the check's limit, so that it can report a missing rank."""
CPU_EXPRESSIONS = 2
"""Expressions of the trial step on a CPU, where a whole step may take minutes and uses main memory."""
MEET = (
    "see that every rank was started, and let them reach each other on any port; on several networks set "
    "GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) to the interface that all reach"
)


def ranks_meet(subject: Subject) -> Finding:
    """Whether all ranks of a launcher, or else two processes started here, can join and add up a number."""
    began = time.monotonic()
    if subject.launched:
        who = f"{count(subject.world, 'rank')} on {count(subject.machines, 'machine')}"
        device = _kind(subject, gpus=1)
        why_not = _why_not_met(device)
    else:
        who = "two ranks"
        device = _kind(subject, gpus=2)
        why_not = _two_here(device)
    over = "NCCL and gloo" if device == "cuda" else "gloo"
    if why_not:
        return broken(f"{who} did not meet over {over}: {why_not}", "ranks that meet", MEET)
    return ok(f"{who} meet over {over} and add up ({time.monotonic() - began:.1f} s)")


def _kind(subject: Subject, *, gpus: int) -> str:
    import torch

    return "cuda" if torch.cuda.device_count() >= gpus and not subject.refuses_gpu else "cpu"


def _why_not_met(device: str) -> str:
    """Join as a run does and add up a number; return what went wrong, or an empty string."""
    import torch
    import torch.distributed as dist

    from maris_fast.config import EngineSettings
    from maris_fast.train.ranks import join, leave

    try:
        ranks = join(EngineSettings.model_validate({"device": device, "timeout_minutes": PATIENCE}))
        total = torch.ones(1, device=ranks.device)
        dist.all_reduce(total)
        numbers = ranks.gather(ranks.rank)
        leave()
    except Exception as error:  # any error of the network or of a library is the finding
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if total.item() != ranks.world or numbers != list(range(ranks.world)):
        return f"ranks {numbers} add up to {total.item():g}"
    return ""


def _two_here(device: str) -> str:
    """Why two ranks on this machine did not meet; empty if they did."""
    # CUDA cannot be used in a fork of a process that has looked for it.
    context = multiprocessing.get_context("spawn" if device == "cuda" else "fork")
    port = free_port()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        ranks = [pool.submit(_one_of_two, rank, port, device) for rank in range(2)]
        try:
            told = [rank.result() for rank in ranks]
        except BrokenProcessPool:
            return "one of them ended without a message"
    return "; ".join(f"rank {rank}: {why}" for rank, why in enumerate(told) if why)


def _one_of_two(rank: int, port: int, device: str) -> str:
    own = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in own.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return _why_not_met(device)


def settings(subject: Subject) -> Finding:
    """Whether the settings can be read and give a DeepSpeed configuration for this number of ranks."""
    if subject.problem is not None:
        return broken(subject.problem, "settings that can be used", "correct the file or the override")
    if subject.training is None:
        return ok("settings of a cache")
    from maris_fast.train.deepspeed_config import deepspeed_config

    generated = deepspeed_config(subject.training, subject.world)
    part = generated["train_micro_batch_size_per_gpu"]
    zero = subject.training.engine.zero_stage
    return ok(
        f"{count(subject.world, 'rank')}, ZeRO {zero}, {count(part, 'expression')} a rank and part of a step"
    )


def cache(subject: Subject) -> Finding:
    """Whether the splits' shards exist with the right sizes and indexes; no shard is read."""
    from maris_fast.data_shards.cache import read_manifest
    from maris_fast.data_shards.cache.verify import glance

    if subject.training is not None and subject.training.data.shards is not None:
        return not_run("shards come through data.shards", "try its command on one shard")
    assert subject.cache is not None
    try:
        manifest = read_manifest(subject.cache)
    except MarisError as error:
        return broken(str(error), "a complete cache", "set data.cache to one, or create it")
    splits: Sequence[str] = list(manifest.splits)
    if subject.training is not None:
        data = subject.training.data
        splits = list(dict.fromkeys((data.train_split, data.val_split)))
    for split in splits:
        try:
            entry = manifest.of_split(split, subject.cache)
        except InputError as error:
            return broken(str(error), "an existing split", "set data.*_split")
        if not entry.images:
            return broken(f"split {split!r} of {subject.cache} is empty", "images", "write the cache again")
    try:
        problems = [str(one) for one in glance(subject.cache, manifest, splits)]
    except StoreError as error:
        return broken(str(error), "a server that gives the cache's files", "set data.cache to one that does")
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        return broken(
            "; ".join(problems[:SHOWN]) + more,
            "every shard as it was written",
            "copy them again, or run the `maris-fast cache` command again; then "
            f"maris-fast verify {subject.cache}",
        )
    chosen = [manifest.splits[split] for split in splits]
    came = (
        f"{', '.join(splits)}: {count(sum(len(one.shards) for one in chosen), 'shard')}, "
        f"{size(sum(one.bytes for one in chosen))}, C_v = {manifest.channels}"
    )
    if random := manifest.encoders.random:
        came += f"; random weights in {' and '.join(random)}"
        return warning(came, "trained encoders, for anything but trials", "nothing, if this is a trial")
    return ok(f"{came}; `maris-fast verify` reads all of it")


def run_folder(subject: Subject) -> Finding:
    """Whether the folder can be written, has room for checkpoints, and can be resumed if it holds a run."""
    import torch

    from maris_fast.data_shards.cache import read_manifest
    from maris_fast.model import Maris
    from maris_fast.train import resuming
    from maris_fast.train.cache_info import CacheInfo

    assert subject.training is not None
    run, data = subject.training.run, subject.training.data
    place = look_at(run.folder)
    if place.why_not:
        return judge_room(run.folder, place, 0)
    found = resuming.find(run)
    try:
        manifest = read_manifest(data.cache)
        source = CacheInfo.of(manifest, data.train_split)
    except (MarisError, KeyError):  # the check of the cache reports why; widths, and so sizes, are unknown
        return ok(f"{run.folder} can be written; what it needs follows from the cache")
    with torch.device("meta"):
        model = Maris(subject.model, source.visual_channels, source.text_channels)
    if found is not None:
        resuming.check(*found, subject.training, source.fingerprint, model)
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    moments = 2 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    # One more checkpoint while the next is written; likewise for the weights of best and last.
    needed = (run.keep_checkpoints + 1) * (weights + moments) + 3 * weights
    return judge_room(run.folder, place, needed, found[1].step if found else None)


def judge_room(folder: Path, place: Folder, needed: int, resumed: int | None = None) -> Finding:
    """``needed``: bytes of checkpoints and weights; ``resumed``: the step to resume from."""
    if place.why_not:
        return broken(
            f"{place.path} {place.why_not}", "a folder that can be written", "set run.folder to another"
        )
    room = f"{size(place.free)} free for {size(needed)} of checkpoints and weights"
    if place.free < needed:
        return broken(f"{folder}: {room}", "that much", "make room, or lower run.keep_checkpoints")
    start = "a new run" if resumed is None else f"resumes after step {resumed}"
    return ok(f"{folder}: {start}; {room}")


def first_step(subject: Subject) -> Finding:
    """Run a rank's part of a step: in full on a GPU, with the memory it takes; with two expressions on a CPU.

    Without torch.compile, whose first step takes minutes. Not yet tried on a GPU.
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
    """Number of expressions in the first batch, padding included, and their loss."""
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
    """The settings of a single rank that computes only its own part of a step."""
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
    from maris_fast.train.engine import smaller_parts

    return broken(
        f"a rank's part of a step does not fit: {said}",
        "memory for it (docs/training.md has a table)",
        smaller_parts(settings.engine),
    )


def judge_loss(loss: float, said: str) -> Finding:
    if math.isfinite(loss):
        return ok(said)
    return broken(said, "a finite loss", "set engine.precision=fp32, and verify the cache: maris-fast verify")
