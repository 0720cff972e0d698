"""Rows to scores: of the whole, of groups, and how far they would move with other images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maris_fast.scoring.groups import CATEGORY, KIND, LENGTH, ORDER, SIZE, WORDS
from maris_fast.scoring.protocols import MARIS, Protocol, precision_name
from maris_fast.scoring.rows import Table

FEW = 30
"""A group of fewer expressions says little, and is marked."""

BOOTSTRAP = 1000
"""Resamples that ``maris-fast eval`` draws unless told otherwise."""

_SEED = 0
_DRAWS_AT_ONCE = 100

Scores = dict[str, float]


def headline(table: Table) -> dict[str, Any]:
    """MARIS' own scores: {'expressions', 'oIoU', 'mIoU', 'Pr@50', ..., 'kinds': {kind: the same}}, 0 to 1."""
    if not table.facts:
        return {"expressions": 0, "kinds": {}}
    return {**_scores(MARIS, _terms(MARIS, table)), "kinds": _grouped(table, MARIS).get(KIND, {})}


def whole(table: Table, *, bootstrap: int = BOOTSTRAP) -> dict[str, Any]:
    """``headline``, and with it 'intervals', 'breakdown', and 'protocols' where there are others than MARIS'.

    Args:
        bootstrap: resamples of the images for the intervals; 0: no intervals.
    """
    scores = headline(table)
    if not table.facts:
        return scores
    scores["images"] = len(set(table.column("image_id")))
    if bootstrap > 0:
        scores["intervals"] = intervals(table, MARIS, bootstrap)
        scores["bootstrap"] = {"resamples": bootstrap, "over": "images", "level": 0.95, "seed": _SEED}
    scores["breakdown"] = {
        dimension: {name: {**row, "few": row["expressions"] < FEW} for name, row in groups.items()}
        for dimension, groups in _grouped(table, MARIS).items()
        if dimension != KIND
    }
    twice = table.column("twice_covered")
    scores["twice_covered_pixels"] = {
        "expressions with some": int((twice > 0).sum()),
        "expressions where not known": int((twice < 0).sum()),
    }
    if len(table.protocols) > 1:
        scores["protocols"] = {one.name: _under(table, one, scores, bootstrap) for one in table.protocols}
    return scores


def _under(table: Table, protocol: Protocol, ours: Scores, bootstrap: int) -> dict[str, Any]:
    """A protocol's scores, under the script's names ('prints') and under ours."""
    scores = _scores(protocol, _terms(protocol, table))
    under: dict[str, Any] = {
        "script": protocol.script,
        "prints": {theirs: scores[name] for theirs, name in protocol.prints.items()},
        **scores,
        "minus maris": {
            name: scores[name] - ours[name] for name in scores if name != "expressions" and name in ours
        },
    }
    if bootstrap > 0:
        under["intervals"] = intervals(table, protocol, bootstrap)
    return under


def intervals(table: Table, protocol: Protocol, resamples: int) -> dict[str, list[float]]:
    """95% intervals of a protocol's scores, by the percentiles of a bootstrap over images.

    An image's expressions are of one scene and of few objects, so they are drawn together. The seed is
    fixed: the same rows give the same intervals.
    """
    terms = _terms(protocol, table)
    _, image = np.unique(table.column("image_id"), return_inverse=True)
    sums = np.zeros((image.max() + 1, terms.shape[1]))
    np.add.at(sums, image, terms)
    random = np.random.default_rng(_SEED)
    drawn = []
    for first in range(0, resamples, _DRAWS_AT_ONCE):
        draws = min(_DRAWS_AT_ONCE, resamples - first)
        times = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
        drawn.append(_ratios(protocol, times.astype(np.float64) @ sums))
    low, high = np.percentile(np.concatenate(drawn), (2.5, 97.5), axis=0).tolist()
    return {name: [low[i], high[i]] for i, name in enumerate(_names(protocol))}


def _grouped(table: Table, protocol: Protocol) -> dict[str, dict[str, Scores]]:
    """Scores by dimension and group, both in the order of ``groups``."""
    members: dict[str, dict[str, list[int]]] = {}
    for row, facts in enumerate(table.facts):
        for dimension, name in facts.groups:
            members.setdefault(dimension, {}).setdefault(name, []).append(row)
    terms = _terms(protocol, table)
    return {
        dimension: {
            name: _scores(protocol, terms[members[dimension][name]])
            for name in ORDER.get(dimension, sorted(members[dimension]))
            if name in members[dimension]
        }
        for dimension in (KIND, CATEGORY, SIZE, LENGTH, WORDS)
        if dimension in members
    }


# An expression's terms are what its scores' numerators and denominators are sums of.
_N, _I, _U, _IOU, _JUDGED, _NONE, _NONE_FOUND, _SOME, _SOME_FOUND = range(9)


def _terms(protocol: Protocol, table: Table) -> NDArray[np.float64]:
    """[E, 9 + levels]; all 0 where the protocol leaves the expression out."""
    intersection, union, iou, says_none = table.of(protocol).T
    none, one = table.column("targetless"), np.ones(len(iou))
    judged = ~none if protocol.none_apart else one
    found = (none, none & (says_none > 0), ~none, ~none & (says_none == 0))
    above = [protocol.reaches(iou, level) * judged for level in protocol.levels]
    terms = np.stack([one, intersection, union, iou, judged, *found, *above], axis=1).astype(np.float64)
    if protocol.sentences == "first":
        terms *= table.column("first")[:, None]
    return terms


def _names(protocol: Protocol) -> list[str]:
    accuracies = ["N-acc", "T-acc"] if protocol.none_apart else []
    return ["oIoU", "mIoU", *map(precision_name, protocol.levels), *accuracies]


def _ratios(protocol: Protocol, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B, scores], in the order of ``_names``, of sums of terms [B, 9 + levels]."""
    total = sums.T
    pairs = [(total[_I], total[_U], protocol.empty), (total[_IOU], total[_N], 0.0)]
    pairs += [(above, total[_JUDGED], 0.0) for above in total[_SOME_FOUND + 1 :]]
    if protocol.none_apart:
        # ReLA's script prints 0 for both where no expression means nothing.
        some = total[_SOME] * (total[_NONE] > 0)
        pairs += [(total[_NONE_FOUND], total[_NONE], 0.0), (total[_SOME_FOUND], some, 0.0)]
    return np.stack([_divide(*pair) for pair in pairs], axis=1)


def _divide(over: NDArray[np.float64], under: NDArray[np.float64], otherwise: float) -> NDArray[np.float64]:
    return np.divide(over, under, out=np.full_like(over, otherwise), where=under > 0)


def _scores(protocol: Protocol, terms: NDArray[np.float64]) -> Scores:
    sums = terms.sum(axis=0, keepdims=True)
    ratios = _ratios(protocol, sums)[0].tolist()
    return {"expressions": int(sums[0, _N]), **dict(zip(_names(protocol), ratios, strict=True))}
