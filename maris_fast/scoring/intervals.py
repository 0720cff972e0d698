"""95% intervals of scores: how far they would move with other images of the same kind.

Every score is a ratio of sums over images, Σa / Σb: an image's expressions share one scene and few objects,
so an image is drawn with all of them or not at all. The percentile intervals of a plain bootstrap are too
narrow for few images, and have width 0 for one; ``docs/scoring.md`` has the coverage of the ones used here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95

FEW_IMAGES = 30
"""From this number on, 95% intervals were observed to contain the truth in about 95 of 100 cases."""

SEED = 0
_DRAWS_AT_ONCE = 100
_NOTHING = 1e-9
"""A standard error up to this is rounding alone: its square is a difference of sums with 16 digits."""

Interval = tuple[float, float]


class Ratio(NamedTuple):
    """Σ over / Σ under."""

    over: NDArray[np.float64]
    """[images]."""
    under: NDArray[np.float64]
    """[images]."""
    otherwise: float = 0.0
    """The value if Σ under is 0."""

    @property
    def value(self) -> float:
        under = float(self.under.sum())
        return float(self.over.sum()) / under if under > 0 else self.otherwise


class Difference(NamedTuple):
    """Difference of two ratios over the same images, the second minus the first."""

    first: Ratio
    second: Ratio


def studentised(of: Sequence[Ratio | Difference], resamples: int) -> list[Interval]:
    """Bootstrap over images: quantiles of (θ* - θ) / s*, times s, with s the linearised standard error.

    Second-order correct (Hall, Annals of Statistics 16, 1988), whereas percentiles are first-order. A ratio,
    which is skewed near 0 or 1, uses the quantiles of both tails; a difference has a symmetric interval, from
    the quantile of the absolute value or Student's, whichever is larger. The seed is fixed: the same images
    give the same intervals.

    Args:
        of: at least one, all over the same images, of which there are two or more.
        resamples: number of bootstrap resamples.
    """
    statistics = [_Statistic(one) for one in of]
    images = len(statistics[0].columns)
    drawn: list[list[NDArray[np.float64]]] = [[] for _ in of]
    for times in draws(images, resamples):
        for kept, statistic in zip(drawn, statistics, strict=True):
            kept.append(statistic.student(times))
    pairs = zip(statistics, (np.concatenate(one) for one in drawn), strict=True)
    return [statistic.interval(students) for statistic, students in pairs]


def draws(images: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """How often each image is drawn, [some, images] at a time; each resample draws ``images`` in all."""
    random = np.random.default_rng(SEED)
    for first in range(0, resamples, _DRAWS_AT_ONCE):
        some = min(_DRAWS_AT_ONCE, resamples - first)
        yield random.multinomial(images, np.full(images, 1 / images), size=some).astype(np.float64)


class _Statistic:
    """A ratio, or a difference of two, with the precomputed terms of its resamples.

    A ratio's numerator is centred, a - θ b, so that its sum over Σb is θ* - θ, without cancellation between
    large numbers.
    """

    def __init__(self, of: Ratio | Difference) -> None:
        ratios, self._signs = ([of], [1.0]) if isinstance(of, Ratio) else ([*of], [-1.0, 1.0])
        self._beyond = [one.otherwise - one.value for one in ratios]
        self._value = sum(sign * one.value for sign, one in zip(self._signs, ratios, strict=True))
        self._symmetric = isinstance(of, Difference)
        self._ends = (0.0, 1.0) if isinstance(of, Ratio) else (-1.0, 1.0)
        self.columns = np.stack(
            [column for one in ratios for column in (one.over - one.value * one.under, one.under)], axis=1
        ).astype(np.float64)
        self._products = np.einsum("ni,nj->nij", self.columns, self.columns).reshape(len(self.columns), -1)

    def student(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """(θ* - θ) / s* of resamples, [B]; infinite where s* is 0, as in draws of one image alone."""
        moved, error = self._moved(times)
        away = np.where(moved > _NOTHING, np.inf, np.where(moved < -_NOTHING, -np.inf, 0.0))
        return np.divide(moved, error, out=away, where=error > _NOTHING)

    def interval(self, students: NDArray[np.float64]) -> Interval:
        _, (error,) = self._moved(np.ones((1, len(self.columns))))
        if error <= _NOTHING:
            return self._value, self._value
        tail = 100 * (1 - LEVEL) / 2
        # Without interpolation between draws, which may be infinite.
        low, high = np.percentile(students, (tail, 100 - tail), method="inverted_cdf")
        if self._symmetric:
            both = np.percentile(np.abs(students), 100 * LEVEL, method="inverted_cdf")
            high = max(both, _student_quantile(len(self.columns) - 1))
            low = -high
        ends = np.clip((self._value - high * error, self._value - low * error), *self._ends)
        return float(ends[0]), float(ends[1])

    def _moved(self, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """θ* - θ and s*, [B] each."""
        images, width = self.columns.shape
        sums = times @ self.columns
        slopes, moved = np.zeros_like(sums), np.zeros(len(times))
        for place, (sign, beyond) in enumerate(zip(self._signs, self._beyond, strict=True)):
            over, under = sums[:, 2 * place], sums[:, 2 * place + 1]
            some = under > 0
            ratio = np.divide(over, under, out=np.full_like(over, beyond), where=some)
            slope = np.divide(sign, under, out=np.zeros_like(under), where=some)
            moved += sign * ratio
            slopes[:, 2 * place], slopes[:, 2 * place + 1] = slope, -slope * ratio
        moments = (times @ self._products).reshape(-1, width, width)
        variance = np.einsum("bi,bij,bj->b", slopes, moments, slopes) * images / (images - 1)
        return moved, np.sqrt(np.maximum(variance, 0.0))


def wilson(share: Ratio) -> Interval:
    """Wilson's score interval of a share of expressions, with an effective sample size.

    That size is the number of independent expressions that gives the share's linearised variance over images
    (Korn and Graubard, Survey Methodology 24, 1998), and Student's quantile replaces the normal one. If all
    images agree, it is the number of images, so that 30 of 30 does not count as certain.

    Args:
        share: each image's expressions that are counted, over those that could be; two images or more.
    """
    has = share.under > 0
    over, under = share.over[has], share.under[has]
    images, p = int(has.sum()), share.value
    error = _linearised_error(over, under, p)
    effective = images if error <= _NOTHING else min(p * (1 - p) / error**2, float(under.sum()))
    z = _student_quantile(images - 1)
    middle = (p + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(p * (1 - p) / effective + (z / (2 * effective)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def _linearised_error(over: NDArray[np.float64], under: NDArray[np.float64], ratio: float) -> float:
    images = len(over)
    return float(np.sqrt(images / (images - 1) * ((over - ratio * under) ** 2).sum()) / under.sum())


def _student_quantile(freedom: int) -> float:
    """Upper quantile of Student's t for a two-sided interval of ``LEVEL``."""
    from scipy.special import stdtrit  # takes half a second, which only intervals need

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
