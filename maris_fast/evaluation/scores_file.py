"""``scores-<data set>-<split by>-<split>.json``: the results of an evaluation, which a report reads.

The file holds ``data`` (name, split_by, split), ``weights``, ``weights_sha256`` and ``random_encoders`` (or
``predictions``) and, by condition, results of ``maris_fast.scoring``; ``left_out``, if any, counts rows that
the import left out. In a run's folder it belongs to that run, whatever the data set: a run may be tested on
another one. Files of older versions have no ``weights_sha256`` and count as scores of the weights they name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maris_fast.data_shards.records import UNKNOWN_SPLIT, DatasetInfo
from maris_fast.errors import InputError
from maris_fast.system.files import replace_text, require_place, sha256_of, writing

AS_WRITTEN = "as written"


@dataclass(frozen=True)
class DataSplit:
    """What a score was measured on: a data set, the author of its splits, and the split."""

    name: str
    split_by: str
    split: str

    def __str__(self) -> str:
        return f"{self.name} ({self.split_by}) {self.split}"

    @property
    def file_name(self) -> str:
        return f"scores-{self.name}-{self.split_by}-{self.split}.json"


@dataclass(frozen=True)
class ScoreFile:
    """The file of an evaluation; the module's docstring describes ``content``."""

    path: Path
    data: DataSplit
    content: dict[str, Any]

    @property
    def weights(self) -> str | None:
        """File name of the weights that were scored; None if masks were scored instead."""
        named = self.content.get("weights")
        return Path(named).name if named else None

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights' file; None if it was not recorded."""
        return self.content.get("weights_sha256")

    def is_of(self, sha256: str) -> bool:
        """Whether weights with this SHA-256 were scored; True if it was not recorded."""
        return self.weights_sha256 in (None, sha256)


def require_scores_place(out: Path) -> None:
    """Check, before scoring, that scores can be written to ``out`` (see ``write_scores``); creates a folder.

    Raises:
        InputError: they cannot.
    """
    if _is_folder(out):
        if out.exists() and not out.is_dir():
            raise InputError(f"`out` {out} is a file; name a folder, or a file that ends in .json")
        with writing(out, "`out`"):
            out.mkdir(parents=True, exist_ok=True)
    else:
        require_place(out, "`out`")


def _is_folder(out: Path) -> bool:
    return out.suffix != ".json" or out.is_dir()


def write_scores(
    out: Path, results: Mapping[str, Any], dataset: DatasetInfo, split: str, made_of: Mapping[str, Any]
) -> Path:
    """Write ``results`` and return the file's path.

    Args:
        out: the file, if its name ends in ``.json``; else an existing folder for a file named by ``dataset``
            and ``split``.
        made_of: what was scored: ``weights``, their ``weights_sha256`` and ``random_encoders``, or
            ``predictions``.

    Raises:
        InputError: the file cannot be written.
    """
    data = DataSplit(dataset.name, dataset.split_by, split)
    file = out / data.file_name if _is_folder(out) else out
    lost = {name: dataset.left_out[name] for name in (split, UNKNOWN_SPLIT) if name in dataset.left_out}
    left_out = {"left_out": {name: out.model_dump() for name, out in lost.items()}} if lost else {}
    content = {"data": asdict(data), **made_of, **left_out, **results}
    with writing(file, "`out`"):
        replace_text(file, [json.dumps(content, indent=1) + "\n"])
    return file


def read_scores(folder: Path) -> dict[DataSplit, dict[str, Any]]:
    """Scores for expressions as written, from the score files of a folder.

    Damaged files are skipped, and files for weights that the folder has replaced since.
    """
    current, _ = _by_age(folder)
    return {one.data: one.content[AS_WRITTEN] for one in current}


def outdated_score_files(folder: Path) -> list[ScoreFile]:
    """The score files of a folder for weights that it has replaced since."""
    return _by_age(folder)[1]


def _by_age(folder: Path) -> tuple[list[ScoreFile], list[ScoreFile]]:
    """The score files of a folder's current weights, and of weights that it has replaced since."""
    found = list(read_score_files(folder))
    named = {folder / one.weights for one in found if one.weights and one.weights_sha256}
    digests: dict[str | None, str] = {file.name: sha256_of(file) for file in named if file.is_file()}
    current, outdated = list[ScoreFile](), list[ScoreFile]()
    for one in found:
        digest = digests.get(one.weights)
        (current if digest is None or one.is_of(digest) else outdated).append(one)
    return current, outdated


def read_score_files(folder: Path) -> Iterator[ScoreFile]:
    """All score files of a folder; damaged ones are skipped."""
    for file in sorted(folder.glob("scores-*.json")):
        with suppress(ValueError, KeyError, TypeError):
            content = json.loads(file.read_text())
            content[AS_WRITTEN] = dict(content[AS_WRITTEN])  # fails if the file is damaged
            yield ScoreFile(file, DataSplit(**content["data"]), content)


def headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The overall scores and those by kind of expression, without finer groups."""
    return {
        name: value
        for name, value in scores.items()
        if isinstance(value, int | float) or name in ("kinds", "intervals")
    }
