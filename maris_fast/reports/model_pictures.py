"""A report's pictures of the models: they require running them on a cache, so only the command draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from maris_fast.config import StoreAddress, cache_place
from maris_fast.data_shards.stream import CacheReader
from maris_fast.errors import ConfigError, MarisError
from maris_fast.evaluation.evaluate import require_same_encoders
from maris_fast.model import Maris
from maris_fast.reports.chosen_examples import ExamplesOfRuns, choose, examples_of, examples_of_runs
from maris_fast.reports.click_maps import AttentionOfRun, attention_of_run
from maris_fast.reports.run_data import RunData
from maris_fast.system.devices import kind_of
from maris_fast.train.ranks import Ranks
from maris_fast.weight_files import BEST
from maris_fast.weights import WeightsMeta, load_model

SIDE_BY_SIDE = 4
"""Most models in one sheet, as in Fig. 2."""
MOST_RUNS = 8
"""Most runs that are drawn; a page for an ablation's tens of runs would take long and be large."""
EXAMPLES, ATTENTION = 4, 2
"""Expressions per sheet, and per run whose attention is shown; with more than two runs, one per run."""


@dataclass(frozen=True)
class Drawing:
    """How to run the models.

    Attributes:
        caches: one for all runs, or one per run; empty: each run's own, ``data.cache``.
        images: how many of the validation split to use at most, from its first on.
        device: where they run.
    """

    caches: tuple[Path | StoreAddress, ...] = ()
    images: int = 64
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass
class ModelPictures:
    """Pictures ready for the page.

    Attributes:
        missing: runs whose model could not be run, and why.
        without_attention: runs whose model has no attention to show, and why.
        left_out: runs beyond ``MOST_RUNS``, which are not drawn.
    """

    attention: list[AttentionOfRun] = field(default_factory=list)
    examples: list[ExamplesOfRuns] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    without_attention: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Loaded:
    run: RunData
    model: Maris
    meta: WeightsMeta


def draw_models(runs: Sequence[RunData], drawing: Drawing) -> ModelPictures:
    """Attention of each run's best weights, and its masks beside those of runs on the same cache.

    Raises:
        ConfigError: the number of caches is neither one nor that of the runs.
    """
    drawn = ModelPictures(left_out=[run.name for run in runs[MOST_RUNS:]])
    ranks = Ranks(torch.device(kind_of(drawing.device)))
    groups: dict[tuple[Path | StoreAddress, str], list[_Loaded]] = {}
    for run, cache in list(zip(runs, _caches(runs, drawing.caches), strict=True))[:MOST_RUNS]:
        split = run.settings.get("data.val_split", "val")
        try:
            loaded = _Loaded(run, *load_model(run.folder / BEST, ranks.device))
        except MarisError as error:
            drawn.missing.append((run.name, str(error)))
        else:
            groups.setdefault((cache.resolve() if isinstance(cache, Path) else cache, split), []).append(
                loaded
            )
    explained = ATTENTION if len(runs) <= 2 else 1
    for (cache, split), members in groups.items():
        try:
            with CacheReader(cache, split, device=ranks.device) as reader:
                fitting = _of_this_cache(drawn, members, reader, cache)
                for start in range(0, len(fitting), SIDE_BY_SIDE):
                    some = fitting[start : start + SIDE_BY_SIDE]
                    _draw_side_by_side(drawn, some, reader, ranks, drawing.images, explained)
        except MarisError as error:
            drawn.missing += [(one.run.name, str(error)) for one in members]
    return drawn


def _draw_side_by_side(
    drawn: ModelPictures,
    members: list[_Loaded],
    reader: CacheReader,
    ranks: Ranks,
    images: int,
    explained: int,
) -> None:
    found = examples_of([one.model for one in members], reader, ranks, images=images)
    root = Path(reader.manifest.dataset.image_root)
    names = [one.run.name for one in members]
    drawn.examples.append(examples_of_runs(names, reader.split, len(found), choose(found, EXAMPLES), root))
    for place, name in enumerate(names):
        model = members[place].model
        try:
            drawn.attention.append(attention_of_run(name, model, reader, found[:explained], place, root))
        except ConfigError as error:
            drawn.without_attention.append((name, str(error)))


def _of_this_cache(
    drawn: ModelPictures, members: list[_Loaded], reader: CacheReader, cache: Path | StoreAddress
) -> list[_Loaded]:
    fitting = []
    for one in members:
        try:
            require_same_encoders(one.meta, reader.manifest.encoders, cache)
        except MarisError as error:
            drawn.missing.append((one.run.name, str(error)))
        else:
            fitting.append(one)
    return fitting


def _caches(runs: Sequence[RunData], given: Sequence[Path | StoreAddress]) -> list[Path | StoreAddress]:
    if not given:
        return [cache_place(run.settings["data.cache"]) for run in runs]
    if len(given) not in (1, len(runs)):
        raise ConfigError(
            f"`cache` is given {len(given)} times for {len(runs)} runs; give it once for all of them, or "
            "once a run"
        )
    return list(given) if len(given) == len(runs) else [given[0]] * len(runs)
