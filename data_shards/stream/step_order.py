"""The content of each training step: a function of seed and epoch alone, known before any data is read.

The order consists of whole steps over all ranks, which are then divided among them, so that resuming needs
one integer and the world size may change in between.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """Some expressions of one image: its position in the split, and theirs in the image."""

    image: int
    expressions: tuple[int, ...]
    words_of: tuple[int, ...] | None = None
    """Expressions of the same image whose words are read instead; None: their own."""

    def __len__(self) -> int:
        return len(self.expressions)

    def part(self, start: int, stop: int) -> Group:
        words_of = None if self.words_of is None else self.words_of[start:stop]
        return replace(self, expressions=self.expressions[start:stop], words_of=words_of)


@dataclass(frozen=True)
class Step:
    """Image groups of one grid that form one optimiser step, or one evaluation batch."""

    groups: tuple[Group, ...]

    @property
    def expressions(self) -> int:
        return sum(map(len, self.groups))


class Epoch(Sequence[Step]):
    """The steps of an epoch as columns of numbers; a step is created on access.

    Attributes:
        images: [G], of each group; groups of a step are adjacent.
        group_offsets: [G + 1], into ``places``.
        places: [E], the groups' expressions by position in the image.
        step_offsets: [S + 1], into the groups.
        order: [S], the indices of these steps in the order in which they come.
    """

    def __init__(
        self,
        images: NDArray[np.int64],
        group_offsets: NDArray[np.int64],
        places: NDArray[np.int64],
        step_offsets: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> None:
        self.images, self.group_offsets, self.places = images, group_offsets, places
        self.step_offsets, self.order = step_offsets, order

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Epoch: ...
    def __getitem__(self, index: int | slice) -> Step | Epoch:
        if isinstance(index, slice):
            order = self.order[index]
            return Epoch(self.images, self.group_offsets, self.places, self.step_offsets, order)
        step = int(self.order[index])
        first, last = self.step_offsets[step : step + 2].tolist()
        ends = self.group_offsets[first : last + 1].tolist()
        places = self.places[ends[0] : ends[-1]].tolist()
        images = self.images[first:last].tolist()
        return Step(
            tuple(
                Group(image, tuple(places[start - ends[0] : stop - ends[0]]))
                for image, start, stop in zip(images, ends[:-1], ends[1:], strict=True)
            )
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Epoch) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def sums(self, of_images: NDArray[np.int64]) -> NDArray[np.int64]:
        """[S]: for each step, the sum over its images of a value per image."""
        if not len(self.order):
            return np.zeros(0, np.int64)
        sums: NDArray[np.int64] = np.add.reduceat(of_images[self.images], self.step_offsets[:-1])[self.order]
        return sums

    def reads(self, parts: int) -> int:
        """Number of images that all ``parts`` of all steps read, as ``share`` divides them: one per group."""
        ends = self.group_offsets[self.step_offsets]
        steps = np.sort(self.order)
        first, count = ends[steps], ends[steps + 1] - ends[steps]
        borders = first[:, None] + count[:, None] * np.arange(parts + 1) // parts  # [S, parts + 1]
        cut = np.setdiff1d(borders, self.group_offsets).size
        padding = int((np.diff(borders, axis=1) == 0).sum())
        return int(np.diff(self.step_offsets)[steps].sum()) + cut + padding


@dataclass(frozen=True)
class Share:
    """One rank's part of a step."""

    groups: tuple[Group, ...]
    step_expressions: int
    """Real expressions of the whole step over all ranks."""
    padding: bool = False
    """The rank has nothing to do; its one expression, of weight 0, is there for the collectives."""


