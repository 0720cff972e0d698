"""Entry of an evaluation, for ``maris-fast eval`` and for any launcher.

::

    python -m maris_fast.train.scoring WEIGHTS CACHE --split val [--swapped] [--out scores.json]
    deepspeed --num_gpus 2 --module maris_fast.train.scoring WEIGHTS CACHE ...
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from maris_fast.config import EngineSettings
from maris_fast.data_shards.stream import CacheReader
from maris_fast.encoders import EncodersProvenance
from maris_fast.errors import CheckpointError, MarisError
from maris_fast.train.evaluation import evaluate
from maris_fast.train.ranks import Ranks, join, leave
from maris_fast.train.watch import Watch
from maris_fast.weights import WeightsMeta, load_model

SCORES = ("oIoU", "mIoU", "Pr@50", "Pr@60", "Pr@70", "Pr@80", "Pr@90")


def main(arguments: Sequence[str] | None = None) -> int:
    """Scores weights on a split; returns the exit status, 2 for an error that a person can act on."""
    options = _parser().parse_args(arguments)
    try:
        engine = EngineSettings(device=options.device)
        ranks = join(engine)
        with Watch(ranks, engine):
            results = score(options.weights, options.cache, options.split, ranks, swapped=options.swapped)
            if ranks.first:
                _print(results, options.split)
                if options.out is not None:
                    options.out.write_text(json.dumps(results, indent=1) + "\n")
            leave()
    except MarisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def score(weights: Path, cache: Path, split: str, ranks: Ranks, *, swapped: bool) -> dict[str, Any]:
    """``{"as written": summary}``, and with ``swapped`` the same model on exchanged expressions too.

    Raises:
        CheckpointError: weights that can't be used, or of features from other encoders than the cache's.
        InputError: a cache that can't be read, or without that split.
    """
    model, meta = load_model(weights, ranks.device)
    with CacheReader(cache, split, device=ranks.device) as reader:
        _require_same_encoders(meta, reader.manifest.encoders, cache)
        results = {"as written": evaluate(model, reader, ranks)}
        if swapped:
            results["exchanged"] = evaluate(model, reader, ranks, swapped=True)
    return results


def _require_same_encoders(meta: WeightsMeta, cache: EncodersProvenance, folder: Path) -> None:
    reasons = EncodersProvenance.model_validate(meta.encoders).differences(cache)
    if reasons:
        raise CheckpointError(
            f"the weights were trained on other features than those of {folder}: {'; '.join(reasons)}; "
            "name a cache made with the same encoders"
        )


def _print(results: dict[str, Any], split: str) -> None:
    table = Table(title=f"{split}, at the images' original size")
    table.add_column("expressions")
    table.add_column("number", justify="right")
    for name in SCORES:
        table.add_column(name, justify="right")
    for condition, summary in results.items():
        for kind, row in {condition: summary, **summary["kinds"]}.items():
            name = kind if kind == condition else f"  {kind}"
            table.add_row(name, f"{row['expressions']:,}", *(f"{row[score]:.3f}" for score in SCORES))
        table.add_section()
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maris_fast.train.scoring", description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--swapped", action="store_true", help="also score with exchanged expressions")
    parser.add_argument("--out", type=Path, help="JSON of the scores")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="set by launchers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
