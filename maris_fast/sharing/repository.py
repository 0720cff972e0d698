"""The Hub's repositories: of a model for a run, of data for a cache or an imported data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from maris_fast.data_shards.cache.manifest import MANIFEST
from maris_fast.errors import InputError
from maris_fast.sharing import data_folder, model_folder
from maris_fast.train.run_files import SETTINGS


class Repository(NamedTuple):
    """Attributes:
    replaced: patterns of files of an earlier push that go where there is none of their name.
    last: files that go up when all others are there.
    notes: what to know before sharing it, a line each.
    """

    kind: Literal["model", "dataset"]
    replaced: tuple[str, ...]
    last: tuple[str, ...]
    notes: list[str]


def write_repository(
    source: Path, out: Path, *, repository: str, license: str | None, pictures: bool
) -> Repository:
    """Writes the files of a run's, a cache's or an imported data set's repository into an empty folder.

    Raises:
        InputError: ``source`` is none of them.
        MarisError: see ``write_model_folder`` and ``write_data_folder``.
        OSError: ``out`` cannot be written.
    """
    if data_folder.is_data(source):
        notes = data_folder.write_data_folder(source, out, repository=repository, license=license)
        return Repository("dataset", data_folder.REPLACED, data_folder.LAST, notes)
    if not (source / SETTINGS).is_file():
        raise InputError(
            f"{source} is not the folder of a run, of a cache or of an imported data set (no {SETTINGS}, "
            f"{MANIFEST} or {data_folder.DATASET} is in it)"
        )
    notes = model_folder.write_model_folder(
        source, out, repository=repository, license=license, pictures=pictures
    )
    return Repository("model", model_folder.REPLACED, (), notes)
