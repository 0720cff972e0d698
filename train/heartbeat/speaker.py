"""One rank of a machine speaks, whatever several of them find at the same moment."""

from __future__ import annotations

import errno
import socket


class Speaker:
    """The first rank of this machine that takes the word has it until its process ends.

    Two ranks can judge at once: rank 0 that rank 1 is at fault, and rank 1, which has not heard of that yet,
    that rank 0 is silent. An address that one process alone can bind decides: it needs no folder, and the
    kernel frees it with the process.

    Args:
        token: of the run, the same for all its ranks.
    """

    def __init__(self, token: str) -> None:
        # Abstract, as the first byte says: in the network namespace, not in a folder.
        self._address = f"\0maris-fast-heartbeat-{token}"
        self._held: socket.socket | None = None

    def takes_the_word(self) -> bool:
        """Whether this rank is the one to speak."""
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(self._address)
        except OSError as error:
            held.close()
            return error.errno != errno.EADDRINUSE  # no such addresses here: rather two lines than none
        self._held = held
        return True
