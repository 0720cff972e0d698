"""From an imported data set to a feature cache: run the frozen encoders once, store what they gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

from maris_fast.config import CacheSettings
from maris_fast.data_shards.cache.group import EncodedGroup
from maris_fast.data_shards.cache.manifest import MANIFEST, CacheManifest
from maris_fast.data_shards.cache.masks import decode_rle, mask_target
from maris_fast.data_shards.cache.shards import ShardWriter
from maris_fast.data_shards.new_folder import new_folder
from maris_fast.data_shards.records import ImageRecord, ImportedDataset
from maris_fast.encoders import EncodersProvenance, SamEncoder, TextEncoder, place
from maris_fast.errors import InputError
from maris_fast.images import check_image, load_image


def write_cache(
    dataset: Path,
    out: Path,
    settings: CacheSettings,
    splits: Sequence[str] | None = None,
    *,
    progress: bool = True,
) -> CacheManifest:
    """Encode an imported data set into shards under ``out``.

    Everything is written to a folder beside ``out`` that takes its name at the end: a cache is there
    complete or not at all.

    Args:
        dataset: folder of the imported data set.
        out: folder to make; may exist if empty.
        settings: encoders, stored dtype, shard size, device.
        splits: which splits; None for all.
        progress: show a bar with rate and time left.

    Returns:
        The manifest that was written: counts per split, cut expressions among them.

    Raises:
        InputError: ``out`` is not empty, a split that there is not, an image or expression that cannot be
            used; named, and found as far as possible before the first image is encoded.
        CheckpointError, ConfigError: of the encoders.
    """
    with new_folder(out) as folder:
        source = ImportedDataset(dataset)
        chosen = _chosen_splits(source, splits)
        device, precision = place(settings.device, settings.precision)
        sam = SamEncoder(settings.encoders.sam, device, precision)
        text = TextEncoder(settings.encoders.text, device)
        check_dataset(source, chosen, sam, text)
        manifest = _write_into(folder, source, chosen, settings, sam, text, progress)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


def check_dataset(source: ImportedDataset, splits: Sequence[str], sam: SamEncoder, text: TextEncoder) -> None:
    """Find what would stop the writing, without decoding pixels: hours may lie between start and end.

    Raises:
        InputError: the first image or expression that cannot be used.
    """
    root = Path(source.info.image_root)
    for split in splits:
        seen: set[int] = set()
        for record in source.records(split):
            if record.image_id in seen:
                raise InputError(
                    f"image {record.image_id} stands twice in split {split} of {source.folder}; "
                    "all sentences of an image belong into one record"
                )
            seen.add(record.image_id)
            check_image(root / record.image, (record.height, record.width))
            sam.grid(record.height, record.width)
            for expression in record.expressions:
                try:
                    text.tokenise(expression.text)
                except InputError as error:
                    raise InputError(
                        f"image {record.image_id}, sentence {expression.sent_id}: {error}"
                    ) from error


def encode_groups(
    records: Iterable[ImageRecord], root: Path, sam: SamEncoder, text: TextEncoder, batch_size: int
) -> Iterator[EncodedGroup]:
    """Image groups with their features, in the order of the records.

    Raises:
        InputError: an image that cannot be decoded.
    """
    waiting = iter(records)
    while batch := list(islice(waiting, batch_size)):
        features = sam.encode(
            [load_image(root / record.image, (record.height, record.width)) for record in batch]
        )
        sentences = [expression.text for record in batch for expression in record.expressions]
        words = iter(text.encode(sentences))
        for record, levels in zip(batch, features, strict=True):
            geometry = sam.grid(record.height, record.width)
            yield EncodedGroup(
                record=record,
                geometry=geometry,
                levels=levels,
                expressions=tuple(islice(words, len(record.expressions))),
                targets=np.stack(
                    [mask_target(decode_rle(target.mask), geometry) for target in record.targets]
                ),
            )


def _write_into(
    folder: Path,
    source: ImportedDataset,
    splits: Sequence[str],
    settings: CacheSettings,
    sam: SamEncoder,
    text: TextEncoder,
    progress: bool,
) -> CacheManifest:
    provenance = EncodersProvenance(sam=sam.provenance, text=text.provenance)
    random = tuple(provenance.random)
    entries = {}
    with _progress_bar(progress) as bar:
        for split in splits:
            task = bar.add_task(split, total=source.info.splits[split].images)
            with ShardWriter(
                folder,
                split,
                feature_dtype=settings.feature_dtype,
                shard_bytes=settings.shard_bytes,
                random=random,
            ) as shards:
                groups = encode_groups(
                    source.records(split), Path(source.info.image_root), sam, text, settings.batch_size
                )
                for group in groups:
                    shards.add(group)
                    bar.advance(task)
                entries[split] = shards.finish()
    return CacheManifest(
        dataset=source.info,
        encoders=provenance,
        encoder_settings=settings.encoders,
        random=random,
        feature_dtype=settings.feature_dtype,
        channels=sam.channels,
        text_channels=text.channels,
        splits=entries,
    )


def _chosen_splits(source: ImportedDataset, splits: Sequence[str] | None) -> list[str]:
    known = source.info.splits
    for split in splits or ():
        if split not in known:
            raise InputError(f"no split {split!r} in {source.folder}; it has {', '.join(sorted(known))}")
    return list(dict.fromkeys(splits or known))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "", style="progress.data.speed")


def _progress_bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("encode {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeLeft(),
        disable=not shown,
    )
