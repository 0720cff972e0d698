"""An epoch's plan holds each expression once, in steps of one grid, whatever the world size."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maris_fast.data_shards.stream.step_order import (
    Group,
    Step,
    epoch_steps,
    evaluation_steps,
    padding_share,
    share,
    steps_per_epoch,
)

images = st.lists(
    st.tuples(st.sampled_from([(4, 8), (8, 4), (8, 8)]), st.integers(1, 12)), min_size=1, max_size=25
)
sizes = st.integers(1, 20)


def columns(data: list[tuple[tuple[int, int], int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([grid for grid, _ in data]), np.array([count for _, count in data])


def pairs(groups: tuple[Group, ...]) -> list[tuple[int, int]]:
    return [(group.image, expression) for group in groups for expression in group.expressions]


@settings(max_examples=60, deadline=None)
@given(images, sizes, st.integers(1, 6), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_has_every_expression_once_in_full_steps_of_one_grid(
    data: list[tuple[tuple[int, int], int]], per_step: int, per_image: int, seed: int, epoch: int
) -> None:
    grids, counts = columns(data)
    plan = {"expressions_per_step": per_step, "expressions_per_image": per_image}
    steps = epoch_steps(grids, counts, seed=seed, epoch=epoch, **plan)
    assert steps == epoch_steps(grids, counts, seed=seed, epoch=epoch, **plan)
    seen = Counter(pair for step in steps for pair in pairs(step.groups))
    assert seen == {(i, e): 1 for i, count in enumerate(counts) for e in range(count)}
    assert len(steps) == steps_per_epoch(grids, counts, expressions_per_step=per_step)
    short = Counter()
    for step in steps:
        (grid,) = {tuple(grids[group.image]) for group in step.groups}
        assert len({group.image for group in step.groups}) == len(step.groups)
        assert 0 < step.expressions <= per_step
        short[grid] += step.expressions < per_step
    assert max(short.values()) <= 1


@settings(max_examples=60, deadline=None)
@given(images, sizes, st.integers(1, 7))
def test_the_shares_of_all_ranks_are_the_step_in_equal_parts(
    data: list[tuple[tuple[int, int], int]], per_step: int, world: int
) -> None:
    grids, counts = columns(data)
    steps = epoch_steps(
        grids, counts, seed=0, epoch=0, expressions_per_step=per_step, expressions_per_image=4
    )
    for step in steps:
        shares = [share(step, rank, world) for rank in range(world)]
        real = [pair for part in shares if not part.padding for pair in pairs(part.groups)]
        assert real == pairs(step.groups)
        loads = [0 if part.padding else len(pairs(part.groups)) for part in shares]
        assert max(loads) - min(loads) <= 1
        assert all(len(pairs(part.groups)) == 1 for part in shares if part.padding)
        assert {part.step_expressions for part in shares} == {step.expressions}


@settings(max_examples=60, deadline=None)
@given(images, sizes, st.integers(1, 7), st.integers(0, 3))
def test_an_epochs_reads_are_the_groups_in_the_shares_of_all_ranks(
    data: list[tuple[tuple[int, int], int]], per_step: int, world: int, done: int
) -> None:
    grids, counts = columns(data)
    steps = epoch_steps(
        grids, counts, seed=0, epoch=0, expressions_per_step=per_step, expressions_per_image=4
    )[done:]
    shares = [share(step, rank, world) for step in steps for rank in range(world)]
    assert steps.reads(world) == sum(len(one.groups) for one in shares)


def test_a_step_has_at_most_k_expressions_of_an_image_while_others_are_left() -> None:
    counts = np.full(200, 10)
    grids = np.tile([8, 8], (200, 1))
    steps = epoch_steps(grids, counts, seed=1, epoch=0, expressions_per_step=32, expressions_per_image=4)
    largest = [max(map(len, step.groups)) for step in steps]
    assert sum(size > 4 for size in largest) <= 3


def test_a_grid_with_one_image_still_gives_full_steps() -> None:
    steps = epoch_steps(
        np.array([[8, 8]]), np.array([20]), seed=0, epoch=0, expressions_per_step=16, expressions_per_image=4
    )
    assert sorted(step.expressions for step in steps) == [4, 16]


def test_epochs_and_seeds_shuffle_differently() -> None:
    grids, counts = np.tile([8, 8], (50, 1)), np.full(50, 3)
    orders = [
        epoch_steps(grids, counts, seed=seed, epoch=epoch, expressions_per_step=16, expressions_per_image=2)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_steps_the_images_of_a_step_and_the_expressions_of_an_image_are_shuffled() -> None:
    grids, counts = np.repeat([[4, 8], [8, 8]], 40, axis=0), np.full(80, 9)
    steps = epoch_steps(grids, counts, seed=0, epoch=0, expressions_per_step=90, expressions_per_image=9)
    orders = [[tuple(grids[step.groups[0].image]) for step in steps]]
    orders += [[group.image for group in step.groups] for step in steps]
    orders += [[*group.expressions] for step in steps for group in step.groups]
    assert sorted(map(len, orders)) == [8] + 80 * [9] + 8 * [10]
    assert not [order for order in orders if order == sorted(order)]


@settings(max_examples=60, deadline=None)
@given(images, sizes)
def test_evaluation_keeps_image_groups_whole_and_has_each_once(
    data: list[tuple[tuple[int, int], int]], most: int
) -> None:
    grids, counts = columns(data)
    groups = [Group(i, tuple(range(count))) for i, count in enumerate(counts)]
    steps = evaluation_steps(grids, groups, max_expressions=most)
    assert sorted((g for step in steps for g in step.groups), key=lambda g: g.image) == groups
    for step in steps:
        assert len({tuple(grids[group.image]) for group in step.groups}) == 1
        assert step.expressions <= most or len(step.groups) == 1


def test_a_split_group_keeps_the_words_it_borrows() -> None:
    step = Step((Group(3, (0, 1, 2), words_of=(2, 2, 0)),))
    assert share(step, 0, 2).groups == (Group(3, (0,), words_of=(2,)),)
    assert share(step, 1, 2).groups == (Group(3, (1, 2), words_of=(2, 0)),)
    assert padding_share(step).groups == (Group(3, (0,), words_of=(2,)),)


def test_planning_an_epoch_of_refcocos_size_takes_seconds_at_most() -> None:
    images = 20_000
    random = np.random.default_rng(0)
    grids = random.choice([43, 48, 64], (images, 1)) * [1, 0] + [0, 64]
    start = time.monotonic()
    epoch_steps(
        grids,
        random.integers(1, 14, images),
        seed=0,
        epoch=0,
        expressions_per_step=64,
        expressions_per_image=8,
    )
    assert time.monotonic() - start < 10
