"""Variants of the quickstart's model, each a training run of its own on the same cache.

A run is one rank with one thread; two go side by side. The file that is written holds, for each, its
settings, environment (versions, commit, device) and last evaluation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENTRY = ROOT / "train" / "main.py"
CONFIG = ROOT / "train" / "configs" / "quickstart.yaml"


@dataclass(frozen=True)
class Variant:
    name: str
    overrides: tuple[str, ...]
    seed: int = 0


def measure_all(variants: Sequence[Variant], cache: Path, out: Path, epochs: int) -> None:
    """Trains every variant for so many epochs on ``cache``, which the quickstart made, and writes ``out``."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        rows = []
        folders = [Path(scratch, str(number)) for number in range(len(variants))]
        cache = cache.absolute()
        for row in pool.map(lambda one, run: measure(one, run, cache, epochs), variants, folders):
            rows.append(row)
            print(f"{row['name']}, seed {row['seed']}: oIoU {row['scores']['oIoU']:.3f}", flush=True)
            # Whatever was measured is kept when a later run is stopped.
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps({"epochs": epochs, "rows": rows}, indent=1) + "\n")


def measure(variant: Variant, run: Path, cache: Path, epochs: int) -> dict[str, Any]:
    """Trains one variant into ``run``; its scores with what they were measured under."""
    command = [
        sys.executable,
        str(ENTRY),
        "--config",
        str(CONFIG),
        f"data.cache={cache}",
        f"run.folder={run}",
    ]
    command += [f"schedule.epochs={epochs}", f"run.seed={variant.seed}", "engine.device=cpu"]
    subprocess.run(
        [*command, *variant.overrides],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "name": variant.name,
        "overrides": variant.overrides,
        "seed": variant.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": json.loads((run / "environment.json").read_text()),
        "scores": [line for line in lines if line["kind"] == "evaluation"][-1],
    }
