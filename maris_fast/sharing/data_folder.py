"""A cache or an imported data set as the files of a repository, with a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maris_fast.data_shards.cache import CacheManifest, read_manifest
from maris_fast.data_shards.cache.manifest import MANIFEST, WRITING
from maris_fast.data_shards.records import HEAD, DatasetInfo, ImportedDataset
from maris_fast.errors import InputError
from maris_fast.sharing.card import CARD, LIBRARY, TAGS, TASK, UNKNOWN, card_template, encoder_rows
from maris_fast.sharing.places import last_part
from maris_fast.system.files import replace_text

LAST = (MANIFEST, HEAD, CARD)
"""Files to upload after all others: a folder with a manifest counts as a complete cache."""
REPLACED = ("*.tar", "*.index.npz", "*.jsonl")
"""Patterns of files of an earlier push that do not belong to new data."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def is_data(source: Path) -> bool:
    """Whether a folder holds a cache, complete or not, or an imported data set."""
    return any((source / name).is_file() for name in (MANIFEST, WRITING, HEAD))


def write_data_folder(source: Path, out: Path, *, repository: str, license: str | None) -> list[str]:
    """Write the files of a data repository; places are cut to their last part.

    Args:
        source: folder of a complete cache, or of an imported data set.
        out: an empty folder. Shards and JSON lines become links to those of ``source``.
        repository: ``org/name`` that the card names.
        license: the Hub's identifier; None: the card says that it is unknown.

    Returns:
        What to know before sharing it, one line each.

    Raises:
        InputError: ``source`` is neither, or one of its files is missing, truncated or damaged.
        OSError: ``out`` cannot be written.
    """
    if any((source / name).is_file() for name in (MANIFEST, WRITING)):
        info, images, card = _write_cache(source, out)
    else:
        info, images, card = _write_dataset(source, out)
    lines = (*info.incomplete(images), *info.about_masks())
    cautions = [line.removeprefix("warning: ") for line in lines]
    card["cautions"] = [*cautions, *([card["caution"]] if card.get("caution") else ())]
    name = repository.rpartition("/")[2]
    text = card_template("data").render(
        {"cache": None, "encoders": {}, "example": "", **card},
        front_matter=_front_matter(name, license, sum(images.values())),
        name=name,
        repository=repository,
        license=license,
        info=info,
    )
    replace_text(out / CARD, [text])
    notes = ["it holds the data set's sentences and masks: mind their license"]
    if license is None:
        notes.append("the card names no license; say which with `license`, such as cc-by-4.0")
    return [*notes, *card["cautions"]]


def _write_cache(source: Path, out: Path) -> tuple[DatasetInfo, dict[str, int], dict[str, Any]]:
    """The data set, the number of images in each split of the cache, and what the card says."""
    manifest = read_manifest(source)
    for entry in manifest.splits.values():
        for shard in entry.shards:
            _link(source / shard.name, out, shard.bytes)
            _link(source / shard.index_name, out)
    shared = _without_places(manifest)
    replace_text(out / MANIFEST, [shared.model_dump_json(indent=1)])
    rows = [
        _row(
            name,
            entry.images,
            entry.targets,
            entry.expressions,
            len(entry.shards),
            f"{entry.bytes / 1e9:.2f}",
        )
        for name, entry in manifest.splits.items()
    ]
    caution = manifest.encoders.caution
    images = {name: entry.images for name, entry in manifest.splits.items()}
    card = {
        "cache": shared,
        "encoders": encoder_rows(manifest.encoders),
        "head": ("split", "images", "refs", "expressions", "shards", "GB"),
        "rows": rows,
        "caution": caution and caution.replace("these weights were trained on", "these are"),
    }
    return manifest.dataset, images, card


def _write_dataset(source: Path, out: Path) -> tuple[DatasetInfo, dict[str, int], dict[str, Any]]:
    """As ``_write_cache``, of a data set."""
    dataset = ImportedDataset(source)
    info = dataset.info
    for split in info.splits:
        _link(dataset.path(split), out)
    replace_text(out / HEAD, [_last_parts(info).model_dump_json(indent=1), "\n"])
    first = next(dataset.records(next(iter(info.splits))), None)
    rows = [_row(name, one.images, one.refs, one.sentences) for name, one in info.splits.items()]
    head = ("split", "images", "refs", "expressions")
    images = {name: one.images for name, one in info.splits.items()}
    return info, images, {"head": head, "rows": rows, "example": first.image if first else ""}


def _link(file: Path, out: Path, wanted: int | None = None) -> None:
    if not file.is_file():
        raise InputError(f"{file} is missing; put it back, or create {file.parent} again")
    if wanted is not None and file.stat().st_size != wanted:
        raise InputError(
            f"{file} has {file.stat().st_size:,} bytes, its manifest says {wanted:,}; `maris-fast verify` "
            "names all that is wrong with a cache"
        )
    (out / file.name).symlink_to(file.resolve())


def _without_places(manifest: CacheManifest) -> CacheManifest:
    settings = manifest.encoder_settings
    parts = {
        name: part.model_copy(update={"weights": last_part(part.weights)})
        for name, part in (("sam", settings.sam), ("text", settings.text))
    }
    changed = {
        "dataset": _last_parts(manifest.dataset),
        "encoder_settings": settings.model_copy(update=parts),
    }
    return manifest.model_copy(update=changed).sealed()


def _last_parts(info: DatasetInfo) -> DatasetInfo:
    return info.model_copy(update={name: last_part(getattr(info, name)) for name in ("image_root", "source")})


def _row(*cells: object) -> list[str]:
    return [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]


def _front_matter(name: str, license: str | None, images: int) -> str:
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        license=license or UNKNOWN,
        task_categories=[TASK],
        tags=[*TAGS, LIBRARY],
        size_categories=[next((size for below, size in _SIZES if images < below), "n>1M")],
        pretty_name=name,
    ).to_yaml()
