"""Errors that a user can act on: what was given, what is needed, which setting to change."""

from __future__ import annotations


def first_of(error: ValueError) -> str:
    """A validation error's first problem, its location and the number of others; else the error's message."""
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


class TooLargeError(InputError):
    """Input beyond a size limit."""


class ArgumentError(InputError, ValueError):
    """An argument of the right type whose value cannot be used; also a ``ValueError``."""


class ConfigError(MarisError):
    """A setting that is unknown, of the wrong type, or in conflict with another."""


class CheckpointError(MarisError):
    """Weights that are missing, unsafe to load, or made for another model."""


class TrainingError(MarisError):
    """A run that cannot continue, although its settings are valid."""


class MemoryShortageError(MarisError):
    """Work that does not fit in a GPU's memory."""


class ReportedByRankZeroError(MarisError):
    """An error that rank 0 found and reports; the other ranks only have to exit."""
