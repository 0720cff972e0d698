"""The one reader of a cache: batches for training and for evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maris_fast.data_shards.cache.features import dequantise
from maris_fast.data_shards.cache.manifest import ANNOTATION, LEVELS, MASKS, SCALES, WORDS, read_manifest
from maris_fast.data_shards.cache.masks import unpack_masks
from maris_fast.data_shards.records import Rle
from maris_fast.data_shards.stream.batch import Batch, Sample
from maris_fast.data_shards.stream.plan import (
    Group,
    Share,
    epoch_steps,
    evaluation_steps,
    padding_share,
    share,
    steps_per_epoch,
)
from maris_fast.data_shards.stream.prefetch import prefetch
from maris_fast.data_shards.stream.shards import GroupBytes, SplitShards, Verify
from maris_fast.errors import InputError


class CacheReader:
    """One split of a feature cache.

    Args:
        folder: what ``write_cache`` wrote.
        split: one of the cache's splits.
        verify: when checksums are compared: at an image's first reading, always, or never.

    Raises:
        InputError: no cache, no such split, or shards and indexes that do not belong together.
    """

    def __init__(self, folder: Path, split: str, *, verify: Verify = "first") -> None:
        self.folder = Path(folder)
        self.split = split
        self.manifest = read_manifest(self.folder)
        if split not in self.manifest.splits:
            raise InputError(
                f"no split {split!r} in the cache {folder}; it has {', '.join(sorted(self.manifest.splits))}"
            )
        if not self.manifest.splits[split].images:
            raise InputError(f"split {split!r} of the cache {folder} has no images")
        self._shards = SplitShards(self.folder, self.manifest, split, verify)
        self.index = self._shards.index

    @property
    def images(self) -> int:
        return self.index.images

    @property
    def expressions(self) -> int:
        return len(self.index.words)

    @property
    def channels(self) -> int:
        """C_v, of each level."""
        return self.manifest.channels

    @property
    def text_channels(self) -> int:
        """C'."""
        return self.manifest.text_channels

    @property
    def random(self) -> tuple[str, ...]:
        """Encoders that ran on random weights; empty for a real cache."""
        return self.manifest.random

    def close(self) -> None:
        self._shards.close()

    def __enter__(self) -> CacheReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps_per_epoch(self, expressions_per_step: int) -> int:
        """Steps of the optimiser in any epoch, at any world size."""
        return steps_per_epoch(
            self._grids, self._expression_counts, expressions_per_step=expressions_per_step
        )

    def batches(
        self,
        *,
        seed: int,
        epoch: int,
        expressions_per_step: int,
        expressions_per_image: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        first_step: int = 0,
        ahead: int = 2,
    ) -> Iterator[Batch]:
        """A rank's batches of one epoch, ``accumulation`` of them a step.

        The order is a function of seed and epoch; see ``plan.epoch_steps``. Every rank gets the same number
        of batches.

        Args:
            seed: of the run.
            epoch: counted from 0.
            expressions_per_step: over all ranks and accumulated batches.
            expressions_per_image: K, at most so many of an image's expressions in one step.
            rank, world: whose batches, of how many ranks.
            accumulation: batches a step on each rank.
            first_step: leave out the steps before this one, to resume within an epoch.
            ahead: batches read ahead in the background.

        Raises:
            InputError: a shard that cannot be read, when its batch is due.
        """
        steps = epoch_steps(
            self._grids,
            self._expression_counts,
            seed=seed,
            epoch=epoch,
            expressions_per_step=expressions_per_step,
            expressions_per_image=expressions_per_image,
        )
        shares = (
            share(step, part * world + rank, accumulation * world)
            for step in steps[first_step:]
            for part in range(accumulation)
        )
        return prefetch(map(self.read, shares), ahead)

    def evaluation_batches(
        self,
        *,
        rank: int = 0,
        world: int = 1,
        max_expressions: int = 64,
        swapped: bool = False,
        ahead: int = 2,
    ) -> Iterator[Batch]:
        """Every expression once, in a fixed order, image groups whole; batches go round the ranks.

        Every rank gets the same number of batches; the last may be padding with weight 0.

        Args:
            rank, world: whose batches, of how many ranks.
            max_expressions: of a batch, unless one image has more.
            swapped: exchange each expression's words for those of an expression of another object of the
                same image, leaving its target as it is. A model that reads the sentence must then fail.
                Expressions of images with one object only are left out: see ``swappable``.
            ahead: batches read ahead in the background.
        """
        groups = [group for image in range(self.images) if (group := self._whole(image, swapped))]
        steps = evaluation_steps(self._grids, groups, max_expressions=max_expressions)
        rounds = -(-len(steps) // world)
        shares = (
            share(steps[i], 0, 1) if i < len(steps) else padding_share(steps[0])
            for i in range(rank, rounds * world, world)
        )
        return prefetch(map(self.read, shares), ahead)

    def swappable(self) -> tuple[int, int]:
        """Expressions that ``evaluation_batches(swapped=True)`` gives, and those that it leaves out."""
        kept = sum(len(group) for i in range(self.images) if (group := self._whole(i, swapped=True)))
        return kept, self.expressions - kept

    def read(self, share: Share) -> Batch:
        """The batch of a share of a step; its groups have one grid.

        Raises:
            InputError: a shard that cannot be read or is not what was written.
        """
        grids = {self.index.geometry_of(group.image).grid for group in share.groups}
        if len(grids) != 1:
            raise ValueError(f"a batch has one grid, these groups have {sorted(grids)}")
        ((h, w),) = grids
        counts = [len(group) for group in share.groups]
        longest = max(self._word_counts(group).max() for group in share.groups)
        images, expressions = len(counts), sum(counts)
        features = [torch.empty(images, h, w, self.channels) for _ in LEVELS]
        words = torch.zeros(expressions, int(longest), self.text_channels)
        word_mask = torch.zeros(expressions, int(longest), dtype=torch.bool)
        targets = torch.empty(expressions, 4 * h, 4 * w, dtype=torch.bool)
        samples: list[Sample] = []
        for i, group in enumerate(share.groups):
            rows = slice(len(samples), len(samples) + len(group))
            stored = self._shards.read(group.image)
            self._read_features(stored, group, [level[i] for level in features])
            self._read_words(stored, group, words[rows], word_mask[rows])
            self._read_targets(stored, group, targets[rows])
            samples += self._samples(stored, group)
        first, second, third = features
        return Batch(
            features=(first, second, third),
            words=words,
            word_mask=word_mask,
            expr_offsets=torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32),
            targets=targets,
            weights=torch.full((expressions,), 0.0 if share.padding else 1.0),
            step_expressions=share.step_expressions,
            samples=tuple(samples),
        )

    @property
    def _grids(self) -> np.ndarray:
        return self.index.geometry[:, 4:6]

    @property
    def _expression_counts(self) -> np.ndarray:
        return np.diff(self.index.expression_offset)

    def _rows(self, image: int) -> slice:
        start, stop = self.index.expression_offset[image : image + 2].tolist()
        return slice(start, stop)

    def _word_counts(self, group: Group) -> np.ndarray:
        return self.index.words[self._rows(group.image)][list(group.words_of or group.expressions)]

    def _whole(self, image: int, swapped: bool) -> Group | None:
        """All of an image's expressions; swapped, each with the words of the next of another object."""
        objects = self.index.object[self._rows(image)].tolist()
        every = tuple(range(len(objects)))
        if not swapped:
            return Group(image, every)
        if len(set(objects)) == 1:
            return None
        return Group(image, every, words_of=tuple(_next_of_another(objects, place) for place in every))

    def _read_features(self, stored: GroupBytes, group: Group, out: list[Tensor]) -> None:
        geometry = self.index.geometry_of(group.image)
        quantised = self.manifest.feature_dtype == "int8"
        scales = stored.array(SCALES, np.float32, len(LEVELS), self.channels) if quantised else None
        for level, (name, into) in enumerate(zip(LEVELS, out, strict=True)):
            values = stored.array(name, np.int8 if quantised else np.float16, *geometry.grid, self.channels)
            dequantise(values, None if scales is None else scales[level], into)

    def _read_words(self, stored: GroupBytes, group: Group, words: Tensor, word_mask: Tensor) -> None:
        lengths = self.index.words[self._rows(group.image)]
        ends = np.cumsum(lengths).tolist()
        every = torch.from_numpy(stored.array(WORDS, np.float16, ends[-1], self.text_channels))
        for row, source in enumerate(group.words_of or group.expressions):
            length = int(lengths[source])
            words[row, :length] = every[ends[source] - length : ends[source]]
            word_mask[row, :length] = True

    def _read_targets(self, stored: GroupBytes, group: Group, targets: Tensor) -> None:
        height, width = self.index.geometry_of(group.image).mask_size
        count = int(self.index.targets[group.image])
        packed = stored.array(MASKS, np.uint8, count, height, -(-width // 8))
        wanted = self.index.target[self._rows(group.image)][list(group.expressions)]
        targets.copy_(torch.from_numpy(unpack_masks(packed[wanted], width)))

    def _samples(self, stored: GroupBytes, group: Group) -> Iterator[Sample]:
        annotation: dict[str, Any] = json.loads(stored.payloads[ANNOTATION].tobytes())
        record = annotation["record"]
        geometry = self.index.geometry_of(group.image)
        words_of = group.words_of or group.expressions
        for place, read in zip(group.expressions, words_of, strict=True):
            expression = record["expressions"][place]
            target = record["targets"][expression["target"]]
            yield Sample(
                image_id=record["image_id"],
                image=record["image"],
                ref_id=target["ref_id"],
                ann_id=target["ann_id"],
                sent_id=expression["sent_id"],
                text=record["expressions"][read]["text"],
                tokens=tuple(annotation["tokens"][read]),
                kind=expression["kind"],
                target=Rle(size=tuple(target["mask"]["size"]), counts=target["mask"]["counts"]),
                geometry=geometry,
            )


def _next_of_another(objects: list[int], start: int) -> int:
    """The first expression after ``start``, going round, that means another object."""
    places = [*range(start + 1, len(objects)), *range(start)]
    return next(place for place in places if objects[place] != objects[start])
