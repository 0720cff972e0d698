"""Suspected pairs side by side, so that a person can judge them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maris_fast.data_shards.mixing.guard import LookAlike
from maris_fast.errors import InputError
from maris_fast.images import load_image
from maris_fast.pictures.overlays import Panel, sheet

PAIRS_A_SHEET = 200
_SIDE = 240


def draw_pairs(file: Path, pairs: Sequence[LookAlike]) -> list[Path]:
    """Draw every pair, the train image on the left and the held-out one on the right, nearest pairs first.

    Args:
        file: ``NAME.png``; more than 200 pairs go on ``NAME-2.png``, ``NAME-3.png``, ...

    Returns:
        The pictures that were written.

    Raises:
        InputError: a picture cannot be written.
    """
    written = []
    for number, first in enumerate(range(0, len(pairs), PAIRS_A_SHEET), start=1):
        place = file if number == 1 else file.with_name(f"{file.stem}-{number}{file.suffix}")
        panels = [panel for pair in pairs[first : first + PAIRS_A_SHEET] for panel in _panels(pair)]
        try:
            sheet(panels, columns=4, width=_SIDE).save(place)
        except (OSError, ValueError) as error:  # ValueError: a suffix that is not an image format
            raise InputError(f"{place} cannot be written: {error}; name a PNG with `pairs`") from error
        written.append(place)
    return written


def _panels(pair: LookAlike) -> tuple[Panel, Panel]:
    differing = f"{pair.distance} of 256 bits differ"
    return (
        _panel(pair.train_image, f"{pair.train}: {Path(pair.train_image).name}"),
        _panel(pair.held_out_image, f"{pair.held_out}: {Path(pair.held_out_image).name} ({differing})"),
    )


def _panel(path: str, caption: str) -> Panel:
    image = load_image(Path(path))
    image.thumbnail((_SIDE, 2 * _SIDE))
    return Panel(image, np.zeros((image.height, image.width), dtype=bool), caption)
