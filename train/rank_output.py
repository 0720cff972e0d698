"""Errors that all ranks meet, printed once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from maris_fast.errors import MarisError, ReportedByRankZeroError
from maris_fast.system.launchers import own_rank
from maris_fast.system.terminal import with_options, write_line


def report_error(error: MarisError, options: Mapping[str, str] | None = None) -> None:
    """Prints an error that ends this process: on rank 0, or on a rank that alone has met it.

    Args:
        options: command-line options, by the names of the library's arguments that they replace.
    """
    rank, message = own_rank(), with_options(str(error), options or {})
    if rank == 0:
        write_line(f"error: {message}", sys.stderr)
        return
    # Launchers end all ranks soon after the first exit: rank 0, if it met the same, has printed by then.
    time.sleep(3)
    # Until the ranks connect, all meet the same errors.
    met = "maris_fast.train.ranks" in sys.modules
    if met and not isinstance(error, ReportedByRankZeroError):
        write_line(f"error on rank {rank}: {message}", sys.stderr)
