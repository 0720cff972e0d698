"""Standard output and standard error that may go away: ``| head``, a closed ssh, a log on a full disk.

What a program prints beside its work must not end the work. While ``sturdy`` is entered, a stream that cannot
be written is told once, through what is still open, and what it did not take is counted.
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
"""Messages that wait while nothing is open that could take them."""


class Streams:
    """Both of them, while they are guarded.

    Attributes:
        untold: what standard error was given and nothing could take, for whoever has another place.
    """

    def __init__(self, out: TextIO | None, err: TextIO | None) -> None:
        self.out = SturdyStream("standard output", out, self)
        self.err = SturdyStream("standard error", err, self)
        self.untold: list[str] = []

    def tell(self, text: str) -> None:
        """Through standard error, or output where that is gone."""
        if self.err.put(text) or (self.out.reason is None and self.out.put(text)):
            return
        if text.strip() and len(self.untold) < MOST_UNTOLD:
            self.untold.append(text.rstrip("\n"))

    def require_written(self) -> None:
        """For commands whose result is what they print. A reader that wanted no more of it is no error.

        Raises:
            InputError: standard output did not take all of it.
        """
        self.out.flush()
        reason = self.out.reason
        if reason is not None and getattr(reason, "errno", None) != errno.EPIPE:
            raise InputError(
                f"standard output did not take {self.out.lost} lines of the result ({reason}); make room, or "
                "send it elsewhere, and run the command again"
            )


class SturdyStream:
    """A text stream whose ``write`` and ``flush`` do not raise; everything else is the stream's own.

    Attributes:
        lost: lines that could not be written.
        reason: why, the first time; None as long as all went well.
    """

    def __init__(self, name: str, stream: TextIO | None, streams: Streams) -> None:
        # Python has no stream where the descriptor was closed from the start (``>&-``).
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
        """Writes at once, or returns False."""
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
        """What stays in it is tried again at the interpreter's end, and makes its exit status 120."""
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
    """``sys.stdout`` and ``sys.stderr`` that end nobody's work, until the block ends."""
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
    """What nothing could be told so far; who takes it tells it elsewhere."""
    taken = [text for streams in _guarded for text in streams.untold]
    for streams in _guarded:
        streams.untold.clear()
    return taken


def lost_lines() -> int:
    """Of standard output, up to now."""
    return sum(streams.out.lost for streams in _guarded)
