"""Which values of a mask PNG are inside: inferred if there are two, else given by an option or the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maris_fast.data_shards.records import DroppedPixels

MaskValues = Literal["nonzero", "void", "soft"]
VOID = 255
_SHOWN = 8


class Dropped:
    """Counts pixels that are neither 0 nor inside, once per file."""

    def __init__(self) -> None:
        self._pixels: dict[str, dict[Path, int]] = {}

    def add(self, reason: str, path: Path, pixels: int) -> None:
        if pixels:
            self._pixels.setdefault(reason, {})[path] = pixels

    def counts(self) -> dict[str, DroppedPixels]:
        return {
            reason: DroppedPixels(files=len(files), pixels=sum(files.values()))
            for reason, files in self._pixels.items()
        }


def inside(
    pixels: NDArray[Any], path: Path, rule: MaskValues | None, wanted: tuple[int, ...], dropped: Dropped
) -> NDArray[np.bool_]:
    """The mask [height, width] of a single-channel PNG.

    Args:
        pixels: values, or indices into the palette.
        rule: "nonzero": all but 0; "void": all but 0 and 255, which is undecided and counts as outside;
            "soft": from half of white up. None: inferred if the values are 0 and one other, or 0, 1 and
            the void 255.
        wanted: the values of the object's pixels, if the line gives them; ``rule`` is then ignored.
        dropped: counts the void pixels and those below half of white.

    Raises:
        ValueError: the values are ambiguous, or one of ``wanted`` is not among them.
    """
    values = [int(value) for value in np.unique(pixels)]
    if wanted:
        if missing := set(wanted) - set(values):
            raise ValueError(f"{path} has no pixel of {_listed(sorted(missing))}; it has {_listed(values)}")
        return np.isin(pixels, wanted)
    if rule == "soft":
        white = 1 if pixels.dtype == np.bool_ else np.iinfo(pixels.dtype).max
        mask: NDArray[np.bool_] = pixels > white // 2
        dropped.add("soft", path, int(np.count_nonzero(pixels) - np.count_nonzero(mask)))
        return mask
    if rule == "void" or (rule is None and VOID in values and set(values) <= {0, 1, VOID} and 1 in values):
        dropped.add("void", path, int(np.count_nonzero(pixels == VOID)))
        return (pixels != 0) & (pixels != VOID)
    if rule is None and len(values) > (2 if 0 in values else 1):
        raise ValueError(
            f"{path} has the values {_listed(values)}, which do not tell what is inside: with `mask_values` "
            "nonzero all but 0, with void all but 0 and 255, with soft those from half of white on; in a "
            'file with a value an object, {"file": PATH, "value": NUMBER} names one'
        )
    return pixels != 0


def _listed(values: list[int]) -> str:
    more = f" and {len(values) - _SHOWN:,} more" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more
