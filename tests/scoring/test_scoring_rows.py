"""From rows to scores, intervals and groups, on one rank or several."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy.special import stdtrit

from maris_fast import scoring
from maris_fast.bench.interval_coverage import MODELS, coverage
from maris_fast.scoring import MARIS, PROTOCOLS, Rows
from maris_fast.scoring.groups import LENGTH, SIZE, WORDS, groups_of
from maris_fast.scoring.intervals import Difference, Ratio, studentised
from maris_fast.scoring.protocols import RELA
from maris_fast.scoring.summary import FEW, intervals
from tests.scoring.cases import count_of, sample_of

MASKS = nps.arrays(bool, (6, 7))


def mask(*ones: int) -> np.ndarray:
    flat = np.zeros(20, dtype=bool)
    flat[list(ones)] = True
    return flat.reshape(4, 5)


def compared(rows: Rows, prediction: np.ndarray, truth: np.ndarray, **known: object) -> None:
    """Add masks that do not come from logits."""
    counts = [count_of(one, prediction, truth) for one in rows.protocols]
    rows.add_counts(counts, sample_of(truth, **known))


def test_scores_of_three_expressions_computed_by_hand() -> None:
    rows = Rows()
    compared(rows, mask(0, 1), mask(0, 1), kind="colour")
    compared(rows, mask(0, 1, 2), mask(1, 2, 3, 4), kind="shape")
    compared(rows, mask(), mask(7), kind="shape")
    summary = scoring.headline(rows.table())
    assert summary["expressions"] == 3
    assert summary["oIoU"] == pytest.approx((2 + 2 + 0) / (2 + 5 + 1))
    assert summary["mIoU"] == pytest.approx((1 + 0.4 + 0) / 3)
    assert summary["Pr@50"] == pytest.approx(1 / 3)
    assert summary["kinds"]["shape"]["oIoU"] == pytest.approx(2 / 6)
    assert summary["kinds"]["colour"]["Pr@90"] == 1.0
    assert list(summary) == [
        "expressions", "oIoU", "mIoU", "Pr@50", "Pr@60", "Pr@70", "Pr@80", "Pr@90", "kinds",
    ]  # fmt: skip


def test_precision_is_strictly_above_its_threshold() -> None:
    rows = Rows()
    compared(rows, mask(0), mask(0, 1))
    assert scoring.headline(rows.table())["Pr@50"] == 0.0


def test_no_expressions_is_said_and_not_divided_by() -> None:
    assert scoring.headline(Rows().table()) == {"expressions": 0, "kinds": {}}
    assert scoring.whole(Rows(PROTOCOLS.values()).table()) == {"expressions": 0, "kinds": {}}


@given(
    st.lists(st.tuples(MASKS, MASKS, st.sampled_from([None, "a", "b"])), min_size=1, max_size=8), st.data()
)
def test_any_split_over_ranks_gives_the_same_scores_to_the_last_bit(
    pairs: list[tuple[np.ndarray, np.ndarray, str | None]], data: st.DataObject
) -> None:
    protocols = tuple(PROTOCOLS.values())
    alone, ranks = Rows(protocols), [Rows(protocols) for _ in range(3)]
    for number, (prediction, truth, kind) in enumerate(pairs):
        known = {"image_id": number // 2, "sent_id": number, "kind": kind, "first": number % 2 == 0}
        compared(alone, prediction, truth, **known)
        compared(ranks[data.draw(st.integers(0, 2))], prediction, truth, **known)
    together = Rows(protocols)
    for rank in ranks:
        together.merge(rank.state())
    assert scoring.whole(together.table(), bootstrap=20) == scoring.whole(alone.table(), bootstrap=20)


def many(images: int, each: int, seed: int = 0) -> Rows:
    """Expressions that all have the same IoU within an image."""
    random, rows = np.random.default_rng(seed), Rows()
    for image_id in range(images):
        truth = np.arange(100)[None] < random.integers(20, 100)
        prediction = np.arange(100)[None] < random.integers(10, 100)
        for sent_id in range(each):
            compared(rows, prediction, truth, image_id=image_id, sent_id=sent_id)
    return rows


def test_intervals_are_those_of_images_drawn_again_one_by_one() -> None:
    """The studentised bootstrap by its definition, with an image's expressions drawn together."""
    table = many(images=7, each=2).table()
    of_maris, image = table.of(MARIS), table.column("image_id")

    def estimated(images: np.ndarray) -> list[tuple[float, float]]:
        """oIoU and mIoU with their standard errors."""
        parts = [of_maris[image == one] for one in images]
        i, u, iou, n = np.array([(p[:, 0].sum(), p[:, 1].sum(), p[:, 2].sum(), len(p)) for p in parts]).T
        of_both = []
        for over, under in ((i, u), (iou, n)):
            ratio = over.sum() / under.sum()
            left = over - ratio * under
            of_both.append((ratio, np.sqrt(7 / 6 * (left**2).sum()) / under.sum()))
        return of_both

    wanted = estimated(np.arange(7))
    random, students = np.random.default_rng(0), []
    for times in random.multinomial(7, np.full(7, 1 / 7), size=60):
        again = estimated(np.repeat(np.arange(7), times))
        students.append([(r - wanted[k][0]) / s if s > 1e-12 else 0.0 for k, (r, s) in enumerate(again)])
    ours = intervals(table, MARIS, 60)
    for k, name in enumerate(("oIoU", "mIoU")):
        low, high = np.percentile([one[k] for one in students], (2.5, 97.5), method="inverted_cdf")
        ratio, error = wanted[k]
        ends = [max(0.0, ratio - high * error), min(1.0, ratio - low * error)]
        assert ours[name] == pytest.approx(ends, rel=1e-9)


