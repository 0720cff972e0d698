"""Guards for standard output and error, which may go away: ``| head``, a closed ssh, a log on a full disk.

A failure to print must not end the work itself. Within ``sturdy``, a stream that cannot be written is
reported once, through the one that is still open, and the lines that it lost are counted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from maris_fast.errors import InputError

MOST_UNTOLD = 100
"""Most messages that are kept while no stream can take them."""


class Streams:
    """Both streams, while they are guarded.

    Attributes:
        untold: messages for standard error that neither stream could take, to be reported elsewhere.
    """

    def __init__(self, out: TextIO | None, err: TextIO | None) -> None:
        self.out = SturdyStream("standard output", out, self)
        self.err = SturdyStream("standard error", err, self)
        self.untold: list[str] = []

    def tell(self, text: str) -> None:
        """Write to standard error, or to standard output if that is gone."""
        if self.err.put(text) or (self.out.reason is None and self.out.put(text)):
            return
        if text.strip() and len(self.untold) < MOST_UNTOLD:
            self.untold.append(text.rstrip("\n"))

    def require_written(self) -> None:
        """Check the output of commands that print their result. A reader that closed its pipe is no error.

        Raises:
            InputError: standard output could not be written completely.
        """
        self.out.flush()
        reason = self.out.reason
        if reason is not None and getattr(reason, "errno", None) != errno.EPIPE:
            raise InputError(
                f"standard output did not take {self.out.lost} lines of the result ({reason}); make room, or "
                "send it elsewhere, and run the command again"
            )


class SturdyStream:
    """A text stream whose ``write`` and ``flush`` do not raise; everything else is delegated to the stream.

    Attributes:
        lost: lines that could not be written.
        reason: the first error; None if there was none.
    """

    def __init__(self, name: str, stream: TextIO | None, streams: Streams) -> None:
        # Python has no stream if the descriptor was closed from the start (``>&-``).
        self._stream: TextIO = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115
        self._name, self._streams = name, streams
        self._unflushed = 0
        self.lost = 0
        self.reason: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        if self is self._streams.err:
            self._streams.tell(text)
        else:
            self._write(text)
        return len(text)

    def flush(self) -> None:
        self._flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def put(self, text: str) -> bool:
        """Write and flush; return whether that succeeded."""
        return self._write(text) and self._flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _write(self, text: str) -> bool:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            return self._write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            return self._fail(error, text.count("\n"))
        self._unflushed += text.count("\n")
        return True

    def _flush(self) -> bool:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            return self._fail(error, 0)
        self._unflushed = 0
        return True

    def _fail(self, error: OSError | ValueError, lines: int) -> bool:
        self.lost += lines + self._unflushed
        self._unflushed = 0
        self._empty_buffer()
        if self.reason is None:
            self.reason = error
            self._streams.tell(f"WARNING: {self._name} cannot be written ({error}); continuing without it\n")
        return False

    def _empty_buffer(self) -> None:
        """Discard the buffer, which the interpreter would flush again at exit, with exit status 120."""
        with suppress(OSError, ValueError):
            descriptor = self._stream.fileno()
            before, nothing = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nothing, descriptor)
                self._stream.flush()
            finally:
                os.dup2(before, descriptor)
                os.close(before)
                os.close(nothing)


_guarded: list[Streams] = []


@contextmanager
def sturdy() -> Iterator[Streams]:
    """Guard ``sys.stdout`` and ``sys.stderr`` until the block ends, so that printing to them cannot fail."""
    before = sys.stdout, sys.stderr
    streams = Streams(*before)
    sys.stdout, sys.stderr = cast(TextIO, streams.out), cast(TextIO, streams.err)
    _guarded.append(streams)
    try:
        yield streams
    finally:
        streams.out.flush()
        streams.err.flush()
        _guarded.remove(streams)
        sys.stdout, sys.stderr = before


def take_untold() -> list[str]:
    """Return and clear the messages that no stream could take; the caller reports them elsewhere."""
    taken = [text for streams in _guarded for text in streams.untold]
    for streams in _guarded:
        streams.untold.clear()
    return taken


def lost_lines() -> int:
    """Lines of standard output that were lost so far."""
    return sum(streams.out.lost for streams in _guarded)
