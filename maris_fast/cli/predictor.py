"""Common parts of commands that predict: their options, and a predictor that reports what it loads."""

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
Device = Annotated[
    str, typer.Option(help="auto: the GPU if there is one; cpu; cuda; or one of several GPUs, as cuda:1")
]


def named_weights(weights: str, device: str = "cpu") -> Path:
    """The file of the named weights, reported before imports that take seconds.

    Raises:
        CheckpointError: no such weights, neither on this machine nor on the Hub.
        ConfigError: a device that this machine does not have.
    """
    from maris_fast.weight_files import find_weights, pretrained_weights

    # A mistyped local path such as runs/people must not wait for the Hub.
    here = Path(weights).parent.is_dir()
    file = find_weights(weights) if here else pretrained_weights(weights)
    say(f"loading {file}", err=True)
    from maris_fast.system.devices import usable

    usable(device)
    return file


def load_predictor(
    weights: Path, sam_weights: str | None, text_weights: str | None, device: str
) -> Predictor:
    """Load the file that ``named_weights`` returned, and print its caution, if any.

    Raises:
        CheckpointError, ConfigError: see ``Predictor``.
    """
    from maris_fast.prediction import Predictor

    predictor = Predictor(weights, sam_weights=sam_weights, text_weights=text_weights, device=device)
    if predictor.caution:
        say(f"note: {predictor.caution}", err=True)
    return predictor
