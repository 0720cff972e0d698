"""An imported data set as files; ``records`` says what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maris_fast.data_shards.records import DatasetInfo, ImageRecord, SplitCounts, count


def write_split(folder: Path, split: str, records: Sequence[ImageRecord]) -> SplitCounts:
    """Writes the split's JSON lines, and counts them."""
    with (folder / f"{split}.jsonl").open("w") as lines:
        lines.writelines(f"{record.model_dump_json()}\n" for record in records)
    return count(records)


def write_head(folder: Path, info: DatasetInfo) -> None:
    """Writes ``dataset.json``."""
    (folder / "dataset.json").write_text(info.model_dump_json(indent=1))
