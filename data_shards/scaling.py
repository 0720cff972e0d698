"""What a cache and a run of a given size need: bytes, disks, network and hours, from rates.

Nothing is measured here; every rate names its source. Reading, network and computing overlap, so the slowest
of them determines an epoch's time. Encoding on the fly shares the GPUs with training, so these two times add.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maris_fast.config import FeatureDtype
from maris_fast.data_shards.cache.features import STORED
from maris_fast.data_shards.cache.shard_plan import TAR_BLOCK, npy_bytes
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.data_shards.stream.step_order import epoch_steps
from maris_fast.geometry import MASK_STRIDE, PATCH

PLAN_RATES = "plan_rates"
"""Key of a benchmark's row whose value holds rates for this module, by their names in ``Rates``."""

SENTENCES_AN_OBJECT = 2.84
"""RefCOCO's 142,210 sentences, by its 50,000 objects."""
SAMPLED_IMAGES = 20_000
"""Images in which the reads of an image are counted if only a mean is known."""
WORDS_AN_EXPRESSION = 6
TARGETS_AN_IMAGE = 3
ANNOTATION_BYTES = 4000
"""Approximate size of an image's JSON: names, geometry and a compressed mask per target."""


@dataclass(frozen=True)
class Rate:
    value: float
    source: str
    """given, measured (and by what), or assumed (and why)."""


@dataclass(frozen=True)
class Rates:
    sam_images_per_s: Rate
    """Rate of the encoders, on one GPU."""
    step_expressions_per_s: Rate
    """Rate of training from the cache, on one GPU that never waits for data."""
    disk_GBps: Rate  # noqa: N815 - the unit's own spelling
    """Reading or writing one disk."""
    network_GBps: Rate  # noqa: N815
    """Into one machine, from the storage of the cache if that is not its own disks."""


ASSUMED = {
    "sam_images_per_s": Rate(24.0, "assumed: SAM ViT-H on an A100, segment-anything-fast, 2023"),
    "step_expressions_per_s": Rate(2000.0, "assumed: the project's aim on an H100, not a measurement"),
    "disk_GBps": Rate(3.0, "assumed: an ordinary NVMe disk"),
    "network_GBps": Rate(3.0, "assumed: 25 Gbit/s"),
}


