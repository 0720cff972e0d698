"""Which implementation was measured fastest: one file a device in ``measured/``, written by ``measuring``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from maris_fast.kernels.multihead_attention.implementations import IMPLEMENTATIONS, Named

FOLDER = Path(__file__).parent / "measured"
# A row's own values, with their JSON types.
FIELDS: dict[str, type] = {"head_dim": int, "dtype": str, "masked": bool, "L_q": int, "L_k": int}


@dataclass(frozen=True)
class Row:
    """Milliseconds forward + backward at one shape, of the implementations that were right there."""

    head_dim: int
    dtype: str
    masked: bool
    L_q: int
    L_k: int
    ms: Mapping[Named, float]


def times(device: torch.device, dtype: torch.dtype, head_dim: int, masked: bool) -> dict[Named, float]:
    """Milliseconds over all of the device's rows of this kind; empty where nothing was measured.

    Holds the implementations that have a figure in every such row.

    Raises:
        ValueError: the device's file can't be used; the message says what is wrong with it.
    """
    kind = (head_dim, str(dtype).removeprefix("torch."), masked)
    rows = [r for r in _rows(FOLDER / file_name(device)) if (r.head_dim, r.dtype, r.masked) == kind]
    return {
        impl: sum(row.ms[impl] for row in rows)
        for impl in (rows[0].ms if rows else ())
        if all(impl in row.ms for row in rows)
    }


def file_name(device: torch.device) -> str:
    """``cpu.json``, or a GPU's name as in ``nvidia-h100-80gb-hbm3.json``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json"


@lru_cache
def _rows(path: Path) -> tuple[Row, ...]:
    return read_rows(path) if path.is_file() else ()


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of one device's file.

    Raises:
        ValueError: no JSON, or not of the form that ``measuring`` writes.
    """
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); measure again") from error
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{path} has no list of rows; measure again")
    return tuple(_row(row, f"{path}, row {place}") for place, row in enumerate(rows))


def _row(row: Any, place: str) -> Row:
    if not isinstance(row, dict) or any(type(row.get(name)) is not kind for name, kind in FIELDS.items()):
        needed = ", ".join(f"{name} ({kind.__name__})" for name, kind in FIELDS.items())
        raise ValueError(f"{place} is {row}; needed are {needed}")
    results = row.get("impls")
    if not isinstance(results, dict):
        raise ValueError(f"{place} has no impls, a result for each implementation")
    for impl, result in results.items():
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f"{place} names {impl!r}; known are {', '.join(IMPLEMENTATIONS)}")
        if not isinstance(result, dict) or not (_is_time(result.get("ms")) or result.get("reason")):
            raise ValueError(f"{place} says {result} of {impl}; needed are ms, more than 0, or a reason")
    ms = {impl: result["ms"] for impl, result in results.items() if "ms" in result}
    return Row(**{name: row[name] for name in FIELDS}, ms=ms)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
