"""Scores of weights on a split of a cache, by all ranks together."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from maris_fast import scoring
from maris_fast.config import EngineSettings, StoreAddress, cache_place
from maris_fast.data_shards.cache import read_manifest
from maris_fast.data_shards.stream import CacheReader
from maris_fast.encoders.provenance import EncodersProvenance
from maris_fast.errors import CheckpointError
from maris_fast.evaluation.expression_file import KeptMasks, write_lines
from maris_fast.evaluation.scores_file import require_scores_place, write_scores
from maris_fast.scoring import tables
from maris_fast.scoring.summary import BOOTSTRAP
from maris_fast.system.devices import usable
from maris_fast.system.files import require_place, sha256_of
from maris_fast.system.terminal import say
from maris_fast.train.heartbeat import Heartbeat
from maris_fast.train.ranks import Ranks, join, leave
from maris_fast.train.same_inputs import require_same_cache, require_same_weights
from maris_fast.train.split_scores import score_expressions
from maris_fast.weight_files import find_weights
from maris_fast.weights import WeightsMeta, load_model


def score_weights(
    weights: Path,
    cache: Path | StoreAddress,
    split: str,
    *,
    swapped: bool,
    protocols: Sequence[str],
    bootstrap: int,
    breakdown: bool,
    out: Path | None,
    per_expression: Path | None,
    device: Literal["auto", "cpu", "cuda"],
    alone: bool,
) -> None:
    """Score weights with ``evaluate`` on all ranks; the first rank prints tables and writes the files.

    Args:
        alone: use this process alone, however it was started; else as one rank of a launcher.
        breakdown, out, per_expression: as in ``maris-fast eval``.

    Raises:
        MarisError: see ``evaluate``; or a file cannot be written.
    """
    scoring.named(protocols)  # before anything slow
    weights = find_weights(weights)
    keep = None
    if per_expression is not None:
        require_place(per_expression, "`per_expression`")
        keep = KeptMasks()
    if out is not None:
        require_scores_place(out)
    engine = EngineSettings(device=device)
    ranks = join(engine, alone=alone)
    with Heartbeat(ranks, engine):
        # Before they are loaded: if a run in progress replaces them meanwhile, the scores count as outdated.
        weights_sha256 = sha256_of(weights)
        require_same_weights(ranks, weights, weights_sha256)
        results = evaluate(
            weights,
            cache,
            split,
            swapped=swapped,
            protocols=protocols,
            bootstrap=bootstrap,
            ranks=ranks,
            keep=keep,
        )
        if ranks.first:
            show(results, split, breakdown=breakdown)
            manifest = read_manifest(cache)
            for line in manifest.dataset.incomplete([split]):
                say(line)
            if told := manifest.encoders.caution:
                say(f"note: {told}", err=True)
            if out is not None:
                made_of = {
                    "weights": str(weights),
                    "weights_sha256": weights_sha256,
                    "random_encoders": manifest.encoders.random,
                }
                say(f"wrote {write_scores(out, results, manifest.dataset, split, made_of)}")
            if per_expression is not None and keep is not None:
                write_lines(per_expression, keep.lines)
                say(f"wrote {per_expression}")
        leave()


def evaluate(
    weights: str | PathLike[str],
    cache: str | PathLike[str] | StoreAddress,
    split: str = "val",
    *,
    swapped: bool = False,
    protocols: Sequence[str] = (),
    bootstrap: int = BOOTSTRAP,
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
    keep: KeptMasks | None = None,
) -> dict[str, Any]:
    """Scores of weights on a split of a cache, at the images' original size, like ``maris-fast eval``.

    Args:
        weights: a run's folder or a weights file.
        cache: what ``write_cache`` wrote, a folder or an address.
        swapped: also score with expressions exchanged for ones about another object of the same image.
        protocols: names of other papers' scoring rules, or "all".
        bootstrap: resamples of the images for 95% intervals; 0: none.
        device: of this process, if ``ranks`` is None.
        ranks: the processes that share the work; None: this one alone.
        keep: collects the masks of the expressions as written.

    Returns:
        ``{"as written": {"oIoU": ..., "mIoU": ..., ...}}``, and with ``swapped`` "exchanged" too.

    Raises:
        CheckpointError: weights that can't be used, or trained with other encoders than the cache's.
        InputError: a cache that can't be read, without that split, or not the same for all ranks.
        ConfigError: no such protocol or device.
    """
    ways, cache = scoring.named(protocols), cache_place(cache)
    ranks = ranks or Ranks(usable(device))
    model, meta = load_model(weights, ranks.device)
    conditions = {"as written": False, "exchanged": True} if swapped else {"as written": False}
    with CacheReader(cache, split, device=ranks.device) as reader:
        require_same_cache(ranks, [reader], "the cache")
        require_same_encoders(meta, reader.manifest.encoders, cache)
        results = {}
        for condition, exchange in conditions.items():
            kept = keep if not exchange else None
            table = score_expressions(
                model,
                reader.evaluation_batches(rank=ranks.rank, world=ranks.world, swapped=exchange),
                ranks,
                protocols=ways,
                see=kept.see if kept is not None else None,
            )
            if kept is not None:
                kept.finish(table, ranks)
            results[condition] = scoring.whole(table, bootstrap=bootstrap)
        return results


def require_same_encoders(meta: WeightsMeta, cache: EncodersProvenance, folder: object) -> None:
    """Raise CheckpointError if the weights were trained on other features than those in the cache."""
    reasons = meta.encoders.differences(cache)
    if reasons:
        raise CheckpointError(
            f"the weights were trained on other features than those of {folder}: {'; '.join(reasons)}; "
            "name a cache made with the same encoders"
        )


def show(results: dict[str, Any], split: str, *, breakdown: bool) -> None:
    """Print the results of ``evaluate`` as tables."""
    console = Console()
    console.print(tables.of_conditions(results, f"{split}, at the images' original size"))
    for line in dict.fromkeys(line for summary in results.values() for line in summary.get("warnings", ())):
        say(f"warning: {line}")
    for condition, summary in results.items():
        if "protocols" in summary:
            title = f"{split}, {condition}: the same logits by all rules"
            console.print(tables.of_protocols(summary, title), "(in brackets: its script does not print it)")
            console.print(tables.of_prints(summary, f"{split}, {condition}: what each script prints"))
            unknown = summary["twice_covered_pixels"]["expressions where not known"]
            if unknown:
                console.print(
                    f"For {unknown:,} expressions it is unknown which pixels two polygons cover; lavt and "
                    "lisa keep those pixels. Import and cache the data set again to exclude them."
                )
        if breakdown:
            for table in tables.of_breakdown(summary, f"{split}, {condition}"):
                console.print(table)
