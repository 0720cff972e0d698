"""What an evaluation costs besides its model: CPU time per expression on one thread.

    python -m maris_fast.bench.evaluation

A stub model answers at once, so what is timed is resizing, thresholding, ground truth and comparison. Images
are 640 x 480 on grids of 64 x 48 tokens, refs have about as many sentences as in RefCOCO's val split, and a
target is a polygon of 36 corners over an eighth of the image, like COCO's objects of the sizes in RefCOCO.
Prints one line of JSON with ms per expression and saves it: for each batch the minimum over the rounds, since
other work on the machine only adds time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maris_fast.bench.measuring import in_turn, load_told
from maris_fast.bench.results import BENCH, Row, Suite
from maris_fast.data_shards.stream import Batch
from maris_fast.geometry import ImageGeometry, to_original_size
from maris_fast.model.segmentation import Segmentation
from maris_fast.rle import Rle, draw_polygons
from maris_fast.sample import Sample
from maris_fast.scoring import MARIS, PROTOCOLS, Protocol
from maris_fast.system.devices import keep_freed_memory
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks
from maris_fast.train.split_scores import score_expressions

HEIGHT, WIDTH, IMAGE_SIZE = 480, 640, 1024
CORNERS, RADII = 36, (60, 160)
REFS = 9
SENTENCES = (3, 3, 3, 3, 3, 2)
"""Of successive refs; 2.83 on average."""
TWICE = 12
"""One ref in this many has pixels inside two polygons."""
CPU = torch.device("cpu")
GEOMETRY = ImageGeometry.of(HEIGHT, WIDTH, IMAGE_SIZE)


class Stub(nn.Module):
    """Returns the same logits [E, 4h, 4w] for any input."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self._answer = answer

    def forward(self, *_: object) -> Segmentation:
        return Segmentation(self._answer, None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=4, help="of 26 expressions")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=BENCH / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a rank does
    row = measured(options.batches, options.rounds)
    print(json.dumps(row))
    Suite.now("evaluation", environment(Ranks(CPU)), [row]).save(options.out)


def measured(batches: int, rounds: int) -> Row:
    """CPU time per expression: without resizing, which is timed alone, with it, and by all protocols."""
    seconds: Counter[str] = Counter()
    expressions = 0
    for seed in range(batches):
        batch, answer = batch_of(seed)
        expressions += batch.expressions
        ways = {
            "resized": partial(resize_alone, answer),
            "scored": partial(score, batch, answer, (MARIS,)),
            "by all": partial(score, batch, answer, tuple(PROTOCOLS.values())),
        }
        times, _ = in_turn({name: partial(cpu_seconds, way) for name, way in ways.items()}, rounds)
        seconds.update({name: min(of_way) for name, of_way in times.items()})
    ms = {name: 1e3 * of_way / expressions for name, of_way in seconds.items()}
    return {
        "ms_without_resize": round(ms["scored"] - ms["resized"], 3),
        "ms_with_resize": round(ms["scored"], 3),
        "ms_all_protocols": round(ms["by all"], 3),
        "expressions": expressions,
        "rounds": rounds,
        **load_told(),
    }


def score(batch: Batch, answer: Tensor, protocols: Sequence[Protocol]) -> None:
    score_expressions(Stub(answer), [batch], Ranks(CPU), protocols=protocols)


def resize_alone(answer: Tensor) -> None:
    """Resize one by one, so that each reuses the memory of the previous one."""
    for one in answer.split(1):
        to_original_size(one, GEOMETRY)


def cpu_seconds(function: Callable[[], object]) -> float:
    before = time.process_time()
    function()
    return time.process_time() - before


def batch_of(seed: int) -> tuple[Batch, Tensor]:
    """A batch of one image's expressions, and the logits [E, 4h, 4w] of a mediocre model for them."""
    random = np.random.default_rng(seed)
    samples, answers = [], []
    for ref_id in range(REFS):
        (target,) = draw_polygons([polygon(random)], HEIGHT, WIDTH)
        pixels = torch.from_numpy(target.decode()).float()[None, None]
        near = F.interpolate(pixels, GEOMETRY.mask_size, mode="area")[0]
        for sample in _samples(seed, ref_id, target, random):
            samples.append(sample)
            noise = torch.from_numpy(random.normal(0, 1, near.shape)).float()
            answers.append(4 * near - 2 + F.avg_pool2d(noise, 9, stride=1, padding=4) * 9)
    count = len(samples)
    nothing, one = torch.zeros(1, 1, 1, 1), torch.ones(count)
    batch = Batch(
        features=(nothing, nothing, nothing),
        words=torch.zeros(count, 1, 1),
        word_mask=torch.ones(count, 1, dtype=torch.bool),
        expr_offsets=torch.tensor([0, count], dtype=torch.int32),
        targets=torch.empty(0),
        weights=one,
        step_expressions=count,
        describe=lambda: tuple(samples),
    )
    return batch, torch.cat(answers)


def polygon(random: np.random.Generator) -> list[float]:
    """Coordinates x1, y1, x2, y2, ... of a star-shaped polygon around a random point of the image."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radii = random.uniform(*RADII, CORNERS)
    x = random.uniform(0.25, 0.75) * WIDTH + radii * np.cos(angles)
    y = random.uniform(0.25, 0.75) * HEIGHT + radii * np.sin(angles)
    corners: list[float] = np.stack([x, y], axis=1).ravel().tolist()
    return corners


def _samples(image_id: int, ref_id: int, target: Rle, random: np.random.Generator) -> Iterator[Sample]:
    overlap = Rle.empty(HEIGHT, WIDTH)
    if ref_id % TWICE == 0:
        overlap = Rle.encode(target.decode() & (random.random((HEIGHT, WIDTH)) < 0.001))
    for number in range(SENTENCES[ref_id % len(SENTENCES)]):
        yield Sample(
            image_id=image_id,
            ref_id=ref_id,
            sent_id=10 * ref_id + number,
            text="the second man to the left of the plate",
            target=target,
            geometry=GEOMETRY,
            category="person",
            first=number == 0,
            overlap=overlap,
        )


if __name__ == "__main__":
    main()
