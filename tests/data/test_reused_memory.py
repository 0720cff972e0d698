"""Features on a CPU are created in reused memory, but never in memory that is still referenced."""

from __future__ import annotations

import gc
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maris_fast.bench.fake_cache import write_fake_cache
from maris_fast.data_shards.stream import CacheReader
from maris_fast.data_shards.stream.reused_memory import ReusedMemory

PLAN = {"seed": 0, "expressions_per_step": 14, "expressions_per_image": 7}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reused") / "cache"
    write_fake_cache(folder, 12, grids=[(8, 8), (6, 8)], channels=64)
    return folder


def places(reader: CacheReader, epoch: int) -> list[int]:
    """Addresses of the features of an epoch's batches; each batch is freed before the next one is taken."""
    found = []
    for batch in reader.batches(**PLAN, epoch=epoch):
        found += [level.data_ptr() for level in batch.features]
        del batch
    return found


def test_memory_of_released_batches_is_reused(cache: Path) -> None:
    with CacheReader(cache, "train") as reader:
        made = [place for epoch in range(6) for place in places(reader, epoch)]
    assert len(made) == 108
    assert len({*made}) <= 24  # 15 on an idle machine; how many batches wait at once depends on thread timing


HOLDS: dict[str, Callable[[Tensor], object]] = {
    "itself": lambda level: level,
    "a row": lambda level: level[0, 1, 2:],
    "an array": lambda level: level[0].numpy(),
    "a graph": lambda level: (level * torch.ones(1, requires_grad=True)).sum(),
    "its storage": lambda level: level.untyped_storage(),
    "another type": lambda level: level.detach().view(torch.int32),
    "in a list of a list": lambda level: [[level.transpose(0, 1)]],
}


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS.keys())
def test_a_batch_that_is_held_is_not_overwritten(cache: Path, hold: Callable[[Tensor], object]) -> None:
    with CacheReader(cache, "train") as reader:
        held, seen = [], set()
        for batch in reader.batches(**PLAN, epoch=0):
            for level in batch.features:
                assert level.data_ptr() not in seen
                seen.add(level.data_ptr())
                held.append(hold(level))
            del batch, level
        for epoch in (1, 2):
            assert not seen & {*places(reader, epoch)}
        del held
        gc.collect()


def test_a_gradient_is_that_of_the_batch_it_was_computed_from(cache: Path) -> None:
    weight = torch.ones(64, requires_grad=True)
    with CacheReader(cache, "train") as reader:
        wanted, losses = [], []
        for batch in reader.batches(**PLAN, epoch=0):
            wanted.append(batch.features[1].sum((0, 1, 2)))
            losses.append((batch.features[1] * weight).sum())
        places(reader, 1)
        for loss, gradient in zip(losses, wanted, strict=True):
            (found,) = torch.autograd.grad(loss, weight)
            torch.testing.assert_close(found, gradient)


def test_numbers_are_those_of_fresh_memory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def features() -> list[Tensor]:
        with CacheReader(cache, "train") as reader:
            return [
                level.clone()
                for epoch in range(3)
                for batch in reader.batches(**PLAN, epoch=epoch)
                for level in batch.features
            ]

    reused = features()
    monkeypatch.setattr(ReusedMemory, "empty", lambda _, shape, dtype: torch.empty(shape, dtype=dtype))
    assert all(map(torch.equal, reused, features()))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=40))
def test_tensors_keep_their_numbers_while_others_come_and_go(events: list[tuple[int, int]]) -> None:
    memory, live = ReusedMemory(4), []
    for number, (pages, drop) in enumerate(events):
        tensor = memory.empty((pages, 1024), torch.float32).fill_(number)
        live.append((number, tensor))
        del live[:drop], tensor
        assert all(bool((one == known).all()) for known, one in live)


def test_no_more_buffers_wait_than_are_meant_to() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    memory, size = ReusedMemory(2), 1 << 24
    before = resident()
    tensors = [memory.empty((size,), torch.uint8).fill_(1) for _ in range(8)]
    assert resident() - before > 7 * size
    thread = threading.Thread(target=tensors.clear)  # as autograd's threads do
    thread.start()
    thread.join()
    assert resident() - before < 3 * size
