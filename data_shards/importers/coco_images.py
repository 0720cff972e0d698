"""Which files are images of COCO: the data sets made of them share images, and so can share test images."""

from __future__ import annotations

import re
from pathlib import PurePath

# train2014 and val2014 say whose they are; the names of 2017 are the number alone.
_NAMES = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})\.jpg")
_MORE_THAN_ANY = 1_000_000  # COCO's numbers end below 600,000


def coco_id_of(file_name: str) -> int | None:
    """The number in COCO of an image whose file has one of COCO's names, else None."""
    named = _NAMES.fullmatch(PurePath(file_name).name)
    number = int(named[1]) if named else _MORE_THAN_ANY
    return number if number < _MORE_THAN_ANY else None
