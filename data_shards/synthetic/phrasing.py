"""Which sentences a scene gets, and how they are worded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maris_fast.data_shards.synthetic.meaning import Description, Side, Size, clear_referent
from maris_fast.data_shards.synthetic.scene import SceneObject

SENTENCES_AN_IMAGE = 7
SENTENCES_A_REF = 3
KINDS = ("colour", "shape", "colour+shape", "size", "position", "relation")

_SIZES: tuple[Size, ...] = ("small", "large", "smallest", "largest")
_MOST: dict[Side, str] = {"left": "leftmost", "right": "rightmost", "top": "top", "bottom": "bottom"}
_ON: dict[Side, str] = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
_BESIDE: dict[Side, str] = {
    "left": "to the left of",
    "right": "to the right of",
    "top": "above",
    "bottom": "below",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence about ``objects[target]``."""

    target: int
    text: str
    kind: str


def choose_sentences(objects: Sequence[SceneObject], rng: np.random.Generator) -> list[Sentence]:
    """About seven sentences, each true of one object only, with kinds as balanced as the scene allows."""
    candidates = _Candidates()
    for kind, description in _descriptions(objects):
        target = clear_referent(description, objects)
        if target is not None:
            candidates.add(kind, target, description)
    chosen: list[Sentence] = []
    per_ref: Counter[int] = Counter()
    kinds = [KINDS[i] for i in rng.permutation(len(KINDS))]
    while kinds and len(chosen) < SENTENCES_AN_IMAGE:
        kind = kinds.pop(0)
        drawn = candidates.draw(kind, rng)
        if drawn is None:  # nothing left to say of that kind
            continue
        target, description = drawn
        if per_ref[target] < SENTENCES_A_REF:
            per_ref[target] += 1
            chosen.append(Sentence(target, worded(description, rng), kind))
            kinds.append(kind)
        else:
            kinds.insert(0, kind)
    return chosen


class _Candidates:
    """Descriptions with their targets, by kind and, below that, by superlative ('leftmost') or not."""

    def __init__(self) -> None:
        self._pools: dict[str, dict[bool, list[tuple[int, Description]]]] = {kind: {} for kind in KINDS}

    def add(self, kind: str, target: int, description: Description) -> None:
        self._pools[kind].setdefault(description.superlative, []).append((target, description))

    def draw(self, kind: str, rng: np.random.Generator) -> tuple[int, Description] | None:
        """Remove and return one; both forms are equally likely, whatever their numbers. None: none left."""
        forms = [pool for pool in self._pools[kind].values() if pool]
        if not forms:
            return None
        pool = forms[rng.integers(len(forms))]
        return pool.pop(rng.integers(len(pool)))


def _descriptions(objects: Sequence[SceneObject]) -> Iterator[tuple[str, Description]]:
    """Descriptions that *need* the words of their kind: without them more than one object would match."""
    colours = Counter(thing.colour for thing in objects)
    shapes = Counter(thing.shape for thing in objects)
    pairs = Counter((thing.colour, thing.shape) for thing in objects)
    plain = [Description(colour=colour) for colour in colours]
    plain += [Description(shape=shape) for shape in shapes]
    both = [Description(colour=colour, shape=shape) for colour, shape in pairs]
    for description in plain:
        yield ("shape" if description.shape else "colour"), description
    for description in both:
        if colours[str(description.colour)] > 1 and shapes[str(description.shape)] > 1:
            yield "colour+shape", description

    crowds = [Description()]
    crowds += [Description(colour=colour) for colour, number in colours.items() if number > 1]
    crowds += [Description(shape=shape) for shape, number in shapes.items() if number > 1]
    crowds += [Description(colour=c, shape=s) for (c, s), number in pairs.items() if number > 1]
    anchors = [anchor for anchor in plain + both if clear_referent(anchor, objects) is not None]
    for crowd in crowds:
        for size in _SIZES:
            yield "size", replace(crowd, size=size)
        for side in _ON:
            yield "position", replace(crowd, side=side, most=True)
            yield "position", replace(crowd, side=side)
            for anchor in anchors:
                yield "relation", replace(crowd, relation=(side, anchor))


def worded(description: Description, rng: np.random.Generator) -> str:
    """The description in English, with or without a leading article, as people write them."""
    noun = description.shape or ("object" if rng.random() < 0.5 else "one")
    if noun == "one" and not (description.colour or description.size or description.side):
        noun = "object"
    words = [description.colour, noun]
    if description.size:
        words.insert(0, description.size)
    if description.side and description.most:
        words.insert(0, _MOST[description.side])
    elif description.side:
        words.append(_ON[description.side])
    if description.relation:
        side, anchor = description.relation
        words += [_BESIDE[side], "the", anchor.colour, anchor.shape or "object"]
    if rng.random() < 0.5:
        words.insert(0, "the")
    return " ".join(word for word in words if word)
