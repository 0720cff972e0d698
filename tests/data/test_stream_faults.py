"""Faults of shards and indexes give an error that names them, or the same numbers; never a hang."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maris_fast.config import ReadingSettings
from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.stream import Batch, CacheReader
from maris_fast.data_shards.stream import open_shards as shards_module
from maris_fast.errors import InputError
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset

PLAN = {"seed": 0, "epoch": 0, "expressions_per_step": 4, "expressions_per_image": 3}
CORRUPTIONS = 1000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    dataset = write_dataset(folder / "dataset", {"train": default_records()})
    write_cache(dataset, folder / "cache", tiny_settings(shard_bytes=100_000), progress=False)
    return folder / "cache"


@pytest.fixture
def copy(cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def numbers(folder: Path, **settings: Any) -> list[tuple[Any, ...]]:
    """The content of all batches of an epoch and an evaluation."""
    with CacheReader(folder, "train", ReadingSettings(**settings)) as reader:
        batches = [*reader.batches(**PLAN), *reader.evaluation_batches(max_expressions=6)]
        return [_content(batch) for batch in batches]


def outcome(folder: Path) -> list[tuple[Any, ...]] | str:
    """The numbers, or the error message instead."""
    try:
        return numbers(folder)
    except InputError as error:
        return str(error)


def _content(batch: Batch) -> tuple[Any, ...]:
    tensors = (*batch.features, batch.words, batch.word_mask, batch.expr_offsets, batch.targets)
    return (*(tensor.numpy().tobytes() for tensor in tensors), batch.weights.tolist(), batch.samples)


def flip(image: int, member: int, folder: Path) -> tuple[str, str]:
    """Change a byte of an image's member; return the shard's name and the image's key."""
    reader = CacheReader(folder, "train")
    entries = reader.manifest.splits["train"].shards
    shard = int(np.searchsorted(np.cumsum([entry.images for entry in entries]), image, side="right"))
    path = folder / entries[shard].name
    content = bytearray(path.read_bytes())
    content[int(reader.index.offset[image, member])] ^= 64
    path.write_bytes(content)
    return entries[shard].name, f"{reader.index.image_id[image]:012d}"


def _flip_bits(path: Path, chance: random.Random, folder: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 1, 8])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _zero_a_block(path: Path, chance: random.Random, folder: Path) -> None:
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content))
    size = min(chance.choice([16, 512, 4096]), len(content) - start)
    content[start : start + size] = bytes(size)
    path.write_bytes(content)


def _cut(path: Path, chance: random.Random, folder: Path) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _grow(path: Path, chance: random.Random, folder: Path) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.randrange(1, 2000)))


def _remove(path: Path, chance: random.Random, folder: Path) -> None:
    path.unlink()


def _exchange(path: Path, chance: random.Random, folder: Path) -> None:
    other = chance.choice([one for one in folder.iterdir() if one.suffix == path.suffix])
    content = path.read_bytes()
    shutil.copy(other, path) if other != path else path.write_bytes(content[::-1])


def _move_bytes(path: Path, chance: random.Random, folder: Path) -> None:
    content = path.read_bytes()
    a, b = sorted(chance.randrange(len(content)) for _ in range(2))
    path.write_bytes(content[:a] + content[b:] + content[a:b])


DAMAGE = (_flip_bits, _zero_a_block, _cut, _grow, _remove, _exchange, _move_bytes)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_corruptions_are_each_named_or_harmless(cache: Path, copy: Path) -> None:
    whole = numbers(cache)
    chance = random.Random(20)
    names = sorted(path.name for path in copy.iterdir() if path.name != "manifest.json")
    outcomes = {"named": 0, "harmless": 0}
    for number in range(CORRUPTIONS):
        damage, name = chance.choice(DAMAGE), chance.choice(names)
        damage(copy / name, chance, copy)
        what = f"corruption {number}, {damage.__name__} of {name}"
        found = outcome(copy)
        if isinstance(found, str):
            assert name in found, f"{what}: {found}"
            assert "image 0000" in found or "checksum" not in found, f"{what}: {found}"
            outcomes["named"] += 1
        else:
            assert found == whole, f"{what}: wrong numbers"
            outcomes["harmless"] += 1
        shutil.copy(cache / name, copy / name)
    assert outcomes["named"] > 0.5 * CORRUPTIONS
    assert outcomes["harmless"] > 0  # tar headers and padding are not read


