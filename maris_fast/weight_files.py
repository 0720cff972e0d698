"""Where a run's weights lie. Takes no PyTorch, so that a command can tell at once that there are none."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from maris_fast.errors import CheckpointError

BEST, LAST = "best.safetensors", "last.safetensors"


def find_weights(weights: str | PathLike[str]) -> Path:
    """The weights file that is meant: ``weights`` itself, or of a run's folder the best, else the last.

    Raises:
        TypeError: no path.
        CheckpointError: there is no such file, and none in the folder.
    """
    if not isinstance(weights, str | PathLike):
        raise TypeError(
            f"weights is {type(weights).__name__}; needed is the path of a run's folder or of a weights file"
        )
    path = Path(weights)
    for file in (path, path / BEST, path / LAST):
        if file.is_file():
            return file
    where = f"in the folder {path}" if path.is_dir() else path
    raise CheckpointError(f"no weights {where}; training writes {BEST} and {LAST} into run.folder")
