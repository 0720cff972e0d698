"""What the fast preset's wider heads cost in accuracy, on the quickstart.

    python bench/fast_preset.py runs/quickstart/cache bench/results/cpu/fast_preset.json --seeds 0 1

The presets differ in heads, and in compilation, which leaves the losses where they are (a test trains
both ways). So the quickstart's model is trained with the paper's number of heads and with the fast preset's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from maris_fast.bench.quickstart_variants import Variant, measure_all
from maris_fast.config import TrainingSettings, load_settings

CONFIGS = Path(__file__).resolve().parents[1] / "train" / "configs"
PRESETS = {"paper": CONFIGS / "refcoco.yaml", "fast": CONFIGS / "refcoco_fast.yaml"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path, help="that the quickstart made")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    heads = {name: load_settings(TrainingSettings, path).model.heads for name, path in PRESETS.items()}
    variants = [
        Variant(f"{name}: {count} heads", (f"model.heads={count}",), seed)
        for seed in options.seeds
        for name, count in heads.items()
    ]
    measure_all(variants, options.cache, options.out, options.epochs)


if __name__ == "__main__":
    main()
