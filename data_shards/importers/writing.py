"""An imported data set as files; ``records`` says what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from maris_fast.data_shards.importers.left_out import BadRows, write_listing
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.shared import Photographs
from maris_fast.data_shards.records import DatasetInfo, ImageRecord, SplitCounts, count


def write_dataset(
    folder: Path,
    info: DatasetInfo,
    splits: Iterable[tuple[str, Sequence[ImageRecord]]],
    bad: BadRows,
    options: ImportOptions,
) -> DatasetInfo:
    """Write the splits one after the other, what was left out of them, and the head.

    Args:
        info: the head but for its counts.
        splits: name and records; may add to ``bad`` until it ends.

    Returns:
        The head that was written.

    Raises:
        InputError: as ``BadRows.settle``.
    """
    counts: dict[str, SplitCounts] = {}
    images: set[tuple[str, str]] = set()
    photographs = Photographs(info)
    for split, records in splits:
        counts[split] = write_split(folder, split, records)
        images |= {(split, record.image) for record in records}
        photographs.add(split, records)
    whole, left_out = bad.settle(info.model_copy(update={"splits": counts}), images, options)
    if left_out:
        write_listing(folder, left_out)
    whole = whole.model_copy(update={"shared": photographs.shared(options)})
    write_head(folder, whole)
    return whole


def write_split(folder: Path, split: str, records: Sequence[ImageRecord]) -> SplitCounts:
    """Writes the split's JSON lines, and counts them."""
    with (folder / f"{split}.jsonl").open("w") as lines:
        lines.writelines(f"{record.model_dump_json()}\n" for record in records)
    return count(records)


def write_head(folder: Path, info: DatasetInfo) -> None:
    """Writes ``dataset.json``."""
    (folder / "dataset.json").write_text(info.model_dump_json(indent=1))