@pytest.mark.parametrize(("images", "empty", "wider"), [(7, 5, True), (60, 0, False)])
def test_a_differences_interval_is_that_of_images_drawn_again_one_by_one(
    images: int, empty: int, wider: bool
) -> None:
    """By definition as well. Where half of the images or more are ``empty``, some resamples have no union.

    ``wider``: whether the quantile of the resamples is larger than Student's, which is the least.
    """
    random = np.random.default_rng(1)
    under = random.integers(20, 100, (2, images)).astype(float)
    under[0, :empty] = 0
    over = under * random.uniform(0.85, 0.95, (2, images))
    ratios = [Ratio(*one, otherwise=1.0) for one in zip(over, under, strict=True)]

    def estimated(drawn: np.ndarray) -> tuple[float, float]:
        """The difference and its standard error."""
        values, left = [], []
        for ratio in ratios:
            over, under = ratio.over[drawn], ratio.under[drawn]
            values.append(over.sum() / under.sum() if under.sum() else 1.0)
            left.append((over - values[-1] * under) / (under.sum() or 1.0))
        return values[1] - values[0], np.sqrt(images / (images - 1) * ((left[1] - left[0]) ** 2).sum())

    difference, error = estimated(np.arange(images))
    students = []
    for times in np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=60):
        again, its_error = estimated(np.repeat(np.arange(images), times))
        students.append((again - difference) / its_error)
    quantile = np.percentile(np.abs(students), 95, method="inverted_cdf")
    least = stdtrit(images - 1, 0.975)
    assert (quantile > least) == wider
    half = max(quantile, least) * error
    assert abs(difference) + half < 1  # not cut
    (found,) = studentised([Difference(*ratios)], 60)
    assert found == pytest.approx((difference - half, difference + half), rel=1e-9)


def test_a_shares_interval_is_wilsons_where_expressions_are_independent() -> None:
    rows = Rows()
    for image_id in range(40):
        compared(rows, mask(0), mask(0) if image_id < 30 else mask(1), image_id=image_id)
    low, high = intervals(rows.table(), MARIS, 10)["Pr@50"]
    # 30 of 40; the variance over images has 39 degrees of freedom, so n is 39 and z Student's 2.0227.
    n, z, p = 39, 2.0227, 0.75
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-5)


def test_a_share_counts_no_more_expressions_than_there_are() -> None:
    """Images that agree better than independent expressions would are not evidence of more of them."""
    rows = Rows()
    for image_id in range(20):
        for sent_id in range(2):
            hit = sent_id == 0 or image_id == 0
            compared(rows, mask(0), mask(0) if hit else mask(1), image_id=image_id, sent_id=sent_id)
    # 21 of 40 expressions, of 20 images: Student's quantile is 2.0930.
    n, z, p = 40, 2.0930, 21 / 40
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    found = intervals(rows.table(), MARIS, 10)["Pr@50"]
    assert found == pytest.approx([middle - half, middle + half], abs=1e-5)


def test_a_shares_interval_is_over_the_images_that_have_such_expressions() -> None:
    rows = Rows([MARIS, RELA])
    for image_id in range(50):
        truth = mask(0) if image_id < 40 else mask()
        compared(rows, truth, truth, image_id=image_id)
    low, high = intervals(rows.table(), RELA, 10)["N-acc"]
    # Wilson's of 10 of 10 images without a target; Student's quantile is 2.2622.
    assert (low, high) == pytest.approx((10 / (10 + 2.2622**2), 1), abs=1e-4)


