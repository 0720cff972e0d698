"""Batched scoring on the model's device against plain scoring of single expressions on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from maris_fast.data_shards.stream import Batch
from maris_fast.geometry import ImageGeometry, bilinear
from maris_fast.model.segmentation import Segmentation
from maris_fast.rle import Rle
from maris_fast.sample import Sample
from maris_fast.scoring import PROTOCOLS, comparing
from maris_fast.scoring.canvas import cubic
from maris_fast.train.ranks import Ranks
from maris_fast.train.split_scores import score_expressions
from tests.scoring.cases import coded

CPU = Ranks(torch.device("cpu"))
ONE_GRID = [ImageGeometry.of(*size, 64) for size in ((60, 80), (47, 64), (33, 44), (90, 120), (44, 60))]


class Rules(NamedTuple):
    """A protocol's row of the table in docs/scoring.md."""

    canvas: str
    threshold: float
    twice: bool
    added: tuple[float, float]
    empty: float


RULES = {
    "maris": Rules("own", 0, True, (0, 0), 1),
    "lavt": Rules("square", 0, False, (0, 0), 0),
    "cris": Rules("warped", 0.35, True, (0, 1e-6), 0),
    "cris-val": Rules("warped", 0.35, True, (0, 1e-6), 0),
    "rela": Rules("square", 0, True, (0, 0), 0),
    "lisa": Rules("own", 0, False, (0, 1e-5), 1),
    "vlt": Rules("letterboxed", 0.35, True, (1e-10, 1e-10), 1),
    "phrasecut": Rules("own", 0, True, (0, 0), 0),
}


def resized(values: Tensor, g: ImageGeometry, *sizes: tuple[int, int]) -> Tensor:
    values = F.interpolate(values[None, None], (16 * g.h, 16 * g.w), mode="bilinear")
    values = values[..., : g.h_px, : g.w_px]
    for size in sizes:
        values = F.interpolate(values, size, mode="bilinear")
    return values[0, 0]


def warped(p: Tensor, g: ImageGeometry) -> Tensor:
    """Probabilities warped to CRIS' letterbox of 416 x 416 and back to the original size."""
    scale = min(416 / g.height, 416 / g.width)
    sides = []
    for own, px, logits in ((g.height, g.h_px, p.shape[0]), (g.width, g.w_px, p.shape[1])):
        margin = (416 - own * scale) / 2
        place = (torch.arange(416, dtype=torch.float64) - margin) / scale
        inside = (place >= -0.5) & (place <= own - 0.5)
        there = cubic((place + 0.5) * px / own / 4 - 0.5, logits, beyond="edge")
        back = cubic(torch.arange(own, dtype=torch.float64) * scale + margin, 416, beyond="zero")
        sides.append((back @ (there * inside[:, None])).float())
    return sides[0] @ p @ sides[1].T


def on_canvas(canvas: str, logits: Tensor, g: ImageGeometry) -> Tensor:
    own = g.height, g.width
    if canvas == "own":
        return resized(logits, g, own)
    if canvas == "square":
        return resized(logits, g, (480, 480))
    if canvas == "warped":
        return warped(logits.sigmoid(), g)
    scale = min(416 / n for n in own)
    return resized(logits.sigmoid(), g, (int(own[0] * scale), int(own[1] * scale)), own)


def decoded(mask: Rle) -> np.ndarray:
    pixels: np.ndarray = coco_mask.decode({"size": list(mask.size), "counts": mask.counts.encode()})
    return pixels > 0


