"""How often a 95% interval of a score contains the true one, over test sets of a population of known scores.

    python -m maris_fast.bench.interval_coverage

Images have one to twelve expressions about targets of COCO's sizes; those of an easy image are mostly hits,
with an IoU of about 0.85, and a miss often has no overlap at all. "ours" is what ``maris-fast eval`` and
``score`` print, "percentiles" a plain percentile bootstrap, "difference" what ``maris-fast compare`` prints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from maris_fast.bench.program import run_program
from maris_fast.bench.results import BENCH, Row, Suite
from maris_fast.scoring.intervals import Difference, Interval, Ratio, draws, studentised, wilson
from maris_fast.system.terminal import say
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

POPULATION = 400_000
TERMS = {"oIoU": (1, 2), "mIoU": (3, 0), "Pr@50": (4, 0), "Pr@90": (5, 0)}
"""Columns of ``population``: numerator and denominator."""
MODELS = {"a good model": 0.6, "a weak model": -1.2}
"""Mean easiness of an image."""
SIZES = (5, 10, 30, 100, 300)
"""Images of a test set."""


@lru_cache(maxsize=1)
def population(hits: float) -> NDArray[np.float64]:
    """[images, 2, 6]: Σ1, ΣI, ΣU, ΣIoU, and the numbers of IoUs above .5 and .9, per image for two models.

    ``hits`` is the mean easiness of an image (above 0, a hit is likely); the second model is slightly better.
    """
    random = np.random.default_rng(0)
    each = random.geometric(1 / 3, POPULATION).clip(1, 12)
    image = np.repeat(np.arange(POPULATION), each)
    number = len(image)
    easy = random.normal(hits, 1, POPULATION)[image] + random.normal(0, 0.8, number)
    target = np.minimum(0.85, np.exp(random.normal(np.log(0.09), 0.9, number)))  # share of the image
    of_models = []
    for better in (0.0, 0.15):
        hit = easy + better + random.normal(0, 0.6, number) > 0
        near = np.where(random.random(number) < 0.5, 0, random.beta(0.5, 4, number))
        iou = np.where(hit, random.beta(8, 1.5, number), near)
        union = target * np.where(hit, random.uniform(1, 1.2, number), random.uniform(1.2, 2.2, number))
        terms = (np.ones(number), iou * union, union, iou, iou > 0.5, iou > 0.9)
        of_models.append(
            np.stack([np.bincount(image, weights=term, minlength=POPULATION) for term in terms], axis=1)
        )
    return np.stack(of_models, axis=1)


def coverage(*, images: int, cases: int, resamples: int, hits: float) -> Iterator[Row]:
    """Yield a row for each way of computing intervals, over ``cases`` test sets of ``images`` images.

    ``held`` is the share of intervals that contain the population's score, ``width`` their mean width, both
    by score.
    """
    every = population(hits)
    truth = {name: [_ratio(every[:, model], name).value for model in (0, 1)] for name in TERMS}
    random = np.random.default_rng(1)
    held: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    width: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for _ in range(cases):
        drawn = every[random.integers(0, POPULATION, images)]
        for way, found in _intervals(drawn, resamples).items():
            for name, (low, high) in found.items():
                first, second = truth[name]
                held[way][name] += (low <= (second - first if way == "difference" else first) <= high) / cases
                width[way][name] += (high - low) / cases
    for way in held:
        yield {"images": images, "way": way, "held": dict(held[way]), "width": dict(width[way])}


def _ratio(sums: NDArray[np.float64], name: str) -> Ratio:
    over, under = TERMS[name]
    return Ratio(sums[:, over], sums[:, under])


def _intervals(drawn: NDArray[np.float64], resamples: int) -> dict[str, dict[str, Interval]]:
    one = {name: _ratio(drawn[:, 0], name) for name in TERMS}
    pairs = [Difference(one[name], _ratio(drawn[:, 1], name)) for name in TERMS]
    *means, a, b, c, d = studentised([one["oIoU"], one["mIoU"], *pairs], resamples)
    shares = {name: wilson(one[name]) for name in ("Pr@50", "Pr@90")}
    plain = np.concatenate([times @ drawn[:, 0] for times in draws(len(drawn), resamples)])
    percentiles = {}
    for name, (over, under) in TERMS.items():
        low, high = np.percentile(plain[:, over] / plain[:, under], (2.5, 97.5))
        percentiles[name] = float(low), float(high)
    return {
        "percentiles": percentiles,
        "ours": {**dict(zip(("oIoU", "mIoU"), means, strict=True)), **shares},
        "difference": dict(zip(TERMS, (a, b, c, d), strict=True)),
    }


def main(
    cases: Annotated[int, typer.Option(min=1, help="test sets of each size")] = 1000,
    resamples: Annotated[int, typer.Option(min=1, help="of the bootstrap")] = 1000,
    size: Annotated[
        list[int] | None, typer.Option(min=1, help="images of a test set; may be repeated; default: 5 to 300")
    ] = None,
    out: Annotated[Path, typer.Option(help="where <device>/interval_coverage.json goes")] = BENCH / "results",
) -> None:
    """Draw test sets and count coverage; ``maris-fast bench report`` draws the table."""
    rows: list[Row] = []
    for model, hits in MODELS.items():
        for images in size or SIZES:
            say(f"{model}, {images} images")
            found = coverage(images=images, cases=cases, resamples=resamples, hits=hits)
            rows += [{"model": model, "cases": cases, "resamples": resamples, **row} for row in found]
    made = Suite.now("interval_coverage", environment(Ranks(torch.device("cpu"))), rows)
    say(f"wrote {made.save(out)}")


if __name__ == "__main__":
    run_program(main)
