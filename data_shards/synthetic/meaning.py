"""What a description is true of, judged by comparing objects with margins; borderline cases are unclear.

This module is independent of how sentences are worded or chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from maris_fast.data_shards.synthetic.scene import SceneObject

Size = Literal["small", "large", "smallest", "largest"]
Side = Literal["left", "right", "top", "bottom"]

SIDE_MARGIN = 0.08  # a leftmost object leads by this much
ON_SIDE, OFF_SIDE = 0.4, 0.52  # 'on the left' ends and 'not on the left' begins here
SIZE_RATIO = 1.25  # the largest object's radius over the next one's
APART, LEVEL = 0.1, 0.04  # 'above' needs the first distance; up to the second it is surely not above
UNCLEAR = None

Truth = bool | None


@dataclass(frozen=True, slots=True)
class Description:
    """A head (``shape``, ``colour``; None: any) with at most one of size, position and relation."""

    shape: str | None = None
    colour: str | None = None
    size: Size | None = None
    side: Side | None = None
    most: bool = False  # with ``side``: 'leftmost' rather than 'on the left'
    relation: tuple[Side, Description] | None = None  # lies on that side of the anchor

    @property
    def superlative(self) -> bool:
        return self.most or self.size in ("smallest", "largest")


def clear_referent(description: Description, objects: Sequence[SceneObject]) -> int | None:
    """Index of the one object for which the description is clearly true and clearly false for all others."""
    heads = [i for i, thing in enumerate(objects) if _is_head(description, thing)]
    truths = _truths(description, heads, objects)
    if UNCLEAR in truths or truths.count(True) != 1:
        return None
    return heads[truths.index(True)]


def _is_head(description: Description, thing: SceneObject) -> bool:
    return description.shape in (None, thing.shape) and description.colour in (None, thing.colour)


def _truths(description: Description, heads: list[int], objects: Sequence[SceneObject]) -> list[Truth]:
    things = [objects[i] for i in heads]
    if description.size in ("small", "large"):
        return [thing.size == description.size for thing in things]
    if description.size is not None:
        sign = 1 if description.size == "largest" else -1
        return _leader([sign * math.log(thing.radius) for thing in things], math.log(SIZE_RATIO))
    if description.side is not None:
        towards = [_along(description.side, thing.x, thing.y) for thing in things]
        if description.most:
            return _leader(towards, SIDE_MARGIN)
        return [_graded(value, 1 - OFF_SIDE, 1 - ON_SIDE) for value in towards]
    if description.relation is not None:
        side, anchor_description = description.relation
        anchor = clear_referent(anchor_description, objects)
        if anchor is None:
            return [UNCLEAR for _ in things]
        return [i != anchor and _beside(side, objects[i], objects[anchor]) for i in heads]
    return [True for _ in things]


def _leader(values: list[float], margin: float) -> list[Truth]:
    """True for the largest value if no other comes within ``margin`` of it; unclear for all that do."""
    near = [max(values) - value < margin for value in values]
    won: Truth = True if sum(near) == 1 else UNCLEAR
    return [won if close else False for close in near]


def _graded(value: float, no: float, yes: float) -> Truth:
    return True if value >= yes else False if value <= no else UNCLEAR


def _along(side: Side, x: float, y: float) -> float:
    """How far towards ``side``, from 0 at the opposite edge to 1."""
    return {"left": 1 - x, "right": x, "top": 1 - y, "bottom": y}[side]


def _beside(side: Side, thing: SceneObject, anchor: SceneObject) -> Truth:
    """Whether ``thing`` lies on that side of ``anchor``: within 45 degrees is yes, beyond 63 no."""
    ahead = _along(side, thing.x, thing.y) - _along(side, anchor.x, anchor.y)
    across = abs(thing.y - anchor.y) if side in ("left", "right") else abs(thing.x - anchor.x)
    if ahead <= LEVEL or across >= 2 * ahead:
        return False
    return True if ahead >= APART and across <= ahead else UNCLEAR
