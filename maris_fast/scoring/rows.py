"""A few numbers per expression, from which all scores are computed; ranks exchange them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maris_fast.sample import Sample
from maris_fast.scoring.comparing import Comparer
from maris_fast.scoring.groups import Groups, groups_of
from maris_fast.scoring.protocols import MARIS, Count, Pixels, Protocol, count


class Facts(NamedTuple):
    """What the scores of an expression are grouped by."""

    image_id: int
    ref_id: int
    sent_id: int
    first: bool
    targetless: bool
    """Whether the expression refers to nothing in the image."""
    twice_covered: int
    """Number of pixels; -1: unknown."""
    groups: Groups


class Rows:
    """Scored expressions; MARIS' own protocol is always among ``protocols``, first."""

    def __init__(self, protocols: Sequence[Protocol] = (MARIS,)) -> None:
        self.protocols = (MARIS, *(one for one in protocols if one != MARIS))
        self.comparer = Comparer(self.protocols)
        self._facts: list[Facts] = []
        self._counts = array("d")

    def add(self, pixels: Sequence[Pixels], sample: Sample, no_target: bool | None = None) -> None:
        """Scores one expression under every protocol.

        Args:
            pixels: what the ``comparer`` counted, one per protocol.
            no_target: see ``protocols.count``.
        """
        targetless = not pixels[0].true
        counts = (
            count(protocol, one, no_target, targetless=targetless)
            for protocol, one in zip(self.protocols, pixels, strict=True)
        )
        self.add_counts(counts, sample)

    def add_counts(self, counts: Iterable[Count], sample: Sample) -> None:
        """Adds one expression that was compared elsewhere, a count for each protocol."""
        area = sample.target.area
        twice = -1 if sample.overlap is None else sample.overlap.area
        groups = groups_of(sample.text, sample.category, sample.kind, area)
        self._facts.append(Facts(*sample.key, sample.first, area == 0, twice, groups))
        for one in counts:
            self._counts.extend(one)

    def state(self) -> dict[str, Any]:
        """Plain values to send to other ranks."""
        return {"facts": self._facts, "counts": self._counts}

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds the ``state()`` of another rank with the same protocols."""
        self._facts += other["facts"]
        self._counts += other["counts"]

    def table(self) -> ScoreTable:
        """All expressions, in an order that does not depend on which rank scored them."""
        order = sorted(range(len(self._facts)), key=lambda i: self._facts[i][:3])
        counts = np.array(self._counts).reshape(len(self._facts), len(self.protocols), len(Count._fields))
        return ScoreTable(self.protocols, [self._facts[i] for i in order], counts[order])


@dataclass(frozen=True)
class ScoreTable:
    """E scored expressions in the order of their images."""

    protocols: tuple[Protocol, ...]
    facts: Sequence[Facts]
    counts: NDArray[np.float64]
    """[E, protocols, 4], the fields of ``Count``."""

    def of(self, protocol: Protocol) -> NDArray[np.float64]:
        """[E, 4], the fields of ``Count``."""
        of_all: NDArray[np.float64] = self.counts[:, self.protocols.index(protocol)]
        return of_all

    def column(self, name: str) -> NDArray[Any]:
        """The values of a fact, [E]."""
        place = Facts._fields.index(name)
        return np.array([one[place] for one in self.facts])