@dataclass(frozen=True)
class Workload:
    """The training data, and the number of GPUs."""

    images: int
    gpus: int
    reads_per_image: Rate
    """How often an epoch reads each image, on average, over all GPUs."""
    gpus_a_machine: int = 8
    expressions_per_image: float = 7.0
    grid: tuple[int, int] = (64, 48)
    channels: int = 1280
    text_channels: int = 768
    feature_dtype: FeatureDtype = "int8"
    shard_bytes: int = 2 << 30
    epochs: int = 50

    @property
    def machines(self) -> int:
        return -(-self.gpus // self.gpus_a_machine)


@dataclass(frozen=True)
class Scaling:
    """Bytes, seconds and counts; GB are 10^9 bytes."""

    image_bytes: int
    cache_bytes: int
    shards: int
    caching_s: float
    caching_write_GBps: float  # noqa: N815
    """Total over all GPUs."""
    epoch_read_bytes: int
    epoch_compute_s: float
    epoch_disk_s: float
    """With one disk per machine."""
    epoch_network_s: float
    needed_GBps: float  # noqa: N815
    """Rate into each machine at which its GPUs never wait."""
    disks_a_machine: int
    """Disks that together read at ``needed_GBps``."""
    """Part of the cache on each machine, if they split it among their own disks."""
    on_the_fly_epoch_s: float
    epochs: int

    def epoch_s(self, where: str) -> float:
        """An epoch's time with the cache on ``"disk"`` (one per machine), on ``"disks"`` (enough of them), or
        over the ``"network"``."""
        waits = {"disk": self.epoch_disk_s, "disks": 0.0, "network": self.epoch_network_s}
        return max(self.epoch_compute_s, waits[where])

    def bottleneck(self, where: str) -> str:
        return "GPU" if self.epoch_s(where) == self.epoch_compute_s else where

    def run_s(self, where: str) -> float:
        """Time for caching once, then all epochs."""
        return self.caching_s + self.epochs * self.epoch_s(where)

    @property
    def on_the_fly_s(self) -> float:
        return self.epochs * self.on_the_fly_epoch_s

    def break_even_epochs(self, where: str) -> float:
        """Number of epochs from which caching takes less time than encoding in every epoch; inf for never."""
        saved = self.on_the_fly_epoch_s - self.epoch_s(where)
        return self.caching_s / saved if saved > 0 else math.inf


def image_bytes(work: Workload) -> int:
    """Size of an image in a shard: its members with their tar headers and padding."""
    stored = STORED[work.feature_dtype]
    h, w = work.grid
    words = round(WORDS_AN_EXPRESSION * work.expressions_per_image)
    scale = PATCH // MASK_STRIDE
    sizes = [npy_bytes(np.dtype(stored.bits), (h, w, work.channels))] * 3 + [
        npy_bytes(np.dtype(np.float16), (words, work.text_channels)),
        npy_bytes(np.dtype(np.uint8), (TARGETS_AN_IMAGE, scale * h, -(-scale * w // 8))),
        ANNOTATION_BYTES,
    ]
    if stored.largest is not None:
        sizes.append(npy_bytes(np.dtype(np.float32), (3, work.channels)))
    return sum(TAR_BLOCK * (1 + -(-size // TAR_BLOCK)) for size in sizes)


def scale(work: Workload, rates: Rates) -> Scaling:
    """Calculate all bytes, seconds and counts."""
    one = image_bytes(work)
    reads = work.reads_per_image.value
    read = round(work.images * reads * one)
    encode_all_s = work.images / (rates.sam_images_per_s.value * work.gpus)
    compute_s = work.images * work.expressions_per_image / (rates.step_expressions_per_s.value * work.gpus)
    write_a_machine = work.images * one / work.machines / 1e9
    caching_s = max(encode_all_s, write_a_machine / rates.disk_GBps.value)
    read_a_machine = read / work.machines / 1e9
    return Scaling(
        image_bytes=one,
        cache_bytes=work.images * one,
        shards=-(-work.images // images_a_shard(work.shard_bytes, one)),
        caching_s=caching_s,
        caching_write_GBps=work.images * one / caching_s / 1e9,
        epoch_read_bytes=read,
        epoch_compute_s=compute_s,
        epoch_disk_s=read_a_machine / rates.disk_GBps.value,
        epoch_network_s=read_a_machine / rates.network_GBps.value,
        needed_GBps=read_a_machine / compute_s,
        disks_a_machine=math.ceil(read_a_machine / compute_s / rates.disk_GBps.value),
        on_the_fly_epoch_s=reads * encode_all_s + compute_s,
        epochs=work.epochs,
    )


def images_a_shard(shard_bytes: int, image: int) -> int:
    """Number of images per shard, which ends with the image that takes it to ``shard_bytes``."""
    return -(-shard_bytes // image)


def reads_per_image(expressions: NDArray[np.integer], *, step: int, K: int, gpus: int = 1) -> float:
    """How often the first epoch reads an image, on average: counted in the order that training reads.

    Images with more than ``K`` expressions are read several times, and so are those whose expressions are
    divided between steps or between GPUs.

    Args:
        expressions: [I], how many expressions each image has; all images are taken to have one grid.
        step: data.expressions_per_step, over all GPUs.
        K: data.expressions_per_image.
        gpus: those that share a step.
    """
    grids = np.ones((len(expressions), 2), np.int64)
    epoch = epoch_steps(
        grids, expressions, seed=0, epoch=0, expressions_per_step=step, expressions_per_image=K
    )
    return epoch.reads(gpus) / len(expressions)


def assumed_expressions(mean: float) -> NDArray[np.int64]:
    """[I], how many expressions each image of a data set has of which only the mean, 1 or more, is known.

    Assumed, because RefCOCO's authors published totals: an image has 1 + Poisson objects, and an object has
    two or three sentences, 2.84 on average (fewer, if the mean of an image is less).
    """
    random = np.random.default_rng(0)
    sentences = min(mean, SENTENCES_AN_OBJECT)
    objects = 1 + random.poisson(mean / sentences - 1, SAMPLED_IMAGES)
    few = math.floor(sentences)
    return few * objects + random.binomial(objects, sentences - few)


def counted_expressions(dataset: Path, split: str) -> NDArray[np.int64]:
    """[I], how many expressions each image of an imported data set has.

    Raises:
        InputError: the folder holds no such split, or a broken record.
    """
    records = ImportedDataset(dataset).records(split)
    return np.array([len(record.expressions) for record in records], np.int64)


def choose_rates(given: Mapping[str, float | None], results: Path | None) -> Rates:
    """Each rate as given, else as measured in ``results``, else assumed.

    Args:
        given: by their names in ``Rates``; None where not given.
        results: folder of a device's benchmark results.
    """
    measured = measured_rates(results) if results else {}
    chosen = {}
    for field in fields(Rates):
        value = given.get(field.name)
        if value is not None:
            chosen[field.name] = Rate(value, "given")
        else:
            chosen[field.name] = measured.get(field.name, ASSUMED[field.name])
    return Rates(**chosen)


def measured_rates(results: Path) -> dict[str, Rate]:
    """Rates that benchmarks stored for this purpose in a folder of their results."""
    rates: dict[str, Rate] = {}
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text())
        rows = content.get("rows") if isinstance(content, dict) else None
        for row in rows if isinstance(rows, list) else []:
            for name, value in row.get(PLAN_RATES, {}).items():
                shared = ", on a busy machine" if row.get("machine_shared") else ""
                where = f"{content['environment']['device']}, {path.name}"
                rates[name] = Rate(float(value), f"measured: {row['shape']}, {where}{shared}")
    return rates
