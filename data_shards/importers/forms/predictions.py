"""``predictions.jsonl`` of ``maris-fast predict-many``; files of ``--per-expression`` have the same keys."""

from __future__ import annotations

from typing import Any

from maris_fast.data_shards.importers.forms.jsonl import write_line_files
from maris_fast.data_shards.importers.lines import ExpressionLine, ImageLine, parsed_line
from maris_fast.data_shards.importers.row_lines import LineRow
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.importers.split_names import files_by_split
from maris_fast.data_shards.importers.text_encoding import utf8_lines
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.errors import InputError
from maris_fast.rle import Rle, require_whole


class PredictionRow(LineRow):
    image: str
    sentence: str
    prediction: Rle

    def line(self) -> dict[str, Any]:
        """An empty mask says that the sentence refers to nothing."""
        height, width = self.prediction.size
        require_whole(self.prediction.counts, height, width)
        mask = self.prediction.model_dump(mode="json") if self.prediction.area else None
        return {
            "image": self.image,
            "sentence": self.sentence,
            "mask": mask,
            "height": height,
            "width": width,
        }


def read(source: Source) -> DatasetInfo:
    """Masks are taken from the run lengths; files without a split in their name belong to "train"."""
    return write_line_files(source, _row, "lines that are not predictions")


def _row(keys: Any) -> ExpressionLine | ImageLine:
    return parsed_line(PredictionRow.model_validate(keys).line())


def _is_predictions(source: Source) -> bool:
    if source.place.suffix != ".jsonl":
        return False
    try:
        files = files_by_split(source.root, source.dataset)
        lines = (line for _, path in files for line in utf8_lines(path))
        first = parse_json(next(filter(bytes.strip, lines), b""))
    except (InputError, ValueError):
        return False
    return isinstance(first, dict) and "prediction" in first


PREDICTIONS = Form(
    "predictions.jsonl, as `maris-fast predict-many` writes it",
    _is_predictions,
    read,
)
