"""Sa2VA's ``annotations.json``: ``[{"image", "mask", "text"}]``, one image with its objects per row.

As in its authors' guide to fine-tuning; images are in ``images`` beside the file.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from maris_fast.data_shards.importers.left_out import BadRows
from maris_fast.data_shards.importers.line_grouping import write_lines
from maris_fast.data_shards.importers.row_lines import LineRow, lines_of
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.records import DatasetInfo

_WHOSE = "Sa2VA's list"


class Sa2vaRow(LineRow):
    image: str
    mask: list[Any]
    text: list[str | list[str]]

    def line(self) -> dict[str, Any]:
        if len(self.mask) != len(self.text):
            raise ValueError(
                f"it has {len(self.mask)} masks and {len(self.text)} texts; expected one text each"
            )
        texts = ([text] if isinstance(text, str) else text for text in self.text)
        objects = [{"sentences": said, "mask": mask} for said, mask in zip(texts, self.mask, strict=True)]
        return {"image": self.image, "objects": objects}


def read(source: Source) -> DatasetInfo:
    """Read the files; each belongs to the split that its name ends in, else to "train"."""
    bad = BadRows(f"{source.dataset} below {source.root}")
    beside = PurePosixPath(source.dataset) if source.place.is_dir() else PurePosixPath(source.dataset).parent
    head = source.head(images=(f"{beside}/images", "."))
    lines = []
    for document in source.documents:
        rows = document.required(_WHOSE)
        lines += lines_of(Sa2vaRow, rows, document.path.name, document.split_or_train, bad, whose=_WHOSE)
    return write_lines(source, lines, head, bad)


SA2VA = Form(
    "NAME.json, a list of rows with `image`, `mask` and `text`, as Sa2VA's annotations.json",
    lambda source: any(row.keys() >= {"mask", "text"} for row in source.rows()),
    read,
)
