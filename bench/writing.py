"""A waterfall of writing a cache, from plain segment-anything to whole shards; and the shard writer alone.

    python -m maris_fast.bench.writing

Synthetic pictures on disk go through the image encoder, one technique per row, each added to the previous
row; the last row is everything that ``maris-fast cache`` does. Each round runs every way once on all
pictures, and ratios are medians over rounds. The encoder is ViT-H at 1024 pixels on a GPU, a smaller one on a
CPU.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from maris_fast.bench.conditions import gpu_conditions
from maris_fast.bench.fake_cache import fake_shard
from maris_fast.bench.measuring import in_turn, paired, seconds_of
from maris_fast.bench.results import BENCH, Row, Suite
from maris_fast.config import CacheSettings, FeatureDtype
from maris_fast.data_shards.cache.photographs import Photographs
from maris_fast.data_shards.cache.shard_writer import write_shard
from maris_fast.data_shards.cache.write import CacheJob, encode_groups
from maris_fast.data_shards.records import (
    HEAD,
    DatasetInfo,
    Expression,
    ImageRecord,
    ImportedDataset,
    Target,
    count,
)
from maris_fast.data_shards.scaling import PLAN_RATES
from maris_fast.encoders import SamEncoder, TextEncoder
from maris_fast.images import load_image
from maris_fast.rle import Rle
from maris_fast.system.devices import place
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

AS_IT_IS = "segment-anything as it is: one picture at a time, fp32"
RAW = "raw write"
Way = Callable[[], float]
"""Runs once; returns the seconds that count."""
HEIGHT, WIDTH = 480, 640
EXPRESSIONS = 7


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="vit_h" if on_gpu else "vit_b")
    parser.add_argument("--image-size", type=int, default=1024 if on_gpu else 512)
    parser.add_argument("--images", type=int, default=64 if on_gpu else 8)
    parser.add_argument("--batch-size", type=int, default=8 if on_gpu else 4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=BENCH / "results")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="maris-writing-", dir=options.scratch))
    sam = {"arch": options.arch, "weights": "random", "image_size": options.image_size}
    settings = CacheSettings.model_validate(
        {
            "encoders": {"sam": sam, "text": {"arch": "tiny", "weights": "random"}},
            "batch_size": options.batch_size,
        }
    )
    try:
        rows = [
            *encoding(folder / "encoding", settings, options.images, options.rounds),
            *shards(folder / "shards", options.rounds),
        ]
    finally:
        shutil.rmtree(folder)
    print(Suite.now("writing", environment(Ranks(place("auto", "auto")[0])), rows).save(options.out))
    for row in rows:
        print(row)


def encoding(folder: Path, settings: CacheSettings, images: int, rounds: int) -> list[Row]:
    """Images per second of each way from pictures on disk."""
    dataset = write_pictures(folder / "dataset", images)
    ways = _ways(folder, dataset, settings)
    with gpu_conditions(place("auto", "auto")[0]) as of_gpu:
        seconds, load = in_turn(ways, rounds)
    first = seconds[AS_IT_IS]
    before = first
    rows: list[Row] = []
    for name, times in seconds.items():
        rows.append(
            {
                "way": name,
                "arch": settings.encoders.sam.arch,
                "image_size": settings.encoders.sam.image_size,
                "batch_size": settings.batch_size,
                "images": images,
                "rounds": rounds,
                "load_average": load,
                **of_gpu,
                "images_per_s": images / statistics.median(times),
                "to_first": paired(first, times),
                "to_before": paired(before, times),
                "seconds": times,
            }
        )
        before = times
    sam = settings.encoders.sam
    if (sam.arch, sam.image_size) == ("vit_h", 1024):  # what `maris-fast plan` estimates
        shape = f"maris-fast cache, {sam.arch} at {sam.image_size} px"
        rows[-1] |= {"shape": shape, PLAN_RATES: {"sam_images_per_s": rows[-1]["images_per_s"]}}
    return rows


def shards(folder: Path, rounds: int, images: int = 12) -> list[Row]:
    """GB/s of the shard writer for each stored type, and of a plain write of as many bytes as in int8."""
    folder.mkdir(parents=True)
    ways: dict[str, Way] = {}
    sizes: dict[str, int] = {}
    stored: tuple[FeatureDtype, ...] = ("int8", "bf16")
    for dtype in stored:
        plan, groups, head = fake_shard(images, feature_dtype=dtype)
        name = f"a shard of {dtype}: {'quantised, ' if dtype == 'int8' else ''}checksums, index"
        ways[name] = partial(seconds_of, partial(write_shard, folder, plan, groups, head, ahead=4))
        sizes[name] = plan.bytes
    sizes[RAW] = next(iter(sizes.values()))
    content = np.random.default_rng(0).bytes(sizes[RAW])
    ways[RAW] = partial(seconds_of, partial(_raw, folder / "raw", content))
    seconds, load = in_turn(ways, rounds)
    raw = [sizes[RAW] / each for each in seconds[RAW]]
    return [
        {
            "way": name,
            "images": images,
            "rounds": rounds,
            "load_average": load,
            "gb_per_s": sizes[name] / statistics.median(times) / 1e9,
            "to_raw": statistics.median(sizes[name] / t / r for t, r in zip(times, raw, strict=True)),
            "seconds": times,
        }
        for name, times in seconds.items()
    ]


def write_pictures(folder: Path, images: int) -> Path:
    """An imported data set of JPEG files with the split ``train``."""
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    random = np.random.default_rng(0)
    records = []
    for number in range(images):
        coarse = random.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8)
        # Enlarged noise decodes about as fast as a photograph; noise of every pixel would be slower.
        Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(
            pictures / f"{number}.jpg", quality=90
        )
        records.append(_record(number))
    info = DatasetInfo(
        name="synthetic",
        split_by="none",
        image_root=str(pictures),
        source="none",
        synthetic=True,
        splits={"train": count(records)},
    )
    (folder / HEAD).write_text(info.model_dump_json())
    (folder / "train.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in records))
    return folder


def _record(number: int) -> ImageRecord:
    pixels = np.zeros((HEIGHT, WIDTH), np.bool_)
    pixels[100:300, 200:400] = True
    mask = Rle.encode(pixels)
    target = Target(ref_id=number, ann_ids=(number,), category="thing", mask=mask, area=mask.area)
    return ImageRecord(
        image_id=number,
        image=f"{number}.jpg",
        height=HEIGHT,
        width=WIDTH,
        targets=(target,),
        expressions=tuple(
            Expression(sent_id=100 * number + e, target=0, text="the thing over there")
            for e in range(EXPRESSIONS)
        ),
    )


def _ways(folder: Path, dataset: Path, settings: CacheSettings) -> dict[str, Way]:
    source = ImportedDataset(dataset)
    root = Path(source.info.image_root)
    device, precision = place(settings.device, settings.precision)
    matrix = settings.encoders.sam.model_copy(update={"attention": "reference"})
    plain, batched = SamEncoder(matrix, device), SamEncoder(matrix, device, precision)
    ours = SamEncoder(settings.encoders.sam, device, precision)
    text = TextEncoder(settings.encoders.text, device)
    paths = [root / record.image for record in source.records("train")]
    numbers = itertools.count()

    def ahead() -> None:
        for group in encode_groups(
            source.records("train"), Photographs(str(root)), ours, text, settings.batch_size
        ):
            group.levels[0].sum().item()  # waits for the device

    def cache() -> float:
        job = CacheJob(dataset, folder / f"cache{next(numbers)}", settings, progress=False)
        return seconds_of(job.write)  # without loading encoders: once per run for any number of pictures

    size = settings.batch_size
    reduced = "" if precision == torch.float32 else ", bf16"
    return {
        AS_IT_IS: partial(seconds_of, partial(_as_it_is, paths, plain)),
        f"batches of {size}{reduced}": partial(seconds_of, partial(_in_batches, paths, batched, size)),
        "attention without its matrix": partial(seconds_of, partial(_in_batches, paths, ours, size)),
        "decoded ahead; words and masks too": partial(seconds_of, ahead),
        "quantised and written: maris-fast cache": cache,
    }


def _as_it_is(paths: Sequence[Path], encoder: SamEncoder) -> None:
    """Encode as SamPredictor.set_image does, up to and including the image encoder."""
    transform = ResizeLongestSide(encoder.image_size)
    sam = Sam(encoder.vit, torch.nn.Module(), torch.nn.Module()).to(encoder.device)
    with torch.no_grad():
        for path in paths:
            resized = transform.apply_image(np.asarray(load_image(path)))
            pixels = torch.as_tensor(resized, device=encoder.device).permute(2, 0, 1).contiguous()
            sam.image_encoder(sam.preprocess(pixels[None].float())).sum().item()


def _in_batches(paths: Sequence[Path], encoder: SamEncoder, size: int) -> None:
    for first in range(0, len(paths), size):
        for levels in encoder.encode([load_image(path) for path in paths[first : first + size]]):
            levels[0].sum().item()


def _raw(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
