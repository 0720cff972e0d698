"""A toy run whose last rank fails or hangs in epoch 1; see ``TROUBLE``.

::

    torchrun --nproc-per-node 2 tests/training/trouble.py FOLDER TROUBLE
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maris_fast.data_shards.stream import Batch
from maris_fast.errors import InputError, MarisError
from maris_fast.system.terminal import write_line
from maris_fast.train.heartbeat import Heartbeat
from maris_fast.train.ranks import join, leave
from tests.training.toy_run import ToyReader, toy_settings, toy_trainer


def bug() -> None:
    time.sleep(4)  # twice the heartbeat's limit: the others wait for a rank that is merely slow
    raise ZeroDivisionError("a bug of one rank")


def input_error() -> None:
    raise InputError("shard 3 cannot be read; copy it again")


def stuck() -> None:
    time.sleep(600)


TROUBLE = {one.__name__: one for one in (bug, input_error, stuck)}


class TroubledReader(ToyReader):
    trouble = staticmethod(bug)

    def batches(self, *, epoch: int, rank: int, world: int, **more: Any) -> Iterator[Batch]:
        if epoch == 1 and rank == world - 1:
            self.trouble()
        yield from super().batches(epoch=epoch, rank=rank, world=world, **more)


def _main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank")
    parser.add_argument("folder", type=Path)
    parser.add_argument("trouble", choices=TROUBLE)
    options = parser.parse_args()
    settings = toy_settings(
        options.folder,
        **{"engine.heartbeat_seconds": 2, "engine.stall_seconds": 8, "run.evaluate_every": None},
    )
    ranks = join(settings.engine)
    try:
        with Heartbeat(ranks, settings.engine):
            trainer = toy_trainer(settings, ranks)
            trainer.training = TroubledReader()  # type: ignore[assignment]
            trainer.training.trouble = TROUBLE[options.trouble]  # type: ignore[attr-defined]
            trainer.run()
            leave()
    except MarisError as error:
        write_line(f"own error: {error}", sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
