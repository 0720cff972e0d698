"""What int8 costs in oIoU: the quickstart with its features stored as int8 and as bf16.

    maris-fast quickstart --folder runs/quickstart
    python -m maris_fast.bench.stored_scores runs/quickstart [--train]

The data set of a finished quickstart is cached once more, in bf16, and the quickstart's weights are scored
on both caches. With --train the same training, of the same seed and order, also runs on bf16, and its weights
are scored on both: that difference holds int8's rounding and whatever training makes of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from maris_fast.bench.results import BENCH, ROOT, Row, Suite
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

RANKS = ("--ranks", "2")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("quickstart", type=Path, help="folder of a finished quickstart")
    parser.add_argument("--train", action="store_true", help="also train on bf16")
    parser.add_argument("--out", type=Path, default=BENCH / "results")
    options = parser.parse_args()
    here = environment(Ranks(torch.device("cpu")))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="maris-scores-") as scratch:
        for row in measured(options.quickstart.resolve(), Path(scratch), train=options.train):
            print(f"trained on {row['trained_on']}, scored on {row['scored_on']}: oIoU {row['oIoU']:.4f}")
            rows.append(row)
            # A second training takes minutes: what is known before it is kept if it is stopped.
            file = Suite.now("stored_scores", here, rows).save(options.out)
    print(file)


def measured(quickstart: Path, scratch: Path, *, train: bool) -> Iterator[Row]:
    """Scores on the held-out scenes, a row for each stored type trained on and scored on."""
    caches = {"int8": quickstart / "cache", "bf16": scratch / "bf16"}
    weights = {"int8": quickstart / "training" / "best.safetensors"}
    config = ROOT / "data_shards" / "configs" / "quickstart.yaml"
    arguments = ("--config", config, "--no-estimate", "feature_dtype=bf16")
    maris_fast("cache", quickstart / "dataset", caches["bf16"], *arguments)
    yield from _scored("int8", weights["int8"], caches, scratch)
    if train:
        run, config = scratch / "training", ROOT / "train" / "configs" / "quickstart.yaml"
        maris_fast("train", *RANKS, "--config", config, f"data.cache={caches['bf16']}", f"run.folder={run}")
        yield from _scored("bf16", run / "best.safetensors", caches, scratch)


def _scored(trained_on: str, weights: Path, caches: dict[str, Path], scratch: Path) -> Iterator[Row]:
    for scored_on, cache in caches.items():
        out = scratch / "scores.json"
        maris_fast("eval", weights, cache, "--split", "val", *RANKS, "--out", out)
        scores = json.loads(out.read_text())["as written"]
        yield {"trained_on": trained_on, "scored_on": scored_on, **scores}


def maris_fast(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "maris_fast.cli", *map(str, arguments)], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
