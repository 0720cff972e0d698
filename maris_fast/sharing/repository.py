"""Repositories of the Hub: a model repository for a run, a data repository for a cache or data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from maris_fast.data_shards.cache.manifest import MANIFEST
from maris_fast.data_shards.records import HEAD
from maris_fast.errors import InputError
from maris_fast.sharing import data_folder, model_folder
from maris_fast.train.run_files import SETTINGS


class Repository(NamedTuple):
    """Attributes:
    replaced: patterns of files of an earlier push to delete unless there is a new one of the same name.
    last: files to upload after all others.
    notes: what to know before sharing it, one line each.
    """

    kind: Literal["model", "dataset"]
    replaced: tuple[str, ...]
    last: tuple[str, ...]
    notes: list[str]


def write_repository(
    source: Path, out: Path, *, repository: str, license: str | None, pictures: bool
) -> Repository:
    """Write the files of the repository of a run, a cache or an imported data set to an empty folder.

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
            f"{MANIFEST} or {HEAD} is in it)"
        )
    notes = model_folder.write_model_folder(
        source, out, repository=repository, license=license, pictures=pictures
    )
    return Repository("model", model_folder.REPLACED, (), notes)
