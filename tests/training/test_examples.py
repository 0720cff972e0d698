"""Which expressions a page shows as successes and failures, and what it says about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maris_fast.config import ModelSettings
from maris_fast.data_shards.stream import CacheReader
from maris_fast.geometry import ImageGeometry
from maris_fast.model import Maris
from maris_fast.pictures.overlays import PREDICTION, TRUTH
from maris_fast.reports.chosen_examples import Example, choose, examples_of, examples_sheet
from maris_fast.reports.click_maps import attention_of
from maris_fast.rle import Rle
from maris_fast.sample import Sample
from maris_fast.train.ranks import Ranks
from maris_fast.train.split_scores import score_split
from maris_fast.train.validation_pictures import order_of
from tests.data.cache_dataset import box

ALONE = Ranks(torch.device("cpu"))


def example(image_id: int, *ious: float) -> Example:
    mask = Rle.encode(box(20, 30, 5, 5, 15, 15))
    geometry = ImageGeometry.unresized(20, 30)
    sample = Sample(image_id, 1, 1, "it", mask, geometry, image=f"{image_id}.png")
    return Example(sample, (mask,) * len(ious), ious)


def ious(some: list[Example]) -> list[float]:
    return [one.ious[0] for one in some]


def test_best_worst_and_even_steps_are_chosen_by_the_first_model() -> None:
    every = [example(number, number / 10, 1 - number / 10) for number in (3, 9, 0, 6, 1, 8, 2, 5, 7, 4, 10)]
    chosen = choose(every, 3)
    assert ious(chosen.successes) == [1.0, 0.9, 0.8]
    assert ious(chosen.failures) == [0.0, 0.1, 0.2]
    assert ious(chosen.steps) == [0.0, 0.5, 1.0]
    assert choose(every[::-1], 3) == chosen


def test_equal_ious_are_decided_by_the_hash_and_not_by_the_order_of_reading() -> None:
    every = [example(number, 0.0) for number in range(20)]
    failures = choose(every, 4).failures
    assert [one.order for one in failures] == sorted(one.order for one in every)[:4]
    assert choose(every[::-1], 4).failures == failures


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_expressions_are_shown_once_as_success_or_as_failure(count: int) -> None:
    chosen = choose([example(number, number / 10) for number in range(count)], 4)
    assert len(chosen.successes) + len(chosen.failures) == len(chosen.steps) == count
    best, worst = ({one.sample.image_id for one in some} for some in (chosen.successes, chosen.failures))
    assert not best & worst


def models(reader: CacheReader) -> list[Maris]:
    settings = ModelSettings(channels=16, heads=2)
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(Maris(settings, reader.channels, reader.text_channels).eval())
    return made


def test_an_example_has_what_the_evaluation_saw_of_each_model(cache: Path) -> None:
    with CacheReader(cache, "train") as reader:
        made = models(reader)
        found = examples_of(made, reader, ALONE)
        for place, model in enumerate(made):
            seen = {}

            def see(sample, mask, seen=seen):  # type: ignore[no-untyped-def]
                seen[order_of(sample)] = (sample, mask.numpy())

            score_split(model, reader.evaluation_batches(), ALONE, see=see)
            for one in found:
                sample, mask = seen[one.order]
                assert sample == one.sample
                np.testing.assert_array_equal(one.predictions[place].decode(), mask)
                truth = sample.target.decode()
                assert one.ious[place] == pytest.approx((mask & truth).sum() / (mask | truth).sum())
            least = {
                image: min(o for o, (s, _) in seen.items() if s.image_id == image) for image in range(1, 6)
            }
            assert sorted(one.order for one in found) == sorted(least.values())
        assert found[0].predictions[0] != found[0].predictions[1]
        few = examples_of(made[:1], reader, ALONE, images=1)
        assert 1 <= len(few) < 5


def test_attention_of_a_cache_is_that_of_its_expressions(cache: Path) -> None:
    with CacheReader(cache, "train") as reader:
        model = models(reader)[0]
        every = attention_of(
            model,
            reader.evaluation_batches(max_expressions=3),
            {one.order for one in examples_of([model], reader, ALONE)},
        )
        (order,) = list(every)[-1:]
        (alone,) = attention_of(model, reader.evaluation_batches(), {order}).values()
    assert len(every) == 5
    for one in every.values():
        assert one.tokens[-1] == "<end>"
        assert "".join(one.tokens[:-1]) == one.text.replace(" ", "")
        assert one.blocks.shape == (2, *one.geometry.grid, len(one.tokens))
    assert {one.geometry.grid for one in every.values()} >= {(6, 8), (8, 6)}
    np.testing.assert_allclose(alone.blocks, every[order].blocks, atol=1e-5)


def test_a_sheet_has_image_truth_and_each_models_mask(tmp_path: Path) -> None:
    said: list[str] = []
    Image.new("RGB", (30, 20), (0, 0, 250)).save(tmp_path / "1.png")
    picture = examples_sheet([example(1, 1.0, 1.0), example(2, 1.0, 1.0)], ["a", "b"], tmp_path, said.append)
    assert len(said) == 1
    assert "2.png" in said[0]
    pixels = np.asarray(picture)
    columns = np.array_split(pixels, 4, axis=1)
    has = [[(part == colour).all(-1).any() for colour in (TRUTH, PREDICTION)] for part in columns]
    assert has == [[False, False], [True, False], [False, True], [False, True]]
