"""What all ranks have to say, once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from maris_fast.errors import MarisError, ReportedByRankZeroError
from maris_fast.system.launchers import own_rank
from maris_fast.system.terminal import with_options, write_line


def report_error(error: MarisError, options: Mapping[str, str] | None = None) -> None:
    """Tells of an error that ends this process: on rank 0, or on a rank that alone has met it.

    Args:
        options: of the command line that was given, by the names of the library's arguments.
    """
    rank, message = own_rank(), with_options(str(error), options or {})
    if rank == 0:
        write_line(f"error: {message}", sys.stderr)
        return
    # Launchers end everybody soon after the first exit: rank 0, if it met the same, has spoken by then.
    time.sleep(3)
    # Before the ranks meet, all meet the same errors.
    met = "maris_fast.train.ranks" in sys.modules
    if met and not isinstance(error, ReportedByRankZeroError):
        write_line(f"error on rank {rank}: {message}", sys.stderr)
