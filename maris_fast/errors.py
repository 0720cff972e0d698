"""Errors that a person can act on: what came, what was needed, which setting to change."""

from __future__ import annotations


def first_of(error: ValueError) -> str:
    """The first of what is wrong with a file, where it is, and how much more there is, if pydantic tells."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    what = problem["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {what}{more}" if where else f"{what}{more}"


class MarisError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class InputError(MarisError):
    """Data or a file that cannot be used as it is."""


class ArgumentError(InputError, ValueError):
    """An argument of the right type with a value that cannot be used: Python's ``ValueError`` too."""


class ConfigError(MarisError):
    """A setting that is unknown, of the wrong kind, or at odds with another."""


class CheckpointError(MarisError):
    """Weights that are missing, unsafe to load, or made for another model."""


class TrainingError(MarisError):
    """A run that cannot go on, whatever its settings promised."""


class ReportedByRankZeroError(MarisError):
    """An error that rank 0 found and reports; the others only have to end."""