def plain(name: str, logits: Tensor, sample: Sample, none: bool | None) -> list[float]:
    """Intersection, union, IoU and whether "no target" is predicted, of one expression."""
    rules = RULES[name]
    truth = decoded(sample.target)
    if not rules.twice and sample.overlap is not None:
        truth = truth & ~decoded(sample.overlap)
    if rules.canvas == "square":
        image = Image.fromarray(truth.astype(np.uint8))
        truth = np.asarray(image.resize((480, 480), Image.Resampling.NEAREST)) > 0
    values = on_canvas(rules.canvas, logits, sample.geometry)
    predicted = coded((values > rules.threshold).numpy())
    says_none = coco_mask.area(predicted) == 0 if none is None else none
    if none and name != "rela":
        predicted = coded(np.zeros_like(truth))
    both = [predicted, coded(truth)]
    intersection = int(coco_mask.area(coco_mask.merge(both, intersect=True)))
    union = int(coco_mask.area(coco_mask.merge(both)))
    if name == "rela" and not decoded(sample.target).any():
        return [0, 0 if says_none else union, float(says_none), says_none]
    if name == "rela" and says_none:
        intersection = 0
    iou = (intersection + rules.added[0]) / (union + rules.added[1]) if union else rules.empty
    return [intersection, union, iou, says_none]


class Answers(nn.Module):
    """A model that returns the next of the given answers at each call."""

    def __init__(self, said: Sequence[Segmentation]) -> None:
        super().__init__()
        self._said = iter(said)

    def forward(self, *_: object) -> Segmentation:
        return next(self._said)


def batch_of(samples: Sequence[Sample], *, padding: bool = False) -> Batch:
    count, nothing = len(samples), torch.empty(0)
    given = (nothing, nothing, nothing)
    weights = torch.zeros(count) if padding else torch.ones(count)
    return Batch(
        given, nothing, nothing, nothing, nothing, weights, count, lambda: tuple(samples), padding=padding
    )


def blobs(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A mask that is empty, full, a single pixel, or islands."""
    kind = random.integers(8)
    if kind < 2:
        return np.full(size, kind > 0)
    if kind == 2:
        return np.pad(np.ones((1, 1), bool), ((0, size[0] - 1), (0, size[1] - 1)))
    coarse = torch.from_numpy(random.normal(0.3 * kind - 2, 1, (5, 6)))
    smooth = F.interpolate(coarse[None, None], size, mode="bicubic")
    return np.asarray(smooth[0, 0] > 0)


def drawn_ref(random: np.random.Generator, ref_id: int, geometry: ImageGeometry) -> list[Sample]:
    size = geometry.height, geometry.width
    truth = blobs(random, size)
    overlap = [None, Rle.empty(*size), Rle.encode(truth & blobs(random, size))][random.integers(3)]
    known = {"geometry": geometry, "target": Rle.encode(truth), "overlap": overlap, "text": "it"}
    return [Sample(ref_id // 2, ref_id, 9 * ref_id + n, **known) for n in range(random.integers(1, 4))]


def drawn_batch(
    random: np.random.Generator, first: int, geometries: Sequence[ImageGeometry], refs: int
) -> tuple[list[Sample], Segmentation]:
    samples = [
        sample
        for ref_id in range(first, first + refs)
        for sample in drawn_ref(random, ref_id, geometries[random.integers(len(geometries))])
    ]
    size = geometries[0].mask_size
    coarse = torch.from_numpy(random.normal(0, 1, (len(samples), 1, 5, 5))).float()
    logits = F.interpolate(coarse, size, mode="bicubic")[:, 0] * 3 - float(random.normal())
    logits += 0.1 * torch.from_numpy(random.normal(0, 1, logits.shape)).float()
    says = torch.from_numpy(random.normal(0, 1, len(samples))).float() if random.integers(2) else None
    return samples, Segmentation(logits, says)


@contextmanager
def room_for(expressions: int, geometry: ImageGeometry) -> Iterator[None]:
    """Let a CPU resize ``expressions`` together."""
    with pytest.MonkeyPatch.context() as patch:
        pixels = 256 * geometry.h * geometry.w + geometry.height * geometry.width
        patch.setitem(comparing.ROOM, "cpu", 4 * pixels * expressions)
        yield


def require_equal(drawn: Sequence[tuple[list[Sample], Segmentation]]) -> None:
    """Require that each protocol's numbers, and the masks passed to ``see``, equal the plain ones bitwise."""
    seen: dict[int, Tensor] = {}
    table = score_expressions(
        Answers([said for _, said in drawn]),
        [batch_of(samples) for samples, _ in drawn],
        CPU,
        protocols=tuple(PROTOCOLS.values()),
        see=lambda sample, mask: seen.update({sample.sent_id: mask}),
    )
    every = sorted(
        (sample.key, sample, logits, None if said.no_target is None else bool(said.no_target[place] > 0))
        for samples, said in drawn
        for place, (sample, logits) in enumerate(zip(samples, said.logits, strict=True))
    )
    assert [facts[:3] for facts in table.facts] == [key for key, *_ in every]
    for protocol in table.protocols:
        wanted = [plain(protocol.name, logits, sample, none) for _, sample, logits, none in every]
        assert table.of(protocol).tolist() == wanted, protocol.name
    for _, sample, logits, none in every:
        mask = on_canvas("own", logits, sample.geometry) > 0
        assert torch.equal(seen[sample.sent_id], mask & (not none))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 5, 99]), st.integers(1, 3))
