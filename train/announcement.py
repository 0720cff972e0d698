"""What a training prints before its first record: where everything is, and how many steps it has."""

from __future__ import annotations

from pathlib import Path

from maris_fast.config import TrainingSettings
from maris_fast.data_shards.cache import read_manifest
from maris_fast.data_shards.cache.manifest import MANIFEST
from maris_fast.system.terminal import count
from maris_fast.train.run_files import BOARD, METRICS
from maris_fast.weight_files import BEST, LAST


def before_loading(settings: TrainingSettings, world: int) -> str:
    """The run's folder and its cache, to print before the slow imports of PyTorch and DeepSpeed."""
    run, data = settings.run, settings.data
    lines = [
        f"training on {count(world, 'rank')} into {run.folder}: {METRICS}, {BOARD}, {BEST}, {LAST}",
        f"cache {data.cache}: {_contents(settings)}",
        "loading PyTorch and DeepSpeed",
    ]
    return "\n".join(lines)


def before_steps(
    settings: TrainingSettings,
    *,
    world: int,
    device: str,
    compiled: bool,
    done: int,
    steps_per_epoch: int,
    total_steps: int,
) -> str:
    """How many steps, of what size, and when the next line comes."""
    run, per_step = settings.run, settings.data.expressions_per_step
    goes_on = f", from step {done}" if done else ""
    slow_start = "; blocks are compiled in the first steps, a minute or two" if compiled else ""
    return (
        f"{total_steps:,} steps{goes_on}, {steps_per_epoch:,} an epoch, {per_step} expressions a step; "
        f"{count(world, 'rank')} on {device} in {settings.engine.precision}; "
        f"a line every {count(run.log_every, 'step')}{slow_start}"
    )


def _contents(settings: TrainingSettings) -> str:
    data = settings.data
    if not isinstance(data.cache, Path):
        return "an address, read as it is needed"
    if not (data.cache / MANIFEST).is_file():
        return f"filled from {data.shards}" if data.shards is not None else "not on this machine"
    manifest = read_manifest(data.cache)
    splits = ((split, manifest.of_split(split, data.cache)) for split in (data.train_split, data.val_split))
    return "; ".join(
        f"{name} {one.expressions:,} expressions of {one.images:,} images" for name, one in splits
    )
