"""A few numbers of each expression, from which all scores come; ranks send them to each other."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maris_fast.sample import Sample
from maris_fast.scoring.groups import Groups, groups_of
from maris_fast.scoring.protocols import MARIS, Count, Protocol, count


class Facts(NamedTuple):
    """What the scores of an expression are grouped by."""

    image_id: int
    ref_id: int
    sent_id: int
    first: bool
    targetless: bool
    """Whether the expression means nothing that is in the image."""
    twice_covered: int
    """Pixels; -1: not known."""
    groups: Groups


class Rows:
    """Scored expressions; MARIS' own protocol is always among ``protocols``, first."""

    def __init__(self, protocols: Sequence[Protocol] = (MARIS,)) -> None:
        self.protocols = (MARIS, *(one for one in protocols if one != MARIS))
        self._facts: list[Facts] = []
        self._counts = array("d")

    def add(
        self,
        logits: Tensor,
        sample: Sample,
        no_target: bool | None = None,
    ) -> NDArray[np.bool_]:
        """Scores one expression under every protocol.

        Args:
            logits: [1, 4h, 4w].
            no_target: see ``protocols.count``.

        Returns:
            The predicted mask at the image's own size, [height, width].
        """
        values = {
            canvas: canvas.values(logits, sample.geometry) for canvas in {p.canvas for p in self.protocols}
        }
        predictions = [(values[one.canvas] > one.threshold).cpu().numpy() for one in self.protocols]
        self._compare(predictions, sample, no_target)
        return np.zeros_like(predictions[0]) if no_target else predictions[0]

    def add_mask(
        self,
        prediction: NDArray[np.bool_],
        sample: Sample,
        no_target: bool | None = None,
    ) -> None:
        """Scores one expression of which only the mask is known; see ``from_masks``.

        Args:
            prediction: [height, width] of the image, resampled to a protocol's canvas as the truth is.
            no_target: see ``protocols.count``.
        """
        on_canvas = {canvas: canvas.truth(prediction) for canvas in {p.canvas for p in self.protocols}}
        self._compare([on_canvas[one.canvas] for one in self.protocols], sample, no_target)

    def _compare(
        self,
        predictions: Sequence[NDArray[np.bool_]],
        sample: Sample,
        no_target: bool | None,
    ) -> None:
        """``predictions`` are a protocol's each, on its canvas."""
        truth = sample.target.decode()
        dropped = truth if sample.overlap is None else truth & ~sample.overlap.decode()
        targetless = not truth.any()
        counts = []
        for protocol, prediction in zip(self.protocols, predictions, strict=True):
            wanted = dropped if protocol.twice_covered == "dropped" else truth
            on_canvas = protocol.canvas.truth(wanted)
            counts.append(count(protocol, prediction, on_canvas, no_target, targetless=targetless))
        self.add_counts(counts, sample)

    def add_counts(self, counts: Sequence[Count], sample: Sample) -> None:
        """Adds one expression that was compared elsewhere, a count for each protocol."""
        area = sample.target.area
        twice = -1 if sample.overlap is None else sample.overlap.area
        groups = groups_of(sample.text, sample.category, sample.kind, area)
        self._facts.append(Facts(*sample.key, sample.first, area == 0, twice, groups))
        for one in counts:
            self._counts.extend(one)

    def state(self) -> dict[str, Any]:
        """Plain values, to be sent to other ranks."""
        return {"facts": self._facts, "counts": self._counts}

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds the ``state()`` of another rank with the same protocols."""
        self._facts += other["facts"]
        self._counts += other["counts"]

    def table(self) -> ScoreTable:
        """All expressions, in an order that does not depend on who scored them."""
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
        """[E] of a fact."""
        place = Facts._fields.index(name)
        return np.array([one[place] for one in self.facts])
