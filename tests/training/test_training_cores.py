"""Each rank computes with its share of the cores that its launcher gave it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from maris_fast.train.ranks import Ranks, share_cores_of

HERE = socket.gethostname()


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("others", "threads"),
    [
        ([(HERE, set(range(16)))], 8),
        ([(HERE, set(range(16, 32)))], 16),
        ([("another machine", set(range(16)))], 16),
        ([(HERE, set(range(16)))] * 3 + [("another machine", set(range(16)))] * 4, 4),
    ],
    ids=["unbound", "bound to cores of its own", "on another machine", "four a machine"],
)
def test_ranks_share_the_cores_that_they_have_in_common(
    others: list[Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "gather", lambda _, own: [own, *others])
    share_cores_of(Ranks(torch.device("cpu")))
    assert torch.get_num_threads() == threads
