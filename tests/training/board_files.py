"""What TensorBoard itself reads from a run's event files."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def curve(folder: Path, tag: str) -> list[int]:
    """The steps of a curve."""
    return [event.step for event in _read(folder).Scalars(tag)]


def pictured(folder: Path) -> list[int]:
    """The steps with a sheet of samples."""
    board = _read(folder)
    return [event.step for event in board.Images("samples")] if "samples" in board.Tags()["images"] else []


def _read(folder: Path) -> EventAccumulator:
    board = EventAccumulator(str(folder))
    board.Reload()
    return board
