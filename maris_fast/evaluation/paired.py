"""Comparison of two files of scored expressions, for ``maris-fast compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD

from maris_fast.errors import InputError
from maris_fast.evaluation.expression_file import Scored, read_scored, shown, table_of
from maris_fast.scoring import MARIS
from maris_fast.scoring.intervals import LEVEL, SEED, Difference, studentised
from maris_fast.scoring.summary import ratios_of, sums_of_images, warnings
from maris_fast.system.terminal import Table


@dataclass(frozen=True)
class Comparison:
    """How the second file differs from the first."""

    scores: dict[str, dict[str, Any]]
    """By score: first, second, difference, interval (of the difference; omitted for a single image)."""
    expressions: int
    images: int
    better: int
    """Number of expressions with a higher IoU in the second file."""
    worse: int
    differing: list[tuple[Scored, Scored]]
    """The expressions that differ most, each as in the first and in the second file."""
    resamples: int

    def content(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "expressions": self.expressions,
            "images": self.images,
            "scores": self.scores,
            "better": self.better,
            "worse": self.worse,
            "warnings": warnings(self.images),
            "bootstrap": {"resamples": self.resamples, "over": "images", "level": LEVEL, "seed": SEED},
            "differing most": [
                {
                    **first.model_dump(include={"image_id", "image", "ref_id", "sent_id", "sentence"}),
                    "iou": [first.iou, second.iou],
                }
                for first, second in self.differing
            ],
        }


def compare(first: Path, second: Path, *, resamples: int, most: int) -> Comparison:
    """Differences of scores with 95% intervals, by a paired bootstrap over images.

    An image is resampled with the results of both models, so that difficulty common to both cancels.

    Args:
        most: maximum number of expressions to return, those that differ most.

    Raises:
        OSError: a file cannot be read.
        InputError: a file is not what ``eval`` writes, or the two are not about the same expressions.
    """
    scored = [read_scored(file) for file in (first, second)]
    _require_same(first, second, *scored)
    ratios = [ratios_of(MARIS, sums_of_images(table_of(one), MARIS)) for one in scored]
    images = len({one.image_id for one in scored[0]})
    names = list(ratios[0])
    differences = [Difference(ratios[0][name], ratios[1][name]) for name in names]
    found = studentised(differences, resamples) if images > 1 else [None] * len(names)
    scores = {}
    for name, difference, interval in zip(names, differences, found, strict=True):
        values = difference.first.value, difference.second.value
        scores[name] = {
            "first": values[0],
            "second": values[1],
            "difference": values[1] - values[0],
            **({"interval": list(interval)} if interval else {}),
        }
    pairs = list(zip(*scored, strict=True))
    moved = [b.iou - a.iou for a, b in pairs]
    order = sorted(range(len(pairs)), key=lambda place: (-abs(moved[place]), place))
    return Comparison(
        scores,
        len(pairs),
        images,
        better=sum(one > 0 for one in moved),
        worse=sum(one < 0 for one in moved),
        differing=[pairs[place] for place in order[:most] if moved[place]],
        resamples=resamples,
    )


def _require_same(first: Path, second: Path, of_first: list[Scored], of_second: list[Scored]) -> None:
    keys = [{one.key: one for one in scored} for scored in (of_first, of_second)]
    lacking = [sorted(keys[0].keys() - keys[1].keys()), sorted(keys[1].keys() - keys[0].keys())]
    lines = [
        f"  {len(of_it):,} of {len(keys[here]):,} in {(first, second)[here]} are not in "
        f"{(second, first)[here]}, the first: {shown(of_it[0])} ({keys[here][of_it[0]].sentence!r})"
        for here, of_it in enumerate(lacking)
        if of_it
    ]
    both = sorted(keys[0].keys() & keys[1].keys())
    other = [key for key in both if keys[0][key].sentence != keys[1][key].sentence]
    if other:
        said = " and ".join(repr(of_it[other[0]].sentence) for of_it in keys)
        lines.append(
            f"  {len(other):,} have other sentences under the same ids, the first: {shown(other[0])}: {said}"
        )
    if lines:
        raise InputError(
            "\n".join(["the two files do not hold the same expressions:", *lines])
            + "\nscore both models on the same split of the same data set"
        )


def tables(comparison: Comparison, names: Sequence[str]) -> list[Table]:
    """Scores side by side, and the expressions that differ most.

    Args:
        names: names of the two files, for the headings.
    """
    title = (
        f"{names[1]} less {names[0]}: {comparison.expressions:,} expressions, {comparison.images:,} images"
    )
    scores = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1))
    for column in ("score", "A", "B", "B - A", "95% from", "95% to"):
        scores.add_column(column, justify="left" if column == "score" else "right", no_wrap=True)
    for name, row in comparison.scores.items():
        ends = [f"{end:+.4f}" for end in row.get("interval", ())] or ["–", "–"]
        scores.add_row(
            name, f"{row['first']:.4f}", f"{row['second']:.4f}", f"{row['difference']:+.4f}", *ends
        )
    if not comparison.differing:
        return [scores]
    most = Table(title="the expressions that differ most, by IoU", box=SIMPLE_HEAD, padding=(0, 1))
    for column in ("A", "B", "B - A", "image_id", "sent_id"):
        most.add_column(column, justify="right", no_wrap=True)
    most.add_column("sentence", overflow="fold")
    for a, b in comparison.differing:
        numbers = (f"{a.iou:.3f}", f"{b.iou:.3f}", f"{b.iou - a.iou:+.3f}", str(a.image_id), str(a.sent_id))
        most.add_row(*numbers, a.sentence)
    return [scores, most]
