"""Identifies photographs by file name: data sets built on COCO share images, and so may share test images.

Tools rename files on import and export, but mostly keep COCO's name within theirs; COCO's images come from
Flickr, and its annotation files have the URL of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

from maris_fast.data_shards.records import ImageRecord

# Names in train2014 and val2014 have a prefix; the names of 2017 are the number alone.
_OWN_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})\.jpg")
# refer's COCO_train2014_000000000101_7.jpg, Label Studio's 1a2b3c4d-COCO_..., Roboflow's ..._jpg.rf.HASH.jpg
_WITHIN = re.compile(r"COCO_(?:train|val|test)\d{4}_(\d{12})(?!\d)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![0-9A-Za-z.])(0{6}\d{6})(?!\d)")
_MORE_THAN_ANY = 1_000_000  # COCO's numbers end below 600,000

# PHOTO_SECRET_SIZE.jpg, in Flickr's URLs and in the names of files saved from there
_FLICKR = re.compile(r"(?<![0-9A-Za-z])(\d{6,11})_[0-9a-f]{10}(?![0-9a-f])")


def cocos_own_file(file_name: str) -> int | None:
    """COCO's number of the image if the whole file name is one of COCO's, else None."""
    named = _OWN_NAME.fullmatch(_last(file_name))
    return _known(named)


def coco_id_of(*names: object) -> int | None:
    """COCO's number of the photograph that a file name or a URL identifies, whatever tool wrote it.

    Args:
        names: the file's name, and URLs of it; the first that identifies it counts, non-strings are ignored.
    """
    for last in _lasts(names):
        number = _known(_WITHIN.search(last) or _NUMBER.search(last))
        if number is not None:
            return number
    return None


def flickr_id_of(*names: object) -> int | None:
    """Flickr's number of the photograph that a file name or a URL identifies; see ``coco_id_of``."""
    for last in _lasts(names):
        found = _FLICKR.search(last)
        if found:
            return int(found[1])
    return None


def photograph_ids(record: ImageRecord, synthetic: bool) -> set[tuple[str, int]]:
    """All ids by which a record's photograph can be recognized, as ("coco" or "flickr", number).

    Args:
        synthetic: whether its data set is synthetic; a name like COCO's then means nothing.
    """
    if synthetic:
        return set()
    # Parse the name again: a data set may have been imported before names were parsed.
    coco = record.coco_id if record.coco_id is not None else coco_id_of(record.image)
    flickr = record.flickr_id if record.flickr_id is not None else flickr_id_of(record.image)
    return {(whose, number) for whose, number in (("coco", coco), ("flickr", flickr)) if number is not None}


def _known(named: re.Match[str] | None) -> int | None:
    number = int(named[1]) if named else _MORE_THAN_ANY
    return number if 0 < number < _MORE_THAN_ANY else None


def _lasts(names: Iterable[object]) -> list[str]:
    return [_last(name) for name in names if isinstance(name, str)]


def _last(name: str) -> str:
    """The last part of a path or of a URL."""
    path = urlsplit(name).path if "://" in name else name
    return PureWindowsPath(PurePosixPath(path).name).name
