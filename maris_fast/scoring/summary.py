"""Scores from rows: of all expressions and of groups, with intervals over images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maris_fast.scoring.groups import CATEGORY, KIND, LENGTH, ORDER, SIZE, WORDS
from maris_fast.scoring.intervals import FEW_IMAGES, LEVEL, SEED, Ratio, studentised, wilson
from maris_fast.scoring.protocols import MARIS, Protocol, precision_name
from maris_fast.scoring.rows import ScoreTable

FEW = 30
"""Groups of fewer expressions are marked, as their scores say little."""

BOOTSTRAP = 1000
"""Default number of resamples in ``maris-fast eval``."""

MEANS = ("oIoU", "mIoU")
"""The scores that are not shares of expressions."""

ACCURACIES = ("N-acc", "T-acc")
"""Shares of the expressions without and with a target of which the model says so."""

Scores = dict[str, float]


def headline(table: ScoreTable) -> dict[str, Any]:
    """MARIS' own scores: {'expressions', 'oIoU', 'mIoU', 'Pr@50', ..., 'kinds': {kind: the same}}, 0 to 1."""
    if not table.facts:
        return {"expressions": 0, "kinds": {}}
    return {**_scores(MARIS, _terms(MARIS, table)), "kinds": _grouped(table, MARIS).get(KIND, {})}


def whole(table: ScoreTable, *, bootstrap: int = BOOTSTRAP) -> dict[str, Any]:
    """``headline`` plus 'intervals', 'breakdown' and, if there are others than MARIS', 'protocols'.

    Args:
        bootstrap: resamples of the images for the intervals; 0: no intervals.
    """
    scores = headline(table)
    if not table.facts:
        return scores
    scores["images"] = len(set(table.column("image_id")))
    if bootstrap > 0:
        scores["intervals"] = intervals(table, MARIS, bootstrap)
        scores["bootstrap"] = {"resamples": bootstrap, "over": "images", "level": LEVEL, "seed": SEED}
        scores["warnings"] = warnings(scores["images"])
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


def _under(table: ScoreTable, protocol: Protocol, ours: Scores, bootstrap: int) -> dict[str, Any]:
    """A protocol's scores, under the script's names ('prints') and under ours."""
    scores = _scores(protocol, _terms(protocol, table))
    under: dict[str, Any] = {
        "script": protocol.script,
        "prints": _printed(protocol, scores, targetless=bool(table.column("targetless").any())),
        **scores,
        "minus maris": {
            name: scores[name] - ours[name] for name in scores if name != "expressions" and name in ours
        },
    }
    if bootstrap > 0:
        under["intervals"] = intervals(table, protocol, bootstrap)
    return under


def _printed(protocol: Protocol, scores: Scores, *, targetless: bool) -> Scores:
    """The scores under the script's names; ReLA's prints both accuracies as 0 if nothing is targetless."""
    printed = {theirs: scores[name] for theirs, name in protocol.prints.items()}
    if protocol.none_apart and not targetless:
        printed |= {theirs: 0.0 for theirs, name in protocol.prints.items() if name in ACCURACIES}
    return printed


def intervals(table: ScoreTable, protocol: Protocol, resamples: int) -> dict[str, list[float]]:
    """95% intervals of a protocol's scores over images, from the module ``intervals``; none for one image.

    oIoU and mIoU by a studentised bootstrap, shares of expressions by Wilson's interval. A share whose
    expressions are all of one image gets none.
    """
    sums = sums_of_images(table, protocol)
    if len(sums) < 2:
        return {}
    ratios = ratios_of(protocol, sums)
    means = studentised([ratios[name] for name in MEANS], resamples)
    shares = {name: one for name, one in ratios.items() if name not in MEANS and (one.under > 0).sum() > 1}
    of_all = dict(zip(MEANS, means, strict=True)) | {name: wilson(one) for name, one in shares.items()}
    return {name: list(of_all[name]) for name in _names(protocol) if name in of_all}


def sums_of_images(table: ScoreTable, protocol: Protocol) -> NDArray[np.float64]:
    """[images, 9 + levels], in the order of image_id: sums over each image's expressions."""
    terms = _terms(protocol, table)
    _, image = np.unique(table.column("image_id"), return_inverse=True)
    sums = np.zeros((image.max() + 1, terms.shape[1]))
    np.add.at(sums, image, terms)
    return sums


def ratios_of(protocol: Protocol, sums: NDArray[np.float64]) -> dict[str, Ratio]:
    """The ratio of each score, by name; ``sums`` are per image, or of all images together."""
    pairs = zip(_names(protocol), _pairs(protocol, sums.T), strict=True)
    return {name: Ratio(*pair) for name, pair in pairs}


def warnings(images: int) -> list[str]:
    """Warnings about intervals over this number of images."""
    if images < 2:
        return ["all expressions are of one image: how a score varies between images is unknown"]
    if images < FEW_IMAGES:
        return [
            f"the intervals are of {images} images; below {FEW_IMAGES} they are rough, and may hold the "
            "truth in less than 95 of 100 cases"
        ]
    return []


def _grouped(table: ScoreTable, protocol: Protocol) -> dict[str, dict[str, Scores]]:
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


# Numerators and denominators of the scores are sums of the expressions' terms.
_N, _I, _U, _IOU, _JUDGED, _NONE, _NONE_FOUND, _SOME, _SOME_FOUND = range(9)


def _terms(protocol: Protocol, table: ScoreTable) -> NDArray[np.float64]:
    """[E, 9 + levels]; all 0 if the protocol skips the expression."""
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
    accuracies = ACCURACIES if protocol.none_apart else ()
    return [*MEANS, *map(precision_name, protocol.levels), *accuracies]


def _pairs(
    protocol: Protocol, total: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], float]]:
    """Numerator, denominator and value of 0 / 0, in the order of ``_names``, from terms [9 + levels, B]."""
    pairs = [(total[_I], total[_U], protocol.empty), (total[_IOU], total[_N], 0.0)]
    pairs += [(above, total[_JUDGED], 0.0) for above in total[_SOME_FOUND + 1 :]]
    if protocol.none_apart:
        pairs += [(total[_NONE_FOUND], total[_NONE], 0.0), (total[_SOME_FOUND], total[_SOME], 0.0)]
    return pairs


def _scores(protocol: Protocol, terms: NDArray[np.float64]) -> Scores:
    sums = terms.sum(axis=0, keepdims=True)
    ratios = {name: ratio.value for name, ratio in ratios_of(protocol, sums).items()}
    return {"expressions": int(sums[0, _N]), **ratios}
