"""Which importer reads what a person names."""

from __future__ import annotations

from pathlib import Path

from maris_fast.data_shards.importers.coco import import_coco
from maris_fast.data_shards.importers.grefcoco import import_grefcoco
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.jsonl import import_jsonl
from maris_fast.data_shards.importers.options import DEFAULT, ImportOptions
from maris_fast.data_shards.importers.phrasecut import import_phrasecut
from maris_fast.data_shards.importers.refcoco import import_refcoco
from maris_fast.errors import ConfigError, InputError

_WITHOUT_SPLIT_BY = {"phrasecut": import_phrasecut, "jsonl": import_jsonl, "coco": import_coco}
_WITH_SPLIT_BY = {"refcoco": (import_refcoco, "refs({}).p"), "grefcoco": (import_grefcoco, "grefs({}).json")}


def import_dataset(
    root: Path,
    dataset: str,
    out: Path,
    options: ImportOptions = DEFAULT,
    *,
    split_by: str | None = None,
) -> ImportReport:
    """Import ``root/<dataset>``, whichever of the known formats it has.

    A file ends in ``.jsonl`` (``jsonl``) or ``.json`` (``coco``); a folder is known by its files:
    ``refs(*).p`` (``refcoco``), ``grefs(*).json`` (``grefcoco``), ``refer_*.json`` (``phrasecut``).

    Args:
        root: folder that holds the data set, and its images if they are at their usual place.
        dataset: folder or file below ``root``.
        out: new folder.
        options: which splits, where images are, what becomes of rows that cannot be used.
        split_by: for ``refcoco`` and ``grefcoco``; None: the only one there is.

    Raises:
        InputError: as the importers; or several files to choose ``split_by`` from.
        ConfigError: ``split_by`` for a data set that has none.
    """
    root = Path(root)
    form = format_of(root, dataset)
    if form in _WITHOUT_SPLIT_BY:
        if split_by is not None:
            raise ConfigError(f"`split_by` {split_by}: {dataset} is divided in one way only; leave it out")
        return _WITHOUT_SPLIT_BY[form](root, dataset, out, options)
    importer, file = _WITH_SPLIT_BY[form]
    chosen = split_by or _only_split_by(root / dataset, file)
    return importer(root, dataset, chosen, out, options)


def format_of(root: Path, dataset: str) -> str:
    """``refcoco``, ``grefcoco``, ``phrasecut``, ``jsonl`` or ``coco``.

    Raises:
        InputError: nothing there that any importer reads.
    """
    place = root / dataset
    if place.suffix in (".jsonl", ".json"):
        return {".jsonl": "jsonl", ".json": "coco"}[place.suffix]
    has = {
        "refcoco": any(place.glob("refs(*).p")),
        "grefcoco": any(place.glob("grefs(*).json")),
        "phrasecut": any(place.glob("refer_*.json")),
    }
    if has["refcoco"] and has["grefcoco"]:
        return "grefcoco" if place.name == "grefcoco" else "refcoco"
    for form, is_there in has.items():
        if is_there:
            return form
    if place.is_dir():
        raise InputError(
            f"{place} holds neither refs(<split-by>).p, nor gRefCOCO's grefs(<split-by>).json, nor "
            "PhraseCut's refer_<split>.json; own data are named by their file, NAME.jsonl or NAME.json "
            "(docs/datasets.md)"
        )
    there = sorted(path.name for path in root.iterdir() if _is_dataset(path)) if root.is_dir() else []
    raise InputError(f"no folder {place}; data sets below {root}: {', '.join(there) or 'none'}")


def _is_dataset(place: Path) -> bool:
    return any(any(place.glob(name)) for name in ("refs(*).p", "grefs(*).json", "refer_*.json"))


def _only_split_by(place: Path, file: str) -> str:
    head, tail = file.split("{}")
    there = sorted(path.name[len(head) : -len(tail)] for path in place.glob(file.format("*")))
    if len(there) != 1:
        raise InputError(f"{place} is divided in several ways; choose one of `split_by` {', '.join(there)}")
    return there[0]