def steps_per_epoch(
    grids: NDArray[np.integer], expressions: NDArray[np.integer], *, expressions_per_step: int
) -> int:
    """Number of steps of any epoch: a step has one grid, and only a grid's last step is short.

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
) -> Epoch:
    """All steps of an epoch, each expression in exactly one of them.

    An image's expressions are shuffled and cut into groups of at most ``expressions_per_image``; groups
    are shuffled within their grid, and steps over the epoch. An image occurs twice in a step only where
    its grid has nothing else left; its groups are then joined.

    Args:
        grids: [I, 2], tokens (h, w) of each image.
        expressions: [I], how many expressions each image has.
        seed: of the run.
        epoch: counted from 0.
        expressions_per_step: over all ranks; every step but a grid's last has exactly this many.
        expressions_per_image: K.
    """
    random = np.random.default_rng([seed, epoch])
    parts = []
    for bucket in _buckets(grids):
        counts = expressions[bucket]
        starts = np.cumsum(counts) - counts
        image_of = np.repeat(np.arange(len(bucket)), counts)
        within = np.arange(len(image_of)) - starts[image_of]
        # Sorted by image, then by a random key: each image's expressions, shuffled.
        places = within[np.argsort(image_of + random.random(len(image_of)), kind="stable")]
        firsts = np.flatnonzero(within % expressions_per_image == 0)
        ends = np.append(firsts[1:], len(places))
        order = random.permutation(len(firsts))
        images = bucket[image_of[firsts[order]]]
        pieces = _fill_steps(images, firsts[order], ends[order], expressions_per_step)
        parts.append(_columns(pieces, places))
    return _joined(parts, random)


def evaluation_steps(
    grids: NDArray[np.integer], groups: Sequence[Group], *, max_expressions: int
) -> list[Step]:
    """Batches in a fixed order, groups unsplit, of at most ``max_expressions`` unless one group has more.

    Args:
        grids: [I, 2], tokens (h, w) of each image.
        groups: at most one per image, in the order of the images.
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
    """A rank's part of a step; the parts of all ranks make up the step.

    Expressions are divided evenly, to within one; a group may be split between neighbours. A rank left
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
    """The smallest share that a rank with nothing to do can compute along with the others."""
    return Share((step.groups[0].part(0, 1),), step.expressions, padding=True)


def _buckets(grids: NDArray[np.integer]) -> list[NDArray[np.integer]]:
    """Images of each grid, in ascending order of grid, then image."""
    h, w = grids.astype(np.int64).T
    code = h << 32 | w
    order = np.argsort(code, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1) if len(order) else []


@dataclass(frozen=True)
class _Pieces:
    """Rows ``starts`` to ``stops`` of a bucket's shuffled places, in the order of the steps."""

    images: list[int]
    starts: list[int]
    stops: list[int]
    steps: list[int]
    """Number of pieces of each step; those of one image are adjacent."""


def _fill_steps(
    images: NDArray[np.integer], starts: NDArray[np.integer], stops: NDArray[np.integer], size: int
) -> _Pieces:
    """Full steps from groups in order; a group that does not fit is continued in the next step."""
    # Lists of numbers: hundreds of thousands of tuples would keep the garbage collector busy.
    image_of, start_of, stop_of = images.tolist(), starts.tolist(), stops.tolist()
    waiting = deque(range(len(image_of)))
    groups_left = Counter(image_of)
    filled = _Pieces([], [], [], [])
    while waiting:
        first = len(filled.images)
        taken: set[int] = set()
        postponed: list[int] = []  # of images that are in this step already
        room, fresh, twice = size, len(groups_left), False
        while room and (waiting or postponed):
            if not fresh:
                waiting.extendleft(reversed(postponed))
                postponed.clear()
            group = waiting.popleft()
            image = image_of[group]
            if image in taken:
                if fresh:
                    postponed.append(group)
                    continue
                twice = True
            else:
                fresh -= 1
                taken.add(image)
            start, stop = start_of[group], stop_of[group]
            cut = stop if stop - start <= room else start + room
            filled.images.append(image)
            filled.starts.append(start)
            filled.stops.append(cut)
            room -= cut - start
            if cut < stop:
                start_of[group] = cut
                waiting.appendleft(group)
            elif groups_left[image] == 1:
                del groups_left[image]
            else:
                groups_left[image] -= 1
        waiting.extendleft(reversed(postponed))
        filled.steps.append(len(filled.images) - first)
        if twice:
            _put_together(filled, first)
    return filled


def _put_together(pieces: _Pieces, first: int) -> None:
    """Move the pieces of each image, from position ``first`` on, next to the image's first piece."""
    order: dict[int, list[int]] = {}
    for place in range(first, len(pieces.images)):
        order.setdefault(pieces.images[place], []).append(place)
    places = list(chain.from_iterable(order.values()))
    for column in (pieces.images, pieces.starts, pieces.stops):
        column[first:] = [column[place] for place in places]


Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""For one bucket: image and size of each group, the groups' places, and groups per step."""


def _columns(pieces: _Pieces, places: NDArray[np.int64]) -> Columns:
    images, starts, stops = (
        np.array(column, np.int64) for column in (pieces.images, pieces.starts, pieces.stops)
    )
    lengths = stops - starts
    rows = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    steps = np.array(pieces.steps, np.int64)
    step_starts = np.cumsum(steps) - steps
    begins = np.ones(len(images), np.bool_)  # starts of groups: an image's pieces in one step
    begins[1:] = images[1:] != images[:-1]
    begins[step_starts] = True
    groups = np.flatnonzero(begins)
    sizes: NDArray[np.int64] = np.add.reduceat(lengths, groups)
    a_step: NDArray[np.int64] = np.add.reduceat(begins.astype(np.int64), step_starts)
    return images[groups], sizes, places[rows], a_step


def _joined(parts: Sequence[Columns], random: np.random.Generator) -> Epoch:
    """All buckets' steps, in random order."""
    images, sizes, places, groups = (np.concatenate([part[column] for part in parts]) for column in range(4))
    return Epoch(
        images,
        np.concatenate([[0], np.cumsum(sizes)]),
        places,
        np.concatenate([[0], np.cumsum(groups)]),
        random.permutation(len(groups)),
    )
