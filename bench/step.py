"""The waterfall of a training step: one technique per row, added to the last row carried on, in one run.

A row is real training: batches from real shards (synthetic features of the real size), the engine under
DeepSpeed, AdamW. Only the first two rows read no shards: they run the frozen encoders in every step. The
last row removes one technique again, to show what image groups are worth when nothing slower hides it.
"""

from __future__ import annotations

import gc
import resource
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from maris_fast.bench.conditions import gpu_conditions
from maris_fast.bench.fake_cache import write_fake_cache
from maris_fast.bench.measuring import load_told
from maris_fast.config import RANDOM, FeatureDtype, SamSettings, TextSettings, TrainingSettings
from maris_fast.data_shards.cache.manifest import MANIFEST
from maris_fast.data_shards.scaling import PLAN_RATES
from maris_fast.data_shards.stream import Batch, CacheReader
from maris_fast.encoders import SamEncoder, TextEncoder
from maris_fast.geometry import PATCH
from maris_fast.kernels.multihead_attention.memory_efficient import why_not_built
from maris_fast.model import Maris
from maris_fast.model.flops import training_flops
from maris_fast.system.devices import forget_peak_memory, peak_memory
from maris_fast.train.engine import Engine
from maris_fast.train.ranks import Ranks
from maris_fast.train.throughput import peak_tflops

Source = Literal["encoders", "bf16, padded", "int8"]
SENTENCE = "the thing over there"
GIB = 2**30
LR = 1e-4
# Steps after which everything is compiled, built and allocated.
WARM_UP = 3
# Seconds between two readings of an endurance run.
INTERVAL = 10


@dataclass(frozen=True)
class Size:
    """All sizes of a run. ``grid`` is that of a 4:3 image, without SAM's padding."""

    sam: str
    text: str
    image_size: int
    visual_channels: int
    text_channels: int
    grid: tuple[int, int]
    channels: int
    heads: int
    fast_heads: int
    images: int
    each: int
    """Expressions of every image, and K, so that no group is divided; real images vary."""
    eager: int
    """Expressions per step in the rows that hold attention matrices in memory."""
    step: int
    """Expressions per step in the rows after them."""
    steps: int
    """Steps per timed round."""
    buffer_bytes: int

    @property
    def side(self) -> int:
        """Tokens along a side of the padded grid."""
        return self.image_size // PATCH


PAPER_PRESET = "compiled"
"""The row with exactly what ``train/configs/presets/paper.yaml`` enables on CUDA."""

SIZES = {
    # SAM ViT-H at 1024 pixels, CLIP ViT-L/14, the paper's model.
    "full": Size(
        sam="vit_h",
        text="ViT-L-14",
        image_size=1024,
        visual_channels=1280,
        text_channels=768,
        grid=(64, 48),
        channels=256,
        heads=8,
        fast_heads=2,
        images=64,
        each=7,
        eager=14,
        step=56,
        steps=8,
        buffer_bytes=8 * GIB,
    ),
    # For a CPU: ViT-B's features of small images, a model of the quickstart's width.
    "small": Size(
        sam="vit_b",
        text="tiny",
        image_size=256,
        visual_channels=768,
        text_channels=64,
        grid=(16, 12),
        channels=64,
        heads=8,
        fast_heads=2,
        images=112,
        each=7,
        eager=14,
        step=56,
        steps=4,
        buffer_bytes=GIB // 2,
    ),
    # train/configs/tiny.yaml on the tests' tiny encoders: seconds per row, mostly spent in Python.
    "tiny": Size(
        sam="vit_tiny",
        text="tiny",
        image_size=128,
        visual_channels=128,
        text_channels=64,
        grid=(8, 6),
        channels=32,
        heads=4,
        fast_heads=1,
        images=112,
        each=7,
        eager=28,
        step=56,
        steps=4,
        buffer_bytes=GIB // 4,
    ),
}


@dataclass(frozen=True)
class Technique:
    """One row: its name, and everything that is enabled in it."""

    name: str
    source: Source
    expressions_per_image: int
    expressions_per_step: int
    model: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    only_on_cuda: str | None = None
    """Why the row is skipped elsewhere."""
    carried_on: bool = True
    """Whether later rows have it too."""


