"""What makes position words learnable: variants of the quickstart's model, scored by kind.

    python bench/position_words.py runs/quickstart/cache bench/results/cpu/position_words.json --epochs 3

Each variant is a run of train/main.py on one rank with one thread; two go side by side. The file it writes
holds, for each, its settings, environment (versions, commit, device) and last evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENTRY = ROOT / "train" / "main.py"
CONFIG = ROOT / "train" / "configs" / "quickstart.yaml"

AS_PRINTED = ("model.decoder_positions=none", "model.decoder_norm=none", "model.decoder_feed_forward=0")
VARIANTS: dict[str, tuple[str, ...]] = {
    "quickstart: no gate; positions, norms, feed-forward": (),
    "decoder as printed, no gate": AS_PRINTED,
    "decoder as printed, gate at 0.5": (*AS_PRINTED, "model.keep=relevant"),
    "gate at 0.5": ("model.keep=relevant",),
    "gate as eq. 4 prints it": ("model.keep=irrelevant",),
    "gate from tau = 0, raised to 0.5": (
        "model.keep=relevant",
        "schedule.tau_hold_share=0.4",
        "schedule.tau_ramp_share=0.4",
    ),
    "no positions in the decoder": ("model.decoder_positions=none",),
    "no norms in the decoder": ("model.decoder_norm=none",),
    "no feed-forward in the decoder": ("model.decoder_feed_forward=0",),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path, help="that the quickstart made")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of variants, from 0; all by default")
    options = parser.parse_args()
    names = list(VARIANTS) if options.only is None else [list(VARIANTS)[i] for i in options.only]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        rows = []
        shared = (options.cache.absolute(), Path(scratch), options.epochs, options.seed)
        for row in pool.map(lambda name: measure(name, *shared), names):
            rows.append(row)
            print(f"{row['name']}: oIoU {row['scores']['oIoU']:.3f}", flush=True)
            # Whatever was measured is kept when a later run is stopped.
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"epochs": options.epochs, "rows": rows}, indent=1) + "\n")


def measure(name: str, cache: Path, scratch: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Trains one variant; its scores with what they were measured under."""
    overrides = VARIANTS[name]
    run = scratch / str(list(VARIANTS).index(name))
    command = [
        sys.executable,
        str(ENTRY),
        "--config",
        str(CONFIG),
        f"data.cache={cache}",
        f"run.folder={run}",
    ]
    command += [f"schedule.epochs={epochs}", f"run.seed={seed}", "engine.device=cpu", *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "name": name,
        "overrides": overrides,
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": json.loads((run / "environment.json").read_text()),
        "scores": [line for line in lines if line["kind"] == "evaluation"][-1],
    }


if __name__ == "__main__":
    main()
