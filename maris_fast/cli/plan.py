"""``plan``: what a data set of a given size needs, before anything is bought, rented or downloaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from maris_fast.system.terminal import count, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maris_fast.data_shards.scaling import Rates, Scaling, Workload

PLACES = {"disk": "one disk a machine", "disks": "enough disks", "network": "over the network"}

REFCOCO_MEAN = 7.0
"""Expressions per image, rounded."""
EXPRESSIONS_PER_GPU = 64
"""Of a step, unless given: the default of ``data.expressions_per_step`` on one GPU."""

Given = Annotated[float | None, typer.Option(min=1e-9)]


def plan(
    gpus: Annotated[int, typer.Option(min=1)],
    images: Annotated[int | None, typer.Option(min=1)] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="count the images and expressions of an imported data set instead")
    ] = None,
    split: Annotated[str, typer.Option(help="split of --dataset")] = "train",
    gpus_a_machine: Annotated[int, typer.Option(min=1)] = 8,
    expressions_per_image: Annotated[
        float | None, typer.Option(min=1, help="on average; without --dataset 7, as in RefCOCO")
    ] = None,
    expressions_per_visit: Annotated[int, typer.Option(min=1, help="K: data.expressions_per_image")] = 8,
    expressions_per_step: Annotated[
        int | None, typer.Option(min=1, help="over all GPUs: data.expressions_per_step; default: 64 per GPU")
    ] = None,
    grid: Annotated[str, typer.Option(help="grid of tokens of an image, without padding")] = "64x48",
    channels: Annotated[int, typer.Option(min=1, help="C_v; 1280 is ViT-H")] = 1280,
    dtype: Literal["int8", "fp8", "bf16"] = "int8",
    shard_bytes: Annotated[int, typer.Option(min=1, help="size of a shard, as in the cache's settings")] = 2
    << 30,
    epochs: Annotated[int, typer.Option(min=1)] = 50,
    sam_images_per_s: Given = None,
    step_expressions_per_s: Given = None,
    disk_gbps: Annotated[float | None, typer.Option("--disk-GBps", min=1e-9)] = None,
    network_gbps: Annotated[float | None, typer.Option("--network-GBps", min=1e-9)] = None,
    device: Annotated[str | None, typer.Option(help="use rates measured in bench/results/DEVICE")] = None,
) -> None:
    """Estimate bytes, disks, network and hours for a number of images, and whether a cache saves time.

    Rates are of one GPU, one disk and one machine's network. Those not given come from measurements on
    --device where there are some, else they are assumed, and said to be.
    """
    from maris_fast.data_shards.scaling import Rate, Workload, choose_rates, reads_per_image, scale

    expressions, source = _expressions(images, dataset, split, expressions_per_image)
    step = expressions_per_step or EXPRESSIONS_PER_GPU * gpus
    # A sample has few large steps, so the last one would be short: a part of a step is divided the same way.
    part = 1 if dataset else math.gcd(step, gpus)
    reads = reads_per_image(expressions, step=step // part, K=expressions_per_visit, gpus=gpus // part)
    work = Workload(
        images=images or len(expressions),
        gpus=gpus,
        reads_per_image=Rate(reads, source),
        gpus_a_machine=gpus_a_machine,
        expressions_per_image=float(expressions.mean()) if dataset else expressions_per_image or REFCOCO_MEAN,
        grid=_grid(grid),
        channels=channels,
        feature_dtype=dtype,
        shard_bytes=shard_bytes,
        epochs=epochs,
    )
    given = {
        "sam_images_per_s": sam_images_per_s,
        "step_expressions_per_s": step_expressions_per_s,
        "disk_GBps": disk_gbps,
        "network_GBps": network_gbps,
    }
    rates = choose_rates(given, _results(device) if device else None)
    say("\n".join(_lines(work, rates, scale(work, rates))))


def _expressions(
    images: int | None, dataset: Path | None, split: str, mean: float | None
) -> tuple[NDArray[np.int64], str]:
    """How many expressions each image has, [I], and where that is from."""
    from maris_fast.data_shards.scaling import (
        SENTENCES_AN_OBJECT,
        assumed_expressions,
        counted_expressions,
    )
    from maris_fast.errors import ConfigError

    if dataset is None:
        if images is None:
            raise ConfigError("plan needs the number of images: give --images N or --dataset FOLDER")
        found = assumed_expressions(mean or REFCOCO_MEAN)
        return found, f"assumed: 1 + Poisson objects an image, of up to {SENTENCES_AN_OBJECT} sentences each"
    if images is not None or mean is not None:
        raise ConfigError(
            "--dataset counts images and expressions; leave out --images and --expressions-per-image"
        )
    return counted_expressions(dataset, split), f"counted: {dataset / split}.jsonl, first epoch"


def _lines(work: Workload, rates: Rates, found: Scaling) -> list[str]:
    h, w = work.grid
    rows = {
        "images": f"{work.images:,} of {found.image_bytes / 1e6:.1f} MB "
        f"({work.feature_dtype}, {h} x {w} x {work.channels} x 3)",
        "cache": f"{_size(found.cache_bytes)} in {found.shards:,} shards",
        "caching": f"{_time(found.caching_s)} on {count(work.gpus, 'GPU')}, "
        f"writing {found.caching_write_GBps:.2f} GB/s in all",
        "an epoch reads": f"{_size(found.epoch_read_bytes)}, "
        f"each image {work.reads_per_image.value:.2f} times on average",
        "an epoch computes": _time(found.epoch_compute_s),
        "to keep GPUs busy": f"{found.needed_GBps:.2f} GB/s into each of {count(work.machines, 'machine')}: "
        f"{count(found.disks_a_machine, 'disk')} each",
    }
    lines = [f"{name:<20}{text}" for name, text in rows.items()]
    lines += [
        "",
        f"{'where the cache lies':<22}{'epoch':>10}{'run':>10}  {'slowest':<9}caching pays from epoch",
    ]
    for where, name in PLACES.items():
        even = found.break_even_epochs(where)
        lines.append(
            f"{name:<22}{_time(found.epoch_s(where)):>10}{_time(found.run_s(where)):>10}  "
            f"{found.bottleneck(where):<9}{'never' if math.isinf(even) else f'{math.ceil(even):,}'}"
        )
    fly, whole = _time(found.on_the_fly_epoch_s), _time(found.on_the_fly_s)
    lines += [f"{'encoded on the fly':<22}{fly:>10}{whole:>10}  GPU", "", "rates"]
    for name, rate in {"reads_per_image": work.reads_per_image, **vars(rates)}.items():
        lines.append(f"  {name:<24}{rate.value:>10,.4g}  {rate.source}")
    return lines


def _size(size: float) -> str:
    for unit, one in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if size >= one:
            return f"{size / one:,.2f} {unit}"
    return f"{size / 1e6:,.2f} MB"


def _time(seconds: float) -> str:
    for unit, one in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * one:
            return f"{seconds / one:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def _grid(text: str) -> tuple[int, int]:
    from maris_fast.errors import ConfigError

    h, _, w = text.partition("x")
    if not (h.isdigit() and w.isdigit() and 0 < int(h) <= 64 and 0 < int(w) <= 64):
        raise ConfigError(f"--grid {text} is not rows x columns of at most 64 tokens, such as 64x48")
    return int(h), int(w)


def _results(device: str) -> Path:
    from maris_fast.bench.results import ROOT
    from maris_fast.errors import InputError

    folder = ROOT / "bench" / "results"
    if not (folder / device).is_dir():
        known = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir())) or "none"
        raise InputError(f"no measurements of device {device!r} in {folder}; there are {known}")
    return folder / device
