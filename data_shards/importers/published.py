"""How many refs, sentences and images the data sets' splits have, as published.

Refs and images: tensorflow_datasets' ref_coco and the CRIS loaders; sentences: OneRef's merged splits,
whose totals are those of the ``refer`` toolkit (142,210 for RefCOCO).
"""

from __future__ import annotations

from maris_fast.data_shards.records import SplitCounts


def _counts(refs: int, sentences: int, images: int) -> SplitCounts:
    return SplitCounts(refs=refs, sentences=sentences, images=images)


PUBLISHED: dict[tuple[str, str], dict[str, SplitCounts]] = {
    ("refcoco", "unc"): {
        "train": _counts(42404, 120624, 16994),
        "val": _counts(3811, 10834, 1500),
        "testA": _counts(1975, 5657, 750),
        "testB": _counts(1810, 5095, 750),
    },
    ("refcoco+", "unc"): {
        "train": _counts(42278, 120191, 16992),
        "val": _counts(3805, 10758, 1500),
        "testA": _counts(1975, 5726, 750),
        "testB": _counts(1798, 4889, 750),
    },
    ("refcocog", "umd"): {
        "train": _counts(42226, 80512, 21899),
        "val": _counts(2573, 4896, 1300),
        "test": _counts(5023, 9602, 2600),
    },
    ("refcocog", "google"): {
        "train": _counts(44822, 85474, 24698),
        "val": _counts(5000, 9536, 4650),
    },
}


def verdict(name: str, split_by: str, split: str, counts: SplitCounts) -> str:
    """'equal', 'differs by ...' (ours minus published), or 'no published counts'."""
    published = PUBLISHED.get((name, split_by), {}).get(split)
    if published is None:
        return "no published counts"
    differences = [
        f"{ours - theirs:+,} {what}"
        for (what, ours), (_, theirs) in zip(counts, published, strict=True)
        if ours != theirs
    ]
    return f"differs by {', '.join(differences)}" if differences else "equal"