def waterfall(size: Size, device: torch.device) -> list[Technique]:
    """The rows in order; each adds one technique to the last one carried on, the final row removes one."""
    eager = {
        "attention_impl": "reference",
        "mutual_attention_impl": "reference",
        "cross_attention_impl": "projected",
        "heads": size.heads,
    }
    fused = {**eager, "mutual_attention_impl": "triton"} if device.type == "cuda" else eager
    xformers = why_not_built() is None if device.type == "cuda" else False
    efficient = {**fused, "attention_impl": "xformers" if xformers else "sdpa"}
    bf16 = {"precision": "bf16"}
    # Few CPUs multiply bf16 faster than fp32: measured there too, but not carried on.
    kept = bf16 if device.type == "cuda" else {}
    compiled = {**kept, "compile": True}
    # Triton kernels where they run, in 16 bits; elsewhere nothing is in 16 bits: plain PyTorch in fp32.
    folded = {**efficient, "cross_attention_impl": "triton" if device.type == "cuda" else "folded"}
    fewer_heads = {**folded, "heads": size.fast_heads}
    fast = {**fewer_heads, "decoder_self_attention": "pooled"}
    K, few, many = size.each, size.eager, size.step
    on_cuda = "its Triton kernels run on CUDA only"
    return [
        Technique("encoders in the loop, one expression a sample", "encoders", 1, few, eager),
        Technique("encoders in the loop, image groups", "encoders", K, few, eager, carried_on=False),
        Technique("cached features, bf16, padded", "bf16, padded", 1, few, eager),
        Technique("int8, without padding", "int8", 1, few, eager),
        Technique("image groups", "int8", K, few, eager),
        Technique("fused mutual-aware attention", "int8", K, few, fused, only_on_cuda=on_cuda),
        Technique("memory-efficient attention", "int8", K, many, efficient),
        Technique("bf16", "int8", K, many, efficient, bf16, carried_on=bool(kept)),
        Technique("projections folded into words", "int8", K, many, folded, kept),
        Technique(PAPER_PRESET, "int8", K, many, folded, compiled),
        Technique("fewer, wider heads", "int8", K, many, fewer_heads, compiled),
        Technique("fast preset: pooled keys too", "int8", K, many, fast, compiled),
        Technique("fast preset without image groups", "int8", 1, many, fast, compiled, carried_on=False),
    ]


class Round(NamedTuple):
    """Of a number of steps: seconds, those spent waiting for a batch, images, the trained model's FLOPs."""

    seconds: float
    waited: float
    images: int
    flops: int


