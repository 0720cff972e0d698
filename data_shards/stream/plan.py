"""What each training step sees: a function of seed and epoch alone, known before a byte is read.

The plan is made of whole steps over all ranks and then shared, so that resuming is one integer and the
world may grow or shrink in between.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """Some expressions of one image, by their places in the split and in the image."""

    image: int
    expressions: tuple[int, ...]
    words_of: tuple[int, ...] | None = None
    """Expressions of the same image whose words are read in their stead; None: their own."""

    def __len__(self) -> int:
        return len(self.expressions)

    def part(self, start: int, stop: int) -> Group:
        words_of = None if self.words_of is None else self.words_of[start:stop]
        return replace(self, expressions=self.expressions[start:stop], words_of=words_of)


@dataclass(frozen=True)
class Step:
    """Image groups of one grid that make one step of the optimiser, or one batch of an evaluation."""

    groups: tuple[Group, ...]

    @property
    def expressions(self) -> int:
        return sum(map(len, self.groups))


@dataclass(frozen=True)
class Share:
    """One rank's part of a step."""

    groups: tuple[Group, ...]
    step_expressions: int
    """Real expressions of the whole step over all ranks."""
    padding: bool = False
    """The rank had nothing to do; its one expression is there for the collectives and has weight 0."""


def steps_per_epoch(
    grids: NDArray[np.integer], expressions: NDArray[np.integer], *, expressions_per_step: int
) -> int:
    """Steps of any epoch: a step has one grid, and only a grid's last step is short.

    Args:
        grids: [I, 2], tokens (h, w) of each image.
        expressions: [I], how many expressions each image has.
        expressions_per_step: over all ranks.
    """
    return sum(-(-int(expressions[bucket].sum()) // expressions_per_step) for bucket in _buckets(grids))


def epoch_steps(
    grids: NDArray[np.integer],
    expressions: NDArray[np.integer],
    *,
    seed: int,
    epoch: int,
    expressions_per_step: int,
    expressions_per_image: int,
) -> list[Step]:
    """All steps of an epoch, each expression in exactly one of them.

    An image's expressions are shuffled and cut into groups of at most ``expressions_per_image``; groups
    are shuffled within their grid, and steps over the epoch. An image comes twice into a step only where
    its grid has nothing else left; its groups are then joined.

    Args:
        grids: [I, 2], tokens (h, w) of each image.
        expressions: [I], how many expressions each image has.
        seed: of the run.
        epoch: counted from 0.
        expressions_per_step: over all ranks; every step but a grid's last has exactly so many.
        expressions_per_image: K.
    """
    random = np.random.default_rng([seed, epoch])
    steps: list[Step] = []
    for bucket in _buckets(grids):
        groups = [
            Group(int(image), tuple(part))
            for image in bucket
            for part in _chunks(random.permutation(int(expressions[image])), expressions_per_image)
        ]
        shuffled = [groups[i] for i in random.permutation(len(groups))]
        steps.extend(_fill_steps(shuffled, expressions_per_step))
    return [steps[i] for i in random.permutation(len(steps))]


def evaluation_steps(
    grids: NDArray[np.integer], groups: Sequence[Group], *, max_expressions: int
) -> list[Step]:
    """Batches in a fixed order, image groups whole, of at most ``max_expressions`` unless one group has more.

    Args:
        grids: [I, 2], tokens (h, w) of each image.
        groups: at most one an image, in the order of the images.
    """
    group_of = {group.image: group for group in groups}
    steps: list[Step] = []
    for bucket in _buckets(grids):
        batch: list[Group] = []
        for group in (group_of[int(image)] for image in bucket if int(image) in group_of):
            if batch and sum(map(len, batch)) + len(group) > max_expressions:
                steps.append(Step(tuple(batch)))
                batch = []
            batch.append(group)
        if batch:
            steps.append(Step(tuple(batch)))
    return steps


def share(step: Step, rank: int, world: int) -> Share:
    """A rank's part of a step; the parts of all ranks are the step.

    Expressions are shared evenly, to within one; a group may be split between neighbours. A rank left
    without any gets the step's first expression as padding, so that it joins the collectives.
    """
    total = step.expressions
    start, stop = total * rank // world, total * (rank + 1) // world
    if start == stop:
        return padding_share(step)
    mine: list[Group] = []
    before = 0
    for group in step.groups:
        low, high = max(start - before, 0), min(stop - before, len(group))
        if low < high:
            mine.append(group.part(low, high))
        before += len(group)
    return Share(tuple(mine), total)


def padding_share(step: Step) -> Share:
    """The least that a rank with nothing to do can compute along with the others."""
    return Share((step.groups[0].part(0, 1),), step.expressions, padding=True)


def _buckets(grids: NDArray[np.integer]) -> list[NDArray[np.integer]]:
    """Images of each grid, in ascending order of grid, then image."""
    _, bucket = np.unique(grids, axis=0, return_inverse=True)
    bucket = bucket.reshape(-1)
    order = np.argsort(bucket, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1) if len(order) else []


def _chunks(values: NDArray[np.integer], size: int) -> Iterator[list[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size].tolist()


def _fill_steps(groups: Sequence[Group], size: int) -> Iterator[Step]:
    """Full steps from groups in order; a group that does not fit is continued in the next step."""
    waiting = deque(groups)
    groups_left = Counter(group.image for group in groups)
    while waiting:
        taken: dict[int, tuple[int, ...]] = {}
        postponed: list[Group] = []  # of images that are in this step already
        room, fresh = size, len(groups_left)
        while room and (waiting or postponed):
            if not fresh:
                waiting.extendleft(reversed(postponed))
                postponed.clear()
            group = waiting.popleft()
            if group.image in taken and fresh:
                postponed.append(group)
                continue
            fresh -= group.image not in taken
            now, later = group.part(0, room), group.part(room, len(group))
            taken[group.image] = taken.get(group.image, ()) + now.expressions
            room -= len(now)
            if later:
                waiting.appendleft(later)
            else:
                groups_left[group.image] -= 1
                if not groups_left[group.image]:
                    del groups_left[group.image]
        waiting.extendleft(reversed(postponed))
        yield Step(tuple(Group(image, expressions) for image, expressions in taken.items()))
