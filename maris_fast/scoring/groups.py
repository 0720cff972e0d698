"""What an expression can be grouped by: its target's category and size, its length, and its words."""

from __future__ import annotations

import re

Groups = tuple[tuple[str, str], ...]
"""Pairs of a dimension and a group in it; an expression may be in several groups of ``words``."""

KIND, CATEGORY, SIZE, LENGTH, WORDS = "kind", "category", "size", "length", "words"

SIZES = (("small", 32**2), ("medium", 96**2))
"""COCO's limits, in pixels of the target at the image's own size; targets that are no smaller are large."""

LENGTHS = ((2, "1-2"), (5, "3-5"), (10, "6-10"))
"""In words separated by whitespace; longer expressions are "11 or more"."""

WORD_GROUPS = {
    "left": "left leftmost lefthand",
    "right": "right rightmost righthand",
    "top": "top topmost upper uppermost highest above",
    "bottom": "bottom bottommost lower lowest below",
    "middle": "middle center centre central centermost",
    "front": "front closest nearest foreground",
    "back": "back background behind farthest furthest rear",
    "colour": "black blue brown cyan gold golden gray green grey magenta orange pink purple red silver tan "
    "white yellow beige maroon teal blonde",
    "ordinal": "first second third fourth fifth sixth 1st 2nd 3rd 4th 5th 6th last",
    "size": "big bigger biggest large larger largest small smaller smallest little tall taller tallest short "
    "shorter shortest tiny huge",
    "relation": "of with next beside near behind under over between by on in above below holding wearing to",
    "negation": "not no without except nobody nothing",
}

ORDER = {
    SIZE: [*(name for name, _ in SIZES), "large", "none"],
    LENGTH: [*(name for _, name in LENGTHS), "11 or more"],
    WORDS: [*WORD_GROUPS, "none of these"],
}
"""Order of a dimension's groups; those of other dimensions are sorted alphabetically."""

_GROUPS_OF_WORD: dict[str, set[str]] = {}
for _group, _words in WORD_GROUPS.items():
    for _word in _words.split():
        _GROUPS_OF_WORD.setdefault(_word, set()).add(_group)


def groups_of(text: str, category: str, kind: str | None, area: int) -> Groups:
    """Every group that an expression is in.

    Args:
        text: the expression.
        category: of its target.
        kind: of expression, if the data set names one.
        area: of its target in pixels, at the image's own size; 0 if there is no target.
    """
    words = re.findall(r"[a-z0-9]+", text.lower())
    named = sorted(set().union(*(_GROUPS_OF_WORD.get(word, set()) for word in words)))
    return (
        *(((KIND, kind),) if kind else ()),
        (CATEGORY, category or "none"),
        (SIZE, _size(area)),
        (LENGTH, next((name for most, name in LENGTHS if len(text.split()) <= most), ORDER[LENGTH][-1])),
        *((WORDS, name) for name in named or ["none of these"]),
    )


def _size(area: int) -> str:
    if area == 0:
        return "none"
    return next((name for name, limit in SIZES if area < limit), "large")
