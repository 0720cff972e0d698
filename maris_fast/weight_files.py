"""Finds a run's weights. Does not import PyTorch, so that a command can report missing weights at once."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from maris_fast.errors import ArgumentError, CheckpointError
from maris_fast.system.hub import HubError, downloaded, is_repository

BEST, LAST = "best.safetensors", "last.safetensors"


def find_weights(weights: str | PathLike[str]) -> Path:
    """The weights file: ``weights`` itself or, for a run's folder, the best weights in it, else the last.

    Raises:
        TypeError: not a path.
        CheckpointError: the file does not exist, or there is none in the folder.
    """
    if not isinstance(weights, str | PathLike):
        raise TypeError(
            f"weights is {type(weights).__name__}; expected the path of a run's folder or of a weights file"
        )
    path = Path(weights)
    for file in (path, path / BEST, path / LAST):
        if file.is_file():
            return file
    where = f"in the folder {path}" if path.is_dir() else path
    raise CheckpointError(f"no weights {where}; training writes {BEST} and {LAST} into run.folder")


def pretrained_weights(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The weights file from ``find_weights`` or, if no local path has this name, from the Hub.

    Raises:
        TypeError: not a path.
        ArgumentError: ``revision`` is given for a local folder.
        CheckpointError: no local weights of that name, nor (``HubError``) a model on the Hub.
    """
    if isinstance(source, str) and is_repository(source) and not Path(source).exists():
        try:
            return downloaded(
                source, BEST, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
            )
        except HubError as error:  # the name may be a mistyped folder
            raise HubError(f"no folder {source} here, and of the Hub {error}") from error
    weights = find_weights(source)
    if revision is not None:
        raise ArgumentError(
            f"`revision` is {revision!r}, which a local folder such as {source} does not have; leave it out"
        )
    return weights
