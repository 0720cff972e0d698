"""One rank per machine prints, even if several reach a diagnosis at the same moment."""

from __future__ import annotations

import errno
import socket


class Speaker:
    """The first rank of this machine that claims to speak is the speaker until its process ends.

    Two ranks can reach a diagnosis at once: rank 0 that rank 1 is at fault, and rank 1, not yet informed,
    that rank 0 is silent. An address that only one process can bind decides: it needs no folder, and the
    kernel frees it when the process ends.

    Args:
        token: the run's, the same for all its ranks.
    """

    def __init__(self, token: str) -> None:
        # The first byte makes it abstract: in the network namespace, not in a folder.
        self._address = f"\0maris-fast-heartbeat-{token}"
        self._held: socket.socket | None = None

    def takes_the_word(self) -> bool:
        """Claims to speak; returns whether this rank is the speaker."""
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(self._address)
        except OSError as error:
            held.close()
            return error.errno != errno.EADDRINUSE  # no abstract addresses here: better two lines than none
        self._held = held
        return True
