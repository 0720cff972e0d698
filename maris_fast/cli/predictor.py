"""What the commands share that predict: their options, and a predictor that says what it loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maris_fast.system.terminal import say

if TYPE_CHECKING:
    from maris_fast.prediction import Predictor

WEIGHTS = "a run's folder, a weights file, or org/name of the Hugging Face Hub"
SamWeights = Annotated[str | None, typer.Option(help="SAM checkpoint that made the training features")]
TextWeights = Annotated[
    str | None, typer.Option(help="CLIP weights that made the training features: open_clip tag or path")
]
Device = Annotated[str, typer.Option(help="cpu or cuda")]


def named_weights(weights: str, device: str = "cpu") -> Path:
    """The weights file that is meant, said at once: before anything that takes seconds to import.

    Raises:
        CheckpointError: there is none, here or at the Hub.
        ConfigError: a device that is not here.
    """
    from maris_fast.weight_files import find_weights, pretrained_weights

    # A mistyped runs/people is no reason to wait for the Hub.
    here = Path(weights).parent.is_dir()
    file = find_weights(weights) if here else pretrained_weights(weights)
    say(f"loading {file}", err=True)
    from maris_fast.system.devices import usable

    usable(device)
    return file


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
