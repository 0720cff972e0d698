"""What makes position words learnable: variants of the quickstart's model, scored by kind.

    python bench/position_words.py runs/quickstart/cache bench/results/cpu/position_words.json --epochs 3

How each variant is trained: ``quickstart_variants``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from maris_fast.bench.quickstart_variants import Variant, measure_all

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
    variants = [Variant(name, VARIANTS[name], options.seed) for name in names]
    measure_all(variants, options.cache, options.out, options.epochs)


if __name__ == "__main__":
    main()
