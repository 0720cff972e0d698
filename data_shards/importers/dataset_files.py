"""An imported data set as files; ``records`` says what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from maris_fast.data_shards.importers.left_out import BadRows, write_listing
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.shared import Photographs
from maris_fast.data_shards.records import TRAIN, VAL, DatasetInfo, ImageRecord, SplitCounts, count
from maris_fast.errors import InputError


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
        InputError: as ``BadRows.settle``; or there are no images to hold out.
    """
    counts: dict[str, SplitCounts] = {}
    images: set[tuple[str, str]] = set()
    photographs = Photographs(info)
    for split, records in splits if options.hold_out is None else _divided(splits, bad, options):
        counts[split] = write_split(folder, split, records)
        images |= {(split, record.image) for record in records}
        photographs.add(split, records)
    whole, left_out = bad.settle(info.model_copy(update={"splits": counts}), images, options)
    if left_out:
        write_listing(folder, left_out)
    whole = whole.model_copy(update={"shared": photographs.shared(options)})
    write_head(folder, whole)
    return whole


def _divided(
    splits: Iterable[tuple[str, Sequence[ImageRecord]]], bad: BadRows, options: ImportOptions
) -> Iterator[tuple[str, Sequence[ImageRecord]]]:
    """The splits, with a share of the train images as validation split behind the others.

    Whether an image is held out depends on its path, the seed and the other train images' paths alone.
    """
    assert options.hold_out is not None
    held: list[ImageRecord] = []
    for split, records in splits:
        if split == VAL:
            raise InputError(f"there is a split {VAL!r} already; leave out `hold_out`")
        if split == TRAIN:
            by_hash = sorted(records, key=lambda one: sha256(f"{options.seed}/{one.image}".encode()).digest())
            number = max(1, round(options.hold_out * len(records)))
            if number >= len(records):
                raise InputError(
                    f"`hold_out` {options.hold_out:g} of {len(records)} images leaves none to train on; "
                    "needed are two images at least, and a smaller share"
                )
            chosen = {one.image_id for one in by_hash[:number]}
            held = [one for one in records if one.image_id in chosen]
            records = [one for one in records if one.image_id not in chosen]
        yield split, records
    if not held:
        raise InputError(f"there is no split {TRAIN!r} to hold images out of; leave out `hold_out`")
    bad.move({one.image for one in held}, TRAIN, VAL)
    yield VAL, held


def write_split(folder: Path, split: str, records: Sequence[ImageRecord]) -> SplitCounts:
    """Writes the split's JSON lines, and counts them."""
    with (folder / f"{split}.jsonl").open("w") as lines:
        lines.writelines(f"{record.model_dump_json()}\n" for record in records)
    return count(records)


def write_head(folder: Path, info: DatasetInfo) -> None:
    """Writes ``dataset.json``."""
    (folder / "dataset.json").write_text(info.model_dump_json(indent=1))
