"""``refcoco.zip`` and similar downloads: RefCOCO's layout in a zip file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile, ZipInfo

from maris_fast.data_shards.importers.forms.refer import GREFS, INSTANCES, REFER, REFS
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.errors import InputError

_MOST_BYTES = 2**32
"""Unpacked size; RefCOCO's archives have 0.1 GB."""


def read(source: Source) -> DatasetInfo:
    """Read the annotations, unpacked to a temporary folder within the output folder."""
    with TemporaryDirectory(dir=source.folder) as there:
        return REFER.read(replace(source, at=_unpacked(source.place, Path(there))))


def _unpacked(path: Path, there: Path) -> Path:
    """The folder with the files of refs and instances, which is named as in the archive.

    Raises:
        InputError: not a whole zip file, or not one data set.
    """
    try:
        with ZipFile(path) as archive:
            members = [one for one in archive.infolist() if _is_of_use(one)]
            folders = {PurePosixPath(one.filename).parent for one in members}
            if len(folders) != 1:
                holds = f"several data sets, {', '.join(sorted(map(str, folders)))}" if folders else "no refs"
                raise InputError(f"{path} holds {holds}; unpack it, and name the folder of one data set")
            if sum(one.file_size for one in members) > _MOST_BYTES:
                raise InputError(
                    f"{path} has annotations of more than {_MOST_BYTES / 2**30:g} GiB; unpack it"
                )
            name = folders.pop().name
            folder = there / (name if name not in ("", "..") else path.stem)
            folder.mkdir()
            for one in members:
                with archive.open(one) as packed, (folder / Path(one.filename).name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
    except (BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path} is not a whole zip file: {error}; download it again") from error
    return folder


def _is_of_use(member: ZipInfo) -> bool:
    path = PurePosixPath(member.filename)  # macOS adds ._refs(unc).p in __MACOSX
    return any(path.match(pattern) for pattern in (REFS.format("*"), GREFS.format("*"), INSTANCES)) and (
        not path.name.startswith(".")
    )


ZIP = Form(
    "NAME.zip of such a folder, as refcoco.zip is downloaded",
    lambda source: source.place.suffix == ".zip" and source.place.is_file(),
    read,
    divided=True,
)
