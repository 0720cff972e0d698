"""The options of a command by the names of its function's arguments, for messages of the library."""

from __future__ import annotations

from typing import Any


def options_of(command: Any) -> dict[str, str]:
    """``{"held_out": "--held-out"}`` of a click command; positional arguments are left out."""
    named = ((one.name, one.opts[-1]) for one in getattr(command, "params", ()))
    return {name: option for name, option in named if option.startswith("--")}
