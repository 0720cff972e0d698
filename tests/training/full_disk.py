"""Toy runs on a small disk that is filled to the last byte while they run.

::

    python tests/training/full_disk.py DISK OUT     what each run left, as JSON by scenario
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from maris_fast.data_shards.stream import Batch
from maris_fast.errors import MarisError
from maris_fast.train.checkpoints import Best
from maris_fast.train.loop import Trainer
from maris_fast.train.ranks import Ranks, join, leave
from maris_fast.train.run_folder import owned_by_rank_zero
from tests.faults import Disk
from tests.training.board_files import curve, pictured
from tests.training.processes import records
from tests.training.toy_run import ToyReader, replaced, toy_settings, toy_trainer

NEVER = 1000
SMALL = 16 * 1024
"""Bytes: enough for toy weights, too few for a sheet of pictures."""


class HookedReader(ToyReader):
    """Calls the functions in ``before`` ahead of their steps, counted from 1 over all epochs."""

    def __init__(self, before: Mapping[int, Callable[[], None]]) -> None:
        super().__init__()
        self._before = before

    def batches(self, *, epoch: int, first_step: int, **more: Any) -> Iterator[Batch]:
        batches = super().batches(epoch=epoch, first_step=first_step, **more)
        for step, batch in enumerate(batches, start=3 * epoch + first_step + 1):
            self._before.get(step, lambda: None)()
            yield batch


class Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def trained(trainer: Trainer, before: Mapping[int, Callable[[], None]]) -> dict[str, Any]:
    """Run the trainer; return how the run ended and what it left."""
    told = Told()
    logging.getLogger().addHandler(told)
    trainer.training = HookedReader(before)  # type: ignore[assignment]
    folder = trainer.settings.run.folder
    try:
        end = trainer.run().finished
    except MarisError as error:
        end = str(error)
    finally:
        logging.getLogger().removeHandler(told)
    return {
        "end": end,
        "told": told.lines,
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        "steps": [one["step"] for one in records(folder, "train")],
        "curve": curve(folder / "tensorboard", "train/loss"),
        "pictured": pictured(folder / "tensorboard"),
    }


def full_for_records(ranks: Ranks, disk: Disk, folder: Path) -> Any:
    """The disk is full from before step 2 until before step 18, with only records to write.

    Some of them still fit in the first page of ``metrics.jsonl``.
    """
    seldom = {"run.evaluate_every": None, "run.checkpoint_every": NEVER}
    settings = toy_settings(folder, **seldom, **{"schedule.epochs": 6})
    return trained(toy_trainer(settings, ranks), {2: disk.fill, 18: disk.free})


def full_for_pictures(ranks: Ranks, disk: Disk, folder: Path) -> Any:
    """Room for weights only at the evaluation after step 3."""
    settings = toy_settings(folder, **{"run.pictures": 8, "run.checkpoint_every": NEVER})
    return trained(toy_trainer(settings, ranks), {3: lambda: disk.fill(but_for=SMALL), 4: disk.free})


def full_for_a_checkpoint(ranks: Ranks, disk: Disk, folder: Path) -> Any:
    """Full from before step 5, with a checkpoint due after step 6; then freed, and the run resumes."""
    settings = toy_settings(folder, **{"run.evaluate_every": None, "run.checkpoint_every": 3})
    first = trained(toy_trainer(settings, ranks), {5: disk.fill})
    disk.free()
    return [first, trained(toy_trainer(replaced(settings, resume="auto"), ranks), {})]


def full_for_the_best(ranks: Ranks, disk: Disk, folder: Path) -> Any:
    """Full from before step 5; the evaluation after step 6 is forced to be the best."""
    trainer = toy_trainer(toy_settings(folder, **{"run.checkpoint_every": NEVER}), ranks)
    best = folder / "best.safetensors"
    before = []

    def fill() -> None:
        before.append(best.read_bytes())
        trainer.best = Best(step=3, score=-1.0)
        disk.fill()

    left = trained(trainer, {5: fill})
    disk.free()
    return {**left, "kept": best.read_bytes() == before[0]}


def full_from_the_start(ranks: Ranks, disk: Disk, folder: Path) -> list[str]:
    """The errors without room for the lock, and with room for the lock only."""
    said = []
    for room in (0, 4096):
        settings = toy_settings(folder / str(room), **{"run.checkpoint_every": NEVER})
        disk.fill(but_for=room)
        try:
            with owned_by_rank_zero(settings.run.folder, ranks):
                toy_trainer(settings, ranks).run()
        except MarisError as error:
            said.append(str(error))
        disk.free()
    return said


SCENARIOS = (
    full_from_the_start,
    full_for_records,
    full_for_pictures,
    full_for_a_checkpoint,
    full_for_the_best,
)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("disk", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    ranks = join(toy_settings(options.disk).engine)
    disk = Disk(options.disk)
    found = {one.__name__: one(ranks, disk, options.disk / one.__name__) for one in SCENARIOS}
    options.out.write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _main()
