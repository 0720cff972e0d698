"""Options that several commands have, and the names of options for messages of the library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from maris_fast.errors import ArgumentError

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings that override the files'")
]
Splits = Annotated[list[str] | None, typer.Option(help="split to use; may be repeated; default: all")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="device that runs the models")]
Bootstrap = Annotated[int, typer.Option(min=0, help="resamples of images for 95% intervals; 0: no intervals")]
Breakdown = Annotated[
    bool, typer.Option(help="print scores by category, size, length and words; always in the JSON")
]
License = Annotated[
    str | None,
    typer.Option(help="of weights or data, as the Hub calls it: apache-2.0, mit, cc-by-nc-4.0, ..."),
]


def require_license(license: str | None) -> None:
    """
    Raises:
        ArgumentError: ``license`` is not an identifier of a license.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise ArgumentError(
            f"`license` is {license!r}; expected an identifier of the Hub, such as apache-2.0 or mit"
        )


def separated(values: Sequence[str] | None) -> list[str]:
    """The values of an option that may be repeated, or separated by commas."""
    return [part for value in values or () for part in value.split(",")]


def options_of(command: Any) -> dict[str, str]:
    """``{"held_out": "--held-out"}`` of a click command; without positional arguments."""
    named = ((one.name, one.opts[-1]) for one in getattr(command, "params", ()))
    return {name: option for name, option in named if option.startswith("--")}
