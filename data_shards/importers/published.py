"""How many refs, sentences and images the data sets' splits have, as published.

Refs and images: tensorflow_datasets' ref_coco and the CRIS loaders; sentences: OneRef's merged splits,
whose totals are those of the ``refer`` toolkit (142,210 for RefCOCO). PhraseCut: its repository's README, a
phrase being a ref and a sentence. RefCOCO-M: its data card. gRefCOCO: no counts by split are published; the
total of the released file is that of gRefCOCO's issue 6, where the authors say that they hold back some 6% of
the paper's 278,232.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from maris_fast.data_shards.records import OWN, SplitCounts


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
    ("refcoco-m", "unc"): {"val": _counts(2080, 5598, 1190)},
    ("phrasecut", "official"): {
        "train": _counts(310816, 310816, 71746),
        # The README says that refer_val.json is without miniv's 100 images, but not whether this count is.
        "val": _counts(20316, 20316, 2971),
        "test": _counts(14354, 14354, 2545),
        "miniv": _counts(821, 821, 100),
    },
}

PUBLISHED_SENTENCES: dict[tuple[str, str], int] = {("grefcoco", "unc"): 259_859}
"""Totals of all splits together, where only the total is known."""

_GREFCOCO_SPLITS = {"train", "val", "testA", "testB"}


_SPELLED = re.compile(r"refcoco(?:[_-]?(plus|\+)|[_-]?(g))?(?![a-z])", re.IGNORECASE)


_BY_GOOGLE = re.compile(r"google|refcocog_g(?![a-z])", re.IGNORECASE)


def published_as(name: str) -> tuple[str | None, str]:
    """Name and ``split_by`` of the member of the RefCOCO family that a name such as refcocoplus means.

    For G-Ref the division by umd, unless google is named; for another data set None and "own".
    """
    spelled = [*_SPELLED.finditer(name)]
    if not spelled:
        return None, OWN
    found = spelled[-1]  # the innermost part of a path
    if found[2]:
        return "refcocog", "google" if _BY_GOOGLE.search(name) else "umd"
    return "refcoco+" if found[1] else "refcoco", "unc"


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


def verdict_on_all(name: str, split_by: str, splits: Mapping[str, SplitCounts]) -> str | None:
    """As ``verdict``, on the sentences of all splits together; None where there is nothing to compare."""
    published = PUBLISHED_SENTENCES.get((name, split_by))
    if published is None or not splits.keys() >= _GREFCOCO_SPLITS:
        return None
    ours = sum(counts.sentences for counts in splits.values())
    return "equal" if ours == published else f"differs by {ours - published:+,} sentences"
