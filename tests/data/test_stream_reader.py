"""Batches hold what was cached, each expression once, at any world size; a bad cache is named."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.stream import Batch, CacheReader, device
from maris_fast.data_shards.stream.device import DeviceStage
from maris_fast.data_shards.stream.prefetch import prefetch
from maris_fast.errors import InputError
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": default_records()})


@pytest.fixture(scope="module")
def cache(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cache") / "int8"
    write_cache(dataset, out, tiny_settings(shard_bytes=100_000), progress=False)
    return out


@pytest.fixture
def reader(cache: Path) -> Iterator[CacheReader]:
    with CacheReader(cache, "train") as reader:
        yield reader


def epoch(reader: CacheReader, **changes: int) -> list[Batch]:
    plan = {"seed": 0, "epoch": 0, "expressions_per_step": 4, "expressions_per_image": 3, **changes}
    return list(reader.batches(**plan))


def same(one: Batch, other: Batch) -> bool:
    names = ("words", "word_mask", "expr_offsets", "targets", "weights")
    return (
        one.samples == other.samples
        and all(map(torch.equal, one.features, other.features))
        and all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)
    )


def real(batches: list[Batch]) -> Counter[int]:
    """Counts of the sentence ids with non-zero weight."""
    return Counter(
        sample.sent_id
        for batch in batches
        for sample, weight in zip(batch.samples, batch.weights, strict=True)
        if weight
    )


def test_an_epoch_has_every_expression_once_in_a_new_order(reader: CacheReader) -> None:
    first, second = epoch(reader), epoch(reader, epoch=1)
    assert len(first) == len(second) == reader.steps_per_epoch(4)
    for batches in (first, second):
        counts = real(batches)
        assert len(counts) == reader.expressions == 15
        assert set(counts.values()) == {1}
    order = [[sample.sent_id for batch in batches for sample in batch.samples] for batches in (first, second)]
    assert order[0] != order[1]


@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (3, 1), (1, 2), (2, 2), (7, 1)])
def test_ranks_together_see_what_one_sees_in_the_same_steps(
    reader: CacheReader, world: int, accumulation: int
) -> None:
    alone = epoch(reader)
    ranks = [epoch(reader, rank=rank, world=world, accumulation=accumulation) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(alone) * accumulation}
    for step, batch in enumerate(alone):
        parts = [part for rank in ranks for part in rank[step * accumulation : (step + 1) * accumulation]]
        assert real(parts) == real([batch])
        assert {part.step_expressions for part in parts} == {batch.expressions}
        assert sum(part.weights.sum() for part in parts) == batch.step_expressions


def test_an_epoch_resumes_at_any_step(reader: CacheReader) -> None:
    whole = epoch(reader)
    rest = epoch(reader, first_step=2)
    assert len(rest) == len(whole) - 2
    assert all(map(same, rest, whole[2:]))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_has_every_expression_once_and_as_many_batches_a_rank(
    reader: CacheReader, world: int
) -> None:
    ranks = [
        list(reader.evaluation_batches(rank=rank, world=world, max_expressions=6)) for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    counts = real([batch for batches in ranks for batch in batches])
    assert len(counts) == reader.expressions
    assert set(counts.values()) == {1}


def test_swapped_evaluation_reads_another_objects_sentence_against_the_same_target(
    reader: CacheReader,
) -> None:
    def rows(swapped: bool) -> dict[int, tuple[Batch, int]]:
        return {
            sample.sent_id: (batch, row)
            for batch in reader.evaluation_batches(swapped=swapped)
            for row, sample in enumerate(batch.samples)
        }

    plain, swapped = rows(False), rows(True)
    kept, left_out = reader.swappable()
    assert (len(swapped), kept + left_out) == (kept, 15)
    assert left_out == sum(
        len(one.expressions)
        for one in default_records()
        if len({expression.target for expression in one.expressions}) == 1
    )
    for sent_id, (batch, row) in swapped.items():
        own_batch, own_row = plain[sent_id]
        own, sample = own_batch.samples[own_row], batch.samples[row]
        assert torch.equal(batch.targets[row], own_batch.targets[own_row])
        assert (sample.ann_ids, sample.target) == (own.ann_ids, own.target)
        donors = [
            (donor_batch, place)
            for donor_batch, place in plain.values()
            if donor_batch.samples[place].image_id == own.image_id
            and donor_batch.samples[place].ann_ids != own.ann_ids
            and donor_batch.samples[place].text == sample.text
        ]
        length = int(batch.word_mask[row].sum())
        assert any(
            torch.equal(batch.words[row, :length], donor_batch.words[place][donor_batch.word_mask[place]])
            for donor_batch, place in donors
        )


def test_swapped_evaluation_of_images_with_one_object_each_is_empty(tmp_path: Path) -> None:
    records = [one for one in default_records() if len(one.targets) == 1]
    dataset = write_dataset(tmp_path / "dataset", {"train": records})
    write_cache(dataset, tmp_path / "cache", tiny_settings(), progress=False)
    with CacheReader(tmp_path / "cache", "train") as reader:
        assert reader.swappable() == (0, sum(len(one.expressions) for one in records))
        assert list(reader.evaluation_batches(swapped=True)) == []
        assert list(reader.evaluation_batches(swapped=True, rank=1, world=2)) == []


def test_an_unknown_split_lists_those_there_are(cache: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'val'.*train"):
        CacheReader(cache, "val")
    with pytest.raises(InputError, match="no feature cache"):
        CacheReader(cache / "nowhere", "val")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("no shard", r"train-000001\.tar is missing"),
        ("short shard", r"train-000001\.tar has \d+ bytes, the manifest says"),
        ("no index", r"train-000001\.index\.npz is missing"),
        ("other index", r"train-000001\.index\.npz is not the one"),
        ("flipped", r"train-000001\.tar, image 000000000005: level2\.npy .*checksum"),
    ],
)
def test_a_damaged_cache_is_named(cache: Path, tmp_path: Path, damage: str, match: str) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(cache, folder)
    shard, index = folder / "train-000001.tar", folder / "train-000001.index.npz"
    if damage == "no shard":
        shard.unlink()
    if damage == "short shard":
        shard.write_bytes(shard.read_bytes()[:-512])
    if damage == "no index":
        index.unlink()
    if damage == "other index":
        shutil.copy(folder / "train-000000.index.npz", index)
    if damage == "flipped":
        whole = CacheReader(folder, "train").index
        place = list(whole.image_id).index(5)
        content = bytearray(shard.read_bytes())
        content[int(whole.offset[place, 2]) + 5] ^= 1
        shard.write_bytes(content)
    with pytest.raises(InputError, match=match):
        list(CacheReader(folder, "train").evaluation_batches())


def test_the_next_epochs_first_batch_is_on_the_device_when_an_epoch_ends(
    reader: CacheReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plain = threading.Semaphore(0), DeviceStage.__call__

    def counted(stage: DeviceStage, *slot: Any) -> Any:
        tensors = plain(stage, *slot)
        made.release()
        return tensors

    monkeypatch.setattr(DeviceStage, "__call__", counted)
    plan = {"seed": 0, "expressions_per_step": 4, "expressions_per_image": 3, "last_epoch": 1}
    batches = [*reader.batches(epoch=0, **plan)]
    assert all(made.acquire(timeout=30) for _ in range(len(batches) + 1))  # one more than was requested
    assert len([*reader.batches(epoch=1, **plan)]) == reader.steps_per_epoch(4)
    assert not reader._ahead


def test_the_thread_that_copies_first_makes_the_ranks_gpu_its_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread begins on the first GPU: leaving a stream there would open a context on it."""
    second, done = torch.device("cuda", 1), list[tuple[str, int]]()

    def recorded(what: str) -> None:
        done.append((what, threading.get_ident()))

    @contextmanager
    def entered(stream: object) -> Iterator[None]:
        recorded("stream entered")
        yield
        recorded("stream left")

    stream = SimpleNamespace(device=second, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda of: stream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "set_device", lambda to: recorded(f"on {to}"))
    monkeypatch.setattr(device, "unpack", lambda *_: {})
    stage, memory = DeviceStage(second, torch.float32), SimpleNamespace(to=lambda *_, **__: None)
    assert len(list(prefetch((stage(*slot) for slot in [(memory, None)]), 1))) == 1  # type: ignore[arg-type]
    said, threads = zip(*done, strict=True)
    assert said == ("on cuda:1", "stream entered", "stream left")
    assert len({*threads, threading.get_ident()}) == 2


def test_prefetch_keeps_the_order_and_raises_what_the_source_raised() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise ZeroDivisionError("at five")

    items = prefetch(source(), 2)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError, match="at five"):
        next(items)


def test_leaving_a_prefetch_early_stops_its_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    items = prefetch(endless(), 2)
    assert next(items) == 1
    items.close()  # type: ignore[attr-defined]
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}