def test_thirty_of_thirty_images_still_have_an_interval() -> None:
    rows = Rows()
    for image_id in range(30):
        compared(rows, mask(0), mask(0), image_id=image_id)
    found = intervals(rows.table(), MARIS, 10)
    # Wilson's lower end of 30 of 30: n / (n + z²), z = 2.0452.
    assert found["Pr@90"] == pytest.approx([30 / (30 + 2.0452**2), 1], abs=1e-4)


def test_one_image_has_no_interval_and_few_are_said_to_be_few() -> None:
    one = scoring.whole(many(images=1, each=5).table(), bootstrap=50)
    assert one["intervals"] == {}
    (said,) = one["warnings"]
    assert "of one image" in said
    (said,) = scoring.whole(many(images=29, each=1).table(), bootstrap=50)["warnings"]
    assert "29 images" in said
    assert scoring.whole(many(images=30, each=1).table(), bootstrap=50)["warnings"] == []


@pytest.mark.slow
def test_intervals_of_thirty_images_hold_the_truth_in_nineteen_of_twenty_cases() -> None:
    """Those of a percentile bootstrap contain it in 92 of 100; docs/scoring.md has the whole table."""
    rows = coverage(images=30, cases=400, resamples=400, hits=MODELS["a good model"])
    found = {row["way"]: row["held"] for row in rows}
    for name in ("oIoU", "mIoU", "Pr@50", "Pr@90"):
        # Over 400 cases, the standard deviation of a share of 95% is 1.1%.
        for way in ("ours", "difference"):
            assert found[way][name] == pytest.approx(0.95, abs=0.033), (way, name)
    assert found["percentiles"]["mIoU"] < found["ours"]["mIoU"]


def test_an_interval_is_as_wide_as_its_standard_error_says() -> None:
    table = many(images=400, each=3).table()
    ious = table.of(MARIS)[::3, 2]
    low, high = intervals(table, MARIS, 2000)["mIoU"]
    # Three sentences of one image are one observation, not three.
    assert high - low == pytest.approx(2 * 1.96 * ious.std() / np.sqrt(400), rel=0.1)
    assert low < ious.mean() < high


def test_images_that_are_all_alike_leave_no_doubt() -> None:
    rows = Rows()
    for image_id in range(9):
        compared(rows, mask(0, 1), mask(0, 1, 2, 3), image_id=image_id)
    assert intervals(rows.table(), MARIS, 50)["oIoU"] == [0.5, 0.5]


def test_without_resamples_there_are_no_intervals() -> None:
    assert "intervals" not in scoring.whole(many(3, 1).table(), bootstrap=0)
    assert scoring.whole(many(3, 1).table(), bootstrap=5)["bootstrap"]["resamples"] == 5


def test_an_expression_is_grouped_by_its_words_length_and_targets_size() -> None:
    groups = groups_of("The 2nd red Cup, left of the plate", "cup", None, 32 * 32)
    assert [name for dimension, name in groups if dimension == WORDS] == [
        "colour",
        "left",
        "ordinal",
        "relation",
    ]
    assert dict(groups)[SIZE] == "medium"
    assert dict(groups)[LENGTH] == "6-10"
    assert dict(groups_of("leftovers", "", None, 0)) == {
        "category": "none", "size": "none", "length": "1-2", "words": "none of these",
    }  # fmt: skip
    sizes = [dict(groups_of("it", "", None, area))[SIZE] for area in (1023, 1024, 9215, 9216)]
    assert sizes == ["small", "medium", "medium", "large"]


def test_a_breakdowns_groups_add_up_in_a_fixed_order_and_small_ones_are_marked() -> None:
    rows = Rows()
    for number in range(FEW):
        compared(rows, mask(0), mask(0), category="cat", text="the cat", sent_id=number)
    compared(rows, mask(1), mask(0), category="dog", text="a dog that is not in the bottom left at all I say")
    breakdown = scoring.whole(rows.table(), bootstrap=0)["breakdown"]
    assert breakdown["category"]["cat"]["few"] is False
    assert breakdown["category"]["dog"]["few"] is True
    assert breakdown["category"]["dog"]["oIoU"] == 0
    assert breakdown["category"]["cat"]["oIoU"] == 1
    assert list(breakdown["length"]) == ["1-2", "11 or more"]
    assert list(breakdown["words"]) == ["left", "bottom", "relation", "negation", "none of these"]
    for dimension in ("category", "size", "length"):
        assert sum(row["expressions"] for row in breakdown[dimension].values()) == FEW + 1
