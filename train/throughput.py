"""Speed of a run, the share of time that it waits for data, and its share of the device's peak FLOP/s."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch

from maris_fast.config import ModelSettings
from maris_fast.data_shards.stream import Batch
from maris_fast.model.flops import training_flops
from maris_fast.system.devices import peak_memory
from maris_fast.train.cache_info import CacheInfo
from maris_fast.train.ranks import Ranks

T = TypeVar("T")

# Dense bf16 products with fp32 sums, TFLOP/s, from vendors' data sheets (half of the figures with sparsity).
# A longer name comes before the name that it contains.
PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    ("B200", 2250),
    ("GH200", 989),
    ("H200 NVL", 835),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),
    ("A100", 312),
    ("A40", 150),
    ("A30", 165),
    ("A10", 125),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
)


class Totals(NamedTuple):
    """Totals of one rank since the last record; ``peak_memory`` is in bytes, since the process started."""

    images: int
    feature_bytes: int
    flops: int
    waited: float
    peak_memory: int


class Throughput:
    """Counts the work between one record and the next; its clock stops while ``paused``."""

    def __init__(self, model: ModelSettings, cache_info: CacheInfo) -> None:
        self._model, self._cache_info = model, cache_info
        self.restart()

    def restart(self) -> None:
        self._started = time.perf_counter()
        self._away = self._waited = 0.0
        self._expressions = self._images = self._feature_bytes = self._flops = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock for what is not a training step: an evaluation, a checkpoint."""
        before = time.perf_counter()
        yield
        self._away += time.perf_counter() - before

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields ``batches``, and counts the time spent waiting for each."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - before
            yield batch

    def count(self, parts: Sequence[Batch]) -> None:
        """Counts this rank's parts of a finished step; uses only shapes, so nothing waits for the device."""
        self._expressions += parts[0].step_expressions
        for part in parts:
            expressions, words, _ = part.words.shape
            channels = self._cache_info.visual_channels
            per = training_flops(self._model, channels, self._cache_info.text_channels, part.grid, words)
            tokens = part.images * part.grid[0] * part.grid[1]
            self._images += part.images
            self._feature_bytes += 3 * tokens * channels * self._cache_info.feature_itemsize
            self._flops += per.of(part.images, expressions)

    def rates(self, ranks: Ranks, peak: float | None) -> dict[str, Any]:
        """Speeds of all ranks together, and the largest memory; all ranks must call it.

        Args:
            peak: TFLOP/s of one rank's device; None: no MFU is given.
        """
        seconds = time.perf_counter() - self._started - self._away
        mine = Totals(self._images, self._feature_bytes, self._flops, self._waited, peak_memory(ranks.device))
        totals = ranks.gather(mine)
        tflops = sum(one.flops for one in totals) / seconds / 1e12
        rates = {
            "expressions_per_s": self._expressions / seconds,
            "images_per_s": sum(one.images for one in totals) / seconds,
            "data_wait_share": sum(one.waited for one in totals) / (seconds * len(totals)),
            "gb_per_s": sum(one.feature_bytes for one in totals) / seconds / 1e9,
            "tflops_per_s": tflops,
            # In MiB: the key stays, as the logs of earlier runs have it.
            "memory_mb": max(one.peak_memory for one in totals) / 2**20,
        }
        if peak is not None:
            rates |= {"mfu": tflops / (peak * len(totals)), "peak_tflops": peak}
        return rates


def peak_tflops(device: torch.device, override: float | None = None) -> float | None:
    """Peak TFLOP/s of one rank's device: ``override`` (``run.peak_tflops``), else by its name, else None."""
    if override is not None or device.type != "cuda":
        return override
    return peak_by_name(torch.cuda.get_device_name(device))


def peak_by_name(name: str) -> float | None:
    """Peak TFLOP/s by a GPU's name, such as "NVIDIA H100 80GB HBM3"; None if unknown, or a slice (MIG)."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if "mig" in words:
        return None
    return next((peak for known, peak in PEAK_TFLOPS if set(known.lower().split()) <= words), None)