def test_batches_give_every_protocol_the_numbers_of_expressions_alone(
    seed: int, together: int, batches: int
) -> None:
    assert len({geometry.mask_size for geometry in ONE_GRID}) == 1
    random = np.random.default_rng(seed)
    drawn = [drawn_batch(random, 10 * number, ONE_GRID, refs=4) for number in range(batches)]
    with room_for(together, ONE_GRID[0]):
        require_equal(drawn)


def test_batches_of_real_images_give_the_numbers_of_expressions_alone() -> None:
    geometries = [ImageGeometry.of(480, 640, 1024), ImageGeometry.of(478, 640, 1024)]
    drawn = [drawn_batch(np.random.default_rng(2), 0, geometries, refs=3)]
    for together in (1, 9):
        with room_for(together, geometries[0]):
            require_equal(drawn)


SIDES = st.integers(1, 150)


@settings(deadline=None)
@given(st.integers(2, 5), SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_an_expression_is_resized_the_same_in_any_company(
    count: int, height: int, width: int, to_height: int, to_width: int, cropped: bool
) -> None:
    values = torch.randn(count, height + cropped, width + cropped)[:, :height, :width]
    whole = bilinear(values, (to_height, to_width))
    for one, alone in zip(whole, values, strict=True):
        assert torch.equal(one, bilinear(alone[None], (to_height, to_width))[0])


@settings(deadline=None)
@given(st.integers(1, 1100), st.integers(1, 1100), st.integers(0, 9))
def test_the_squares_truth_is_pillows_own(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    theirs = Image.fromarray(mask.astype(np.uint8)).resize((480, 480), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(PROTOCOLS["lavt"].canvas.truth(mask), np.asarray(theirs) > 0)


def test_a_refs_mask_is_decoded_once_for_all_its_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, asked = Rle.decode, []

    def counted(mask: Rle) -> np.ndarray:
        asked.append(mask)
        return decode(mask)

    monkeypatch.setattr(Rle, "decode", counted)
    random = np.random.default_rng(0)
    samples, said = drawn_batch(random, 0, ONE_GRID, refs=9)
    with room_for(1, ONE_GRID[0]):
        score_expressions(Answers([said]), [batch_of(samples)], CPU, protocols=tuple(PROTOCOLS.values()))
    refs = {sample.ref_id: sample for sample in samples}.values()
    overlaps = [one for one in refs if one.overlap is not None and one.overlap.area]
    assert len(samples) > len(refs)
    assert len(asked) == len(refs) + len(overlaps)


def test_padding_is_neither_answered_nor_scored() -> None:
    samples, said = drawn_batch(np.random.default_rng(0), 0, ONE_GRID, refs=2)
    batches = [batch_of(samples[:1], padding=True), batch_of(samples)]
    assert len(score_expressions(Answers([said]), batches, CPU).facts) == len(samples)
