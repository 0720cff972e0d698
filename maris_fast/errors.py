"""Errors that a person can act on: what came, what was needed, which setting to change."""


class MarisError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class InputError(MarisError):
    """Data or a file that cannot be used as it is."""


class ConfigError(MarisError):
    """A setting that is unknown, of the wrong kind, or at odds with another."""


class CheckpointError(MarisError):
    """Weights that are missing, unsafe to load, or made for another model."""


class TrainingError(MarisError):
    """A run that cannot go on, whatever its settings promised."""


class ReportedByRankZeroError(MarisError):
    """An error that rank 0 found and reports; the others only have to end."""
