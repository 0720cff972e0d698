"""The run at hand: its settings, its cache and its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maris_fast.doctor.encoders import judge_random
from maris_fast.doctor.finding import Finding, broken, count, not_run, ok, size
from maris_fast.doctor.folders import Place, look_at
from maris_fast.doctor.subject import Subject
from maris_fast.errors import InputError, MarisError

if TYPE_CHECKING:
    from maris_fast.model import Maris
    from maris_fast.train.cache_info import CacheInfo

SHOWN = 3


def settings(subject: Subject) -> Finding:
    """They can be read, and DeepSpeed's configuration follows from them for this number of ranks."""
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
    """The splits' shards are there with their sizes and indexes; no shard is read."""
    from maris_fast.data_shards.cache import read_manifest
    from maris_fast.data_shards.cache.verify import glance

    if subject.training is not None and subject.training.data.shards is not None:
        return not_run("shards come through data.shards", "try its command on one shard")
    assert subject.cache is not None
    try:
        manifest = read_manifest(subject.cache)
    except MarisError as error:
        return broken(str(error), "a complete cache", "set data.cache to one, or make it")
    splits: Sequence[str] = list(manifest.splits)
    if subject.training is not None:
        data = subject.training.data
        splits = list(dict.fromkeys((data.train_split, data.val_split)))
    for split in splits:
        try:
            entry = manifest.of_split(split, subject.cache)
        except InputError as error:
            return broken(str(error), "a split that is there", "set data.*_split")
        if not entry.images:
            return broken(f"split {split!r} of {subject.cache} is empty", "images", "write the cache again")
    problems = [str(one) for one in glance(subject.cache, manifest, splits)]
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
    if manifest.random:
        return judge_random(manifest.random, f"{came}; ")
    return ok(f"{came}; `maris-fast verify` reads all of it")


def run_folder(subject: Subject) -> Finding:
    """It can be written, has room for checkpoints, and what it holds can be gone on from."""
    from maris_fast.data_shards.cache import read_manifest
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
    except (MarisError, KeyError):  # the check of the cache says why; widths, and so sizes, are unknown
        return ok(f"{run.folder} can be written; what it needs follows from the cache")
    model = _model_without_memory(subject, source)
    if found is not None:
        resuming.check(*found, subject.training, source.fingerprint, model)
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    moments = 2 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    # One checkpoint more while the next is written; likewise of best and last.
    needed = (run.keep_checkpoints + 1) * (weights + moments) + 3 * weights
    return judge_room(run.folder, place, needed, found[1].step if found else None)


def judge_room(folder: Path, place: Place, needed: int, resumed: int | None = None) -> Finding:
    """``needed``: bytes of checkpoints and weights; ``resumed``: the step to go on from."""
    if place.why_not:
        return broken(
            f"{place.path} {place.why_not}", "a folder that can be written", "set run.folder to another"
        )
    room = f"{size(place.free)} free for {size(needed)} of checkpoints and weights"
    if place.free < needed:
        return broken(f"{folder}: {room}", "that much", "make room, or lower run.keep_checkpoints")
    start = "a new run" if resumed is None else f"goes on after step {resumed}"
    return ok(f"{folder}: {start}; {room}")


def _model_without_memory(subject: Subject, source: CacheInfo) -> Maris:
    import torch

    from maris_fast.model import Maris

    with torch.device("meta"):
        return Maris(subject.model, source.visual_channels, source.text_channels)
