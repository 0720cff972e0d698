"""A real run that records the contents of each rank's steps, slowly enough to be killed between steps.

::

    deepspeed tests/training/recorded_run.py CACHE RUN RECORDS

Each process appends a line per step to RECORDS/<pid>.jsonl: its number, and the sentences of nonzero weight.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from maris_fast.train import loop
from maris_fast.train.engine import StepResult
from maris_fast.train.ranks import join, leave
from tests.training.toy_run import toy_settings

EXPRESSIONS, EACH, EPOCHS, SEED = 4, 3, 6, 5
PAUSE = 0.15


class RecordingTrainer(loop.Trainer):
    records: Path

    def _step(self, parts: tuple[Any, ...]) -> StepResult:
        pairs = [pair for part in parts for pair in zip(part.samples, part.weights.tolist(), strict=True)]
        line = {"step": self.step, "sent_ids": [sample.sent_id for sample, weight in pairs if weight]}
        with (self.records / f"{os.getpid()}.jsonl").open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        time.sleep(PAUSE)
        return super()._step(parts)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank")
    parser.add_argument("cache", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("records", type=Path)
    options = parser.parse_args()
    RecordingTrainer.records = options.records
    loop.Trainer = RecordingTrainer  # type: ignore[misc]
    settings = toy_settings(
        options.run,
        **{
            "data.cache": str(options.cache),
            "data.expressions_per_step": EXPRESSIONS,
            "data.expressions_per_image": EACH,
            "model.channels": 8,
            "model.heads": 2,
            "schedule.epochs": EPOCHS,
            "run.seed": SEED,
            "run.checkpoint_every": 3,
            "run.evaluate_every": None,
            "run.resume": "auto",
        },
    )
    ranks = join(settings.engine)
    loop.train(settings, ranks)
    leave()


if __name__ == "__main__":
    _main()