def measure(
    size: Size,
    ranks: Ranks,
    rounds: int,
    told: Callable[[str], None],
    only: Collection[int] = (),
    peak: float | None = None,
    folder: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Time every row, or those with the numbers ``only``, from 1; yield each as soon as it is done.

    MFU is a share of ``peak``, in TFLOP/s; None: the device's, by its name. ``folder`` keeps the synthetic
    features for another call with the same size.
    """
    with tempfile.TemporaryDirectory(prefix="maris-step-") as scratch:
        every = enumerate(waterfall(size, ranks.device), start=1)
        rows = [row for number, row in every if not only or number in only]
        caches = _write_caches(folder or Path(scratch), size, told, {row.source for row in rows})
        for row in rows:
            head = {name: value for name, value in vars(row).items() if name != "only_on_cuda"}
            if row.only_on_cuda and ranks.device.type != "cuda":
                yield {**head, "left_out": row.only_on_cuda}
                continue
            with gpu_conditions(ranks.device) as of_gpu:
                measured = timed(row, size, caches, ranks, rounds, peak)
            told_plans = for_plans(row, size, measured["expressions_per_s"])
            yield {**head, **measured, **told_plans, **load_told(), **of_gpu}


def for_plans(row: Technique, size: Size, rates: list[float]) -> dict[str, Any]:
    """The rate that ``maris-fast plan`` uses, if the row is the paper preset at full size; else empty."""
    if size is not SIZES["full"] or row.name != PAPER_PRESET:
        return {}
    return {"shape": f"training step, {row.name}", PLAN_RATES: {"step_expressions_per_s": median(rates)}}


def line(row: dict[str, Any]) -> str:
    """A line of progress for a row, or for a reading of an endurance run."""
    if "left_out" in row:
        return f"{row['name']}: skipped, {row['left_out']}"
    if "at_s" in row:
        return f"{row['at_s']:6.0f} s  {row['expressions_per_s']:.1f} expressions/s"
    rate, waits = median(row["expressions_per_s"]), sum(row["waited"]) / sum(row["seconds"])
    return f"{row['name']}: {rate:.1f} expressions/s, {waits:.1%} of the time waiting for data"


def timed(
    row: Technique,
    size: Size,
    caches: dict[Source, Path],
    ranks: Ranks,
    rounds: int,
    peak: float | None = None,
) -> dict[str, Any]:
    """Train on the row's batches: warm-up steps that are not timed, then ``rounds`` rounds.

    Returns:
        For each round ``seconds``, how many of them were spent waiting for a batch, ``tflops_per_s`` of the
        trained model by formula (frozen encoders in the loop are not counted), ``images`` (towards the end of
        an epoch an image's expressions meet in a step, whatever K is) and ``expressions_per_s``.
        ``peak_bytes``: of the device's memory; on a CPU of the whole process, which keeps some of what
        earlier rows freed. ``peak_tflops``: the device's bf16 peak, if it is known or was given.
    """
    with training(row, size, caches, ranks) as (engine, batches):
        begun = time.perf_counter()
        for _ in range(WARM_UP):
            engine.step([next(batches)], LR)
        _wait(ranks.device)
        warm_up = time.perf_counter() - begun
        forget_peak_memory(ranks.device)
        done = [one_round(engine, batches, size.steps, ranks.device) for _ in range(rounds)]
        return {
            "seconds": [one.seconds for one in done],
            "waited": [one.waited for one in done],
            "steps": size.steps,
            "warm_up_seconds": warm_up,
            "peak_bytes": peak_memory(ranks.device),
            "tflops_per_s": [one.flops / one.seconds / 1e12 for one in done],
            "images": [one.images for one in done],
            "peak_tflops": peak_tflops(ranks.device, peak),
            "expressions_per_s": [row.expressions_per_step * size.steps / one.seconds for one in done],
        }


def one_round(engine: Engine, batches: Iterator[Batch], steps: int, device: torch.device) -> Round:
    """Run ``steps`` steps, the device's work included."""
    waited, images, flops = 0.0, 0, 0
    begun = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        engine.step([batch], LR)
        images += len(batch.features[0])
        flops += _flops(engine, batch)
    _wait(device)
    return Round(time.perf_counter() - begun, waited, images, flops)


def _flops(engine: Engine, batch: Batch) -> int:
    """FLOPs of the trained model for one batch, from shapes alone, so nothing waits for a device."""
    model = engine.model
    assert isinstance(model, Maris)
    images, h, w, _ = batch.features[0].shape
    expressions, L_t, _ = batch.words.shape
    each = training_flops(model.settings, model.visual_channels, model.text_channels, (h, w), L_t)
    return each.of(images, expressions)


def endure(size: Size, ranks: Ranks, minutes: float, told: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Train like the fast preset's row for ``minutes``; yield speed and memory about every ten seconds."""
    row = [row for row in waterfall(size, ranks.device) if row.carried_on][-1]
    on_gpu = ranks.device.type == "cuda"
    with tempfile.TemporaryDirectory(prefix="maris-step-") as folder:
        caches = _write_caches(Path(folder), size, told, {row.source})
        with training(row, size, caches, ranks) as (engine, batches):
            for _ in range(WARM_UP):
                engine.step([next(batches)], LR)
            begun = now = time.perf_counter()
            while now - begun < 60 * minutes:
                steps, waited = 0, 0.0
                with gpu_conditions(ranks.device) as of_gpu:
                    before = now = time.perf_counter()
                    while now - before < INTERVAL:
                        done = one_round(engine, batches, size.steps, ranks.device)
                        steps, waited, now = steps + size.steps, waited + done.waited, time.perf_counter()
                yield {
                    "at_s": now - begun,
                    "expressions_per_s": row.expressions_per_step * steps / (now - before),
                    "waited_share": waited / (now - before),
                    "allocated_bytes": torch.cuda.memory_allocated(ranks.device) if on_gpu else None,
                    "reserved_bytes": torch.cuda.memory_reserved(ranks.device) if on_gpu else None,
                    "resident_bytes": _resident_bytes(),
                    **of_gpu,
                }


@contextmanager
def training(
    row: Technique, size: Size, caches: dict[Source, Path], ranks: Ranks
) -> Iterator[tuple[Engine, Iterator[Batch]]]:
    """The row's engine, and an endless iterator over its batches."""
    torch._dynamo.reset()
    settings = TrainingSettings.model_validate(
        {
            "data": {"cache": caches.get(row.source, "none"), "buffer_bytes": size.buffer_bytes},
            "run": {"folder": "none"},
            "model": {"channels": size.channels, **row.model},
            "engine": {"compile": False, **row.engine},
        }
    )
    torch.manual_seed(0)
    model = Maris(settings.model, size.visual_channels, size.text_channels)
    engine = Engine(model, settings, ranks)
    try:
        if row.source == "encoders":
            yield engine, _encoded(size, row, ranks.device)
        else:
            bf16 = settings.engine.precision == "bf16" and ranks.device.type == "cuda"
            dtype = torch.bfloat16 if bf16 else torch.float32
            cache = settings.data.cache
            with CacheReader(cache, "train", settings.data, device=ranks.device, dtype=dtype) as reader:
                yield engine, _epochs(reader, row)
    finally:
        del engine, model
        gc.collect()
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()


def _epochs(reader: CacheReader, row: Technique) -> Iterator[Batch]:
    for epoch in count():
        yield from reader.batches(
            seed=0,
            epoch=epoch,
            expressions_per_step=row.expressions_per_step,
            expressions_per_image=row.expressions_per_image,
        )


def _encoded(size: Size, row: Technique, device: torch.device) -> Iterator[Batch]:
    """Batches whose features SAM and CLIP compute on the fly, for each image once per batch."""
    vision = {"arch": size.sam, "weights": RANDOM, "image_size": size.image_size}
    sam = SamEncoder(SamSettings.model_validate(vision), device)
    text = TextEncoder(TextSettings(arch=size.text, weights=RANDOM), device)
    random = np.random.default_rng(0)
    # A square photograph fills the whole grid, including what would be padding.
    pixels = random.integers(0, 256, (sam.image_size, sam.image_size, 3), np.uint8)
    photograph = Image.fromarray(pixels)
    side, expressions = 4 * size.side, row.expressions_per_step
    offsets = torch.arange(0, expressions + 1, row.expressions_per_image, dtype=torch.int32, device=device)
    for _ in count():
        levels = [sam.encode([photograph])[0] for _ in offsets[1:]]
        words = [one.words for one in text.encode([SENTENCE] * expressions)]
        first, second, third = (torch.stack(level) for level in zip(*levels, strict=True))
        yield Batch(
            features=(first, second, third),
            words=torch.stack(words),
            word_mask=torch.ones(expressions, len(words[0]), dtype=torch.bool, device=device),
            expr_offsets=offsets,
            targets=torch.rand(expressions, side, side, device=device) > 0.5,
            weights=torch.ones(expressions, device=device),
            step_expressions=expressions,
            describe=tuple,
        )


def _write_caches(
    folder: Path, size: Size, told: Callable[[str], None], sources: Collection[Source]
) -> dict[Source, Path]:
    caches: dict[Source, Path] = {"bf16, padded": folder / "padded", "int8": folder / "int8"}
    stored: dict[Source, tuple[FeatureDtype, tuple[int, int]]] = {
        "bf16, padded": ("bf16", (size.side, size.side)),
        "int8": ("int8", size.grid),
    }
    for source, (dtype, grid) in stored.items():
        if source not in sources or (caches[source] / MANIFEST).is_file():
            continue
        told(f"writing synthetic features of {size.images} images: {source}")
        write_fake_cache(
            caches[source],
            size.images,
            grids=[grid],
            channels=size.visual_channels,
            text_channels=size.text_channels,
            expressions=size.each,
            feature_dtype=dtype,
        )
    return caches


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
