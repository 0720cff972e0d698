"""What the commands share that predict: their options, and a predictor that says what it loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maris_fast.system.terminal import say

if TYPE_CHECKING:
    from maris_fast.prediction import Predictor

WEIGHTS = "a run's folder, or a weights file"
SamWeights = Annotated[str | None, typer.Option(help="SAM checkpoint that made the training features")]
TextWeights = Annotated[
    str | None, typer.Option(help="CLIP weights that made the training features: open_clip tag or path")
]
Device = Annotated[str, typer.Option(help="cpu or cuda")]


def named_weights(weights: Path) -> Path:
    """The weights file that is meant, said at once: before anything that takes seconds to import.

    Raises:
        CheckpointError: there is none.
    """
    from maris_fast.weight_files import find_weights

    weights = find_weights(weights)
    say(f"loading {weights} and its encoders", err=True)
    return weights


def load_predictor(
    weights: Path, sam_weights: str | None, text_weights: str | None, device: str
) -> Predictor:
    """Loads what ``named_weights`` returned, and says what to know of it.

    Raises:
        CheckpointError, ConfigError: as ``Predictor``.
    """
    from maris_fast.prediction import Predictor

    predictor = Predictor(weights, sam_weights=sam_weights, text_weights=text_weights, device=device)
    if predictor.caution:
        say(f"note: {predictor.caution}", err=True)
    return predictor
