"""The data in the folder of a run, finished or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from maris_fast.config.loading import flat
from maris_fast.config.plain_yaml import read_yaml
from maris_fast.errors import CheckpointError, InputError
from maris_fast.train.run_files import ENVIRONMENT, METRICS, PICTURES, SETTINGS
from maris_fast.weight_files import BEST, LAST
from maris_fast.weights import read_meta

LogRecord = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """``steps``, ``evaluations`` and ``attention`` in the order of steps; each may be empty."""

    name: str
    folder: Path
    settings: dict[str, Any]
    """Flat, ``section.key``."""
    environment: dict[str, Any]
    """Flat, such as ``packages.torch``; empty if the file is missing."""
    steps: list[LogRecord]
    evaluations: list[LogRecord]
    pictures: list[Path]
    """Sheets of samples, the oldest first."""
    attention: list[LogRecord] = field(default_factory=list)
    """Recorded with run.attention_health."""
    caution: str | None = None
    """Warning about the scores, from the metadata of the weights."""

    @classmethod
    def read(cls, folder: Path) -> RunData:
        """Read everything that exists.

        Raises:
            InputError: the folder is not a run's.
        """
        settings = folder / SETTINGS
        if not settings.is_file():
            raise InputError(f"{folder} holds no run (no {SETTINGS}); name a run.folder that training wrote")
        records = list(_records(folder / METRICS))
        return cls(
            name=folder.resolve().name,
            folder=folder,
            settings=flat(read_yaml(settings)),
            environment=flat(_json(folder / ENVIRONMENT)),
            steps=[one for one in records if one["kind"] == "train"],
            evaluations=[one for one in records if one["kind"] == "evaluation"],
            attention=[one for one in records if one["kind"] == "attention"],
            pictures=sorted((folder / PICTURES).glob("step-*.png")),
            caution=_caution(folder),
        )

    @property
    def step(self) -> int:
        """The last recorded step; 0 if there is none."""
        return max((one["step"] for one in (*self.steps[-1:], *self.evaluations[-1:])), default=0)

    @property
    def total_steps(self) -> int | None:
        return self.steps[-1].get("total_steps") if self.steps else None

    @property
    def state(self) -> str:
        if not self.steps:
            return "no step recorded yet"
        if self.total_steps == self.step:
            return f"finished, {self.step:,} steps"
        return f"not finished: step {self.step:,} of {self.total_steps:,}"

    @property
    def best(self) -> LogRecord | None:
        """The evaluation with the highest oIoU, whose weights are best.safetensors."""
        return max(self.evaluations, key=lambda one: one["oIoU"], default=None)

    @property
    def seconds(self) -> float | None:
        """Time of training over all starts of the run, up to the last record of each.

        Evaluations and checkpoints are included; building the model and all before it are not.
        """
        if not self.steps:
            return None
        ends = [before for before, after in pairwise(self.steps) if _restarted(before, after)]
        return float(sum(one["elapsed_s"] for one in (*ends, self.steps[-1])))

    @property
    def attention_warnings(self) -> list[str]:
        """Each warning once, although a restarted run repeats it."""
        return list(dict.fromkeys(text for one in self.attention for text in one.get("warnings", ())))

    def typical(self, name: str) -> float | None:
        """The median of a step record's value, which is robust to warm-up and pauses of the machine."""
        values = [one[name] for one in self.steps if name in one]
        return median(values) if values else None


def _restarted(before: LogRecord, after: LogRecord) -> bool:
    """Whether the run was started again between two records.

    ``resumed_from`` then differs: steps after it are recorded again. Logs of older versions lack it.
    """
    known = before.get("resumed_from") != after.get("resumed_from")
    return known or bool(after["elapsed_s"] < before["elapsed_s"])


def read_runs(folders: Sequence[Path]) -> list[RunData]:
    """Read all runs, with distinct names.

    Raises:
        InputError: a folder is not a run's.
    """
    runs = [RunData.read(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        runs = [RunData(**{**vars(run), "name": str(run.folder)}) for run in runs]
    return runs


def _caution(folder: Path) -> str | None:
    for name in (BEST, LAST):
        with suppress(CheckpointError):
            return read_meta(folder / name).encoders.caution
    return None


def _records(path: Path) -> Iterator[LogRecord]:
    """The records of a log; a line that a crash truncated is skipped."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"kind", "step"} <= record.keys():
            yield record


def _json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values