@pytest.fixture
def preadv(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int]], None]:
    """Replaces the system call by a function of (the real one, descriptor, buffers, offset)."""
    real = os.preadv

    def replace(function: Callable[..., int]) -> None:
        monkeypatch.setattr(
            shards_module.os, "preadv", lambda file, parts, at: function(real, file, parts, at)
        )

    return replace


def test_a_disk_that_fails_is_named_with_shard_and_key(cache: Path, preadv: Any) -> None:
    def fail(real: Any, file: int, parts: Any, at: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    preadv(fail)
    with pytest.raises(InputError, match=r"train-00000\d\.tar, image 0{11}\d: .*Input/output error.*disk"):
        numbers(cache)


def test_reads_that_give_little_at_a_time_are_put_together(cache: Path, preadv: Any) -> None:
    whole = numbers(cache)

    def little(real: Any, file: int, parts: Any, at: int) -> int:
        return real(file, [next(part for part in parts if len(part))[:1000]], at)

    preadv(little)
    assert numbers(cache) == whole


def test_a_shard_cut_while_it_is_read_is_named(copy: Path) -> None:
    with CacheReader(copy, "train", ReadingSettings(prefetch=1)) as reader:
        for shard in copy.glob("*.tar"):
            os.truncate(shard, 600)
        with pytest.raises(InputError, match=r"train-00000\d\.tar, image 0{11}\d: the shard ends before it"):
            list(reader.batches(**PLAN))


def test_a_shard_that_vanishes_is_named_or_harmless(cache: Path, copy: Path) -> None:
    with CacheReader(copy, "train", ReadingSettings(prefetch=1)) as reader:
        for shard in copy.glob("*.tar"):
            shard.unlink()
        with pytest.raises(InputError, match=r"train-00000\d\.tar, image 0{11}\d: .*No such file"):
            list(reader.batches(**PLAN))
    shutil.copytree(cache, copy, dirs_exist_ok=True)
    with CacheReader(copy, "train") as reader:
        first = [_content(batch) for batch in reader.batches(**PLAN)]
        for shard in copy.glob("*.tar"):
            shard.unlink()
        assert [_content(batch) for batch in reader.batches(**PLAN)] == first  # still open


@pytest.mark.parametrize("configured", [True, False])
def test_a_read_that_hangs_ends_with_shard_and_key(cache: Path, preadv: Any, configured: bool) -> None:
    free = threading.Event()

    def hang(real: Any, file: int, parts: Any, at: int) -> int:
        free.wait(60)
        return real(file, parts, at)

    preadv(hang)
    before = time.monotonic()
    short = ReadingSettings(stall_seconds=0.5)
    with CacheReader(cache, "train", short if configured else None) as reader:
        reader.settings = short
        says = r"train-00000\d\.tar, image 0{11}\d: no answer for \d+ s; check its disk or network"
        longer = r", or raise data\.stall_seconds \(0\.5\)" if configured else ""
        with pytest.raises(InputError, match=f"{says}{longer}$"):
            list(reader.batches(**PLAN))
    assert time.monotonic() - before < 20
    free.set()


SUSPENDED = """
import os, sys, time
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader, open_shards
real = os.preadv
def slow(file, parts, at):
    open_shards.os.preadv = real
    print("reading", flush=True)
    for _ in range(20):  # two seconds, of which none passes while the process is suspended
        time.sleep(0.1)
    return real(file, parts, at)
open_shards.os.preadv = slow
with CacheReader(sys.argv[1], "train", ReadingSettings(stall_seconds=4)) as reader:
    print(sum(1 for _ in reader.evaluation_batches(max_expressions=6)))
"""


@pytest.mark.process
def test_a_process_that_was_suspended_during_a_read_continues(cache: Path) -> None:
    with CacheReader(cache, "train") as reader:
        batches = sum(1 for _ in reader.evaluation_batches(max_expressions=6))
    command = [sys.executable, "-c", SUSPENDED, str(cache)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=60)[0] == f"{batches}\n"
    assert process.returncode == 0


def test_a_slow_disk_is_not_an_error(cache: Path, preadv: Any) -> None:
    whole = numbers(cache)

    def slow(real: Any, file: int, parts: Any, at: int) -> int:
        time.sleep(0.05)
        return real(file, parts, at)

    preadv(slow)
    assert numbers(cache, stall_seconds=20) == whole


def test_a_programming_error_is_raised_as_it_is_also_when_bad_samples_are_skipped(
    cache: Path, preadv: Any
) -> None:
    def wrong(real: Any, file: int, parts: Any, at: int) -> int:
        raise ZeroDivisionError("ours")

    preadv(wrong)
    with pytest.raises(ZeroDivisionError, match="ours"):
        numbers(cache, on_bad_sample="skip")


def test_a_bad_sample_is_left_out_counted_and_reported(cache: Path, copy: Path) -> None:
    shard, key = flip(4, 3, copy)
    with CacheReader(cache, "train") as good:
        whole = {
            sample.sent_id: batch
            for batch in good.evaluation_batches(max_expressions=6)
            for sample in batch.samples
        }
    for ranks in (1, 2):
        seen: list[int] = []
        told: list[str] = []
        for rank in range(ranks):
            with CacheReader(copy, "train", ReadingSettings(on_bad_sample="skip")) as reader:
                batches = list(reader.batches(**PLAN, rank=rank, world=ranks))
                assert len(batches) == reader.steps_per_epoch(4)
                lines = reader.bad_samples.tell()
                assert len(lines) == len(reader.bad_samples) <= 1
                told += lines
                assert not reader.bad_samples.tell()
                for batch in batches:
                    weights = batch.weights.tolist()
                    seen += [
                        sample.sent_id
                        for sample, weight in zip(batch.samples, weights, strict=True)
                        if weight
                    ]
                    _assert_right(batch, whole)
        expected = [sent_id for sent_id in whole if sent_id // 10_000 != int(key)]
        assert sorted(seen) == sorted(expected)
        assert 1 <= len(told) <= ranks
        for line in told:
            assert shard in line
            assert key in line
            assert "checksum" in line


def _assert_right(batch: Batch, whole: dict[int, Batch]) -> None:
    """Assert that a batch holds what another reader gives for the same sentences."""
    images = np.repeat(np.arange(batch.images), np.diff(batch.expr_offsets.numpy()))
    for row, sample in enumerate(batch.samples):
        other = whole[sample.sent_id]
        place = [one.sent_id for one in other.samples].index(sample.sent_id)
        image = np.repeat(np.arange(other.images), np.diff(other.expr_offsets.numpy()))[place]
        for level, known in zip(batch.features, other.features, strict=True):
            assert torch.equal(level[images[row]], known[image])
        assert torch.equal(batch.targets[row], other.targets[place])
        assert torch.equal(batch.words[row][batch.word_mask[row]], other.words[place][other.word_mask[place]])


def test_a_rank_that_lost_its_whole_share_computes_padding(copy: Path) -> None:
    keys = {int(flip(image, 3, copy)[1]) for image in (0, 2)}
    with CacheReader(copy, "train", ReadingSettings(on_bad_sample="skip")) as reader:
        batches = list(reader.batches(**{**PLAN, "expressions_per_step": 1}))
        assert len(batches) == reader.expressions
        lost = [batch for batch in batches if not batch.weights.any()]
        assert len(lost) == sum(len(one.expressions) for one in default_records() if one.image_id in keys)
        for batch in lost:
            assert batch.samples[0].image_id not in keys
            assert batch.step_expressions == 1
        assert len(reader.bad_samples) == 2


def test_a_split_of_which_nothing_can_be_read_says_so(copy: Path) -> None:
    for image in range(5):
        flip(image, 3, copy)
    with (
        CacheReader(copy, "train", ReadingSettings(on_bad_sample="skip")) as reader,
        pytest.raises(InputError, match="no image of the split is left"),
    ):
        list(reader.batches(**PLAN))


def test_more_bad_samples_than_allowed_end_the_run(copy: Path) -> None:
    for image in (0, 1, 3):
        flip(image, 3, copy)
    with pytest.raises(
        InputError, match=r"3 image groups could not be read, data\.max_bad_samples allows 2; the last: shard"
    ):
        numbers(copy, on_bad_sample="skip", max_bad_samples=2)


def test_a_byte_that_changes_between_two_epochs_is_named(copy: Path) -> None:
    """A reader that has read it before, with ``verify: first``, gives the changed numbers."""
    for settings, named in ((ReadingSettings(), True), (ReadingSettings(verify="first"), False)):
        with CacheReader(copy, "train", settings) as reader:
            first = [_content(batch) for batch in reader.batches(**PLAN)]
            shard, key = flip(2, 3, copy)
            said = rf"{shard}, image {key}: \w+\.npy is not what was written"
            if named:
                with pytest.raises(InputError, match=said):
                    list(reader.batches(**PLAN))
            else:
                assert [_content(batch) for batch in reader.batches(**PLAN)] != first
                with CacheReader(copy, "train", settings) as new, pytest.raises(InputError, match=said):
                    list(new.batches(**PLAN))
        flip(2, 3, copy)  # restore it


def test_unverified_damaged_json_is_reported_when_it_is_read(copy: Path) -> None:
    shard, key = flip(2, 0, copy)
    with CacheReader(copy, "train", ReadingSettings(verify="never")) as reader:
        batches = list(reader.batches(**PLAN))  # training reads no JSON
        with pytest.raises(InputError, match=rf"{shard}, image {key}: its JSON"):
            _ = [batch.samples for batch in batches]


def test_leaving_early_ends_all_threads(cache: Path) -> None:
    others = set(threading.enumerate())

    def ours() -> set[str]:
        return {thread.name for thread in set(threading.enumerate()) - others}

    with CacheReader(cache, "train") as reader:
        batches = reader.batches(**PLAN)
        next(batches)
        assert ours() == {"reader 0", "reader 1", "prefetch"}
        batches.close()  # type: ignore[attr-defined]
        assert ours() == set()


def test_closing_ends_the_threads_of_unconsumed_batches(cache: Path) -> None:
    others = set(threading.enumerate())
    with CacheReader(cache, "train") as reader:
        batches = reader.batches(**PLAN, last_epoch=3)
        next(batches)
        list(reader.batches(**{**PLAN, "epoch": 1}, last_epoch=3))
        assert {thread.name for thread in set(threading.enumerate()) - others} >= {"reader 0", "reader 1"}
    assert not [one for one in set(threading.enumerate()) - others if one.name.startswith("reader")]
    batches.close()  # type: ignore[attr-defined]
    assert not set(threading.enumerate()) - others


def test_an_epoch_follows_one_that_was_left_early(cache: Path) -> None:
    whole = numbers(cache)
    with CacheReader(cache, "train", ReadingSettings(prefetch=3)) as reader:
        for _ in range(5):
            next(reader.batches(**PLAN))
        batches = [*reader.batches(**PLAN), *reader.evaluation_batches(max_expressions=6)]
        assert [_content(batch) for batch in batches] == whole
