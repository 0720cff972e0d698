"""The same numbers from the reader, from stock webdataset, and from the encoders themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from torch import Tensor

from maris_fast.config import FeatureDtype
from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.cache.features import as_tensor, from_stored, to_stored
from maris_fast.data_shards.cache.photographs import Photographs
from maris_fast.data_shards.cache.write import encode_groups
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.data_shards.stream import Batch, CacheReader
from maris_fast.encoders import SamEncoder, TextEncoder
from maris_fast.rle import Rle
from maris_fast.system.devices import place
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset

ON_GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


@dataclass
class Known:
    """What a batch must hold for one expression."""

    image_id: int
    levels: list[Tensor]
    words: Tensor
    target: np.ndarray
    text: str
    rle: Rle


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": default_records()})


def by_stock_webdataset(cache: Path, feature_dtype: FeatureDtype) -> Iterator[tuple[int, Known]]:
    """Expected contents by sentence id, read by stock webdataset alone."""
    urls = [str(path) for path in sorted(cache.glob("*.tar"))]
    for stored in webdataset.WebDataset(urls, shardshuffle=False).decode():
        levels = []
        for level in range(3):
            values = as_tensor(stored[f"level{level + 1}.npy"], feature_dtype).float()
            if feature_dtype != "bf16":
                values *= torch.from_numpy(stored["scales.npy"][level])
            levels.append(values)
        record, ends = stored["json"]["record"], stored["json"]["word_offsets"]
        width = 4 * levels[0].shape[1]
        for row, expression in enumerate(record["expressions"]):
            target = record["targets"][expression["target"]]
            yield (
                expression["sent_id"],
                Known(
                    record["image_id"],
                    levels,
                    torch.from_numpy(stored["words.npy"][ends[row] : ends[row + 1]]).float(),
                    np.unpackbits(stored["masks.npy"][expression["target"]], axis=-1, count=width),
                    expression["text"],
                    Rle(**target["mask"]),
                ),
            )


def by_computation(dataset: Path, feature_dtype: FeatureDtype) -> Iterator[tuple[int, Known]]:
    """Expected contents by sentence id, from the encoders and the quantisation, without any shard."""
    source, settings = ImportedDataset(dataset), tiny_settings()
    device, precision = place(settings.device, settings.precision)
    sam = SamEncoder(settings.encoders.sam, device, precision)
    text = TextEncoder(settings.encoders.text, device)
    photographs = Photographs(source.info.image_root)
    for group in encode_groups(source.records("train"), photographs, sam, text, settings.batch_size):
        levels = []
        for level in group.levels:
            q, scale = to_stored(level, feature_dtype)
            values = as_tensor(q, feature_dtype).float()
            levels.append(values if scale is None else values * torch.from_numpy(scale))
        for expression, features in zip(group.record.expressions, group.expressions, strict=True):
            yield (
                expression.sent_id,
                Known(
                    group.record.image_id,
                    levels,
                    features.words.half().float(),
                    group.targets[expression.target],
                    expression.text,
                    group.record.targets[expression.target].mask,
                ),
            )


def on_cpu(batch: Batch) -> Batch:
    first, second, third = (level.cpu() for level in batch.features)
    names = ("words", "word_mask", "expr_offsets", "targets", "weights")
    return replace(
        batch, features=(first, second, third), **{name: getattr(batch, name).cpu() for name in names}
    )


def assert_holds(batch: Batch, known: dict[int, Known], dtype: torch.dtype) -> int:
    offsets = batch.expr_offsets.tolist()
    assert len(offsets) == batch.images + 1
    image_of = np.repeat(np.arange(batch.images), np.diff(offsets))
    assert batch.words.shape[1] == int(batch.word_mask.sum(1).max())
    for row, sample in enumerate(batch.samples):
        expected = known[sample.sent_id]
        assert (sample.image_id, sample.text, sample.target) == (
            expected.image_id,
            expected.text,
            expected.rle,
        )
        for level in range(3):
            assert torch.equal(batch.features[level][image_of[row]], expected.levels[level].to(dtype))
        length = len(expected.words)
        assert len(sample.tokens) == length
        assert batch.word_mask[row].tolist() == [at < length for at in range(batch.words.shape[1])]
        assert torch.equal(batch.words[row, :length], expected.words.to(dtype))
        assert not batch.words[row, length:].any()
        assert batch.targets.dtype == torch.bool
        assert np.array_equal(batch.targets[row].numpy(), expected.target.astype(bool))
        assert batch.weights[row] == 1
    return len(batch.samples)


@pytest.mark.parametrize("device", ["cpu", ON_GPU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("feature_dtype", ["int8", "fp8", "bf16"])
def test_batches_hold_what_stock_webdataset_reads_and_what_the_encoders_give(
    dataset: Path, tmp_path: Path, feature_dtype: FeatureDtype, dtype: torch.dtype, device: str
) -> None:
    cache = tmp_path / "cache"
    write_cache(
        dataset, cache, tiny_settings(feature_dtype=feature_dtype, shard_bytes=100_000), progress=False
    )
    ways = (dict(by_stock_webdataset(cache, feature_dtype)), dict(by_computation(dataset, feature_dtype)))
    with CacheReader(cache, "train", device=device, dtype=dtype) as reader:
        orders = (
            reader.batches(seed=0, epoch=0, expressions_per_step=4, expressions_per_image=3),
            reader.evaluation_batches(max_expressions=8),
        )
        for order in orders:
            batches = list(map(on_cpu, order))
            for known in ways:
                assert sum(assert_holds(batch, known, dtype) for batch in batches) == reader.expressions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_pass_over_int8_gives_the_bits_of_two(dtype: torch.dtype) -> None:
    """A GPU multiplies in one pass, a CPU converts and then scales (``from_stored``)."""
    random = torch.Generator().manual_seed(0)
    q = torch.randint(-127, 128, (3, 4, 5, 64), dtype=torch.int8, generator=random)
    scale = torch.rand(3, 1, 1, 64, generator=random)
    one, two = torch.empty(q.shape, dtype=dtype), torch.empty(q.shape, dtype=dtype)
    torch.mul(q, scale, out=one)
    from_stored(q, scale, two)
    assert torch.equal(one, two)
    assert torch.equal(one, (q.float() * scale).to(dtype))
