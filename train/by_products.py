"""What a run writes beside its weights and checkpoints: whatever goes wrong there ends no run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)


class ByProduct:
    """One of them: its first failure is told, with ``then``, and all are counted."""

    def __init__(self, name: str, then: str = "the training goes on") -> None:
        self.name, self._then = name, then
        self.failures = 0

    def attempt(self, work: Callable[[], None]) -> bool:
        """Whether ``work`` went well; whatever it raises, disks, packages and renderers being many."""
        try:
            work()
        except Exception as error:
            if not self.failures:
                what = f"{type(error).__name__}: {error}"
                log.warning("%s cannot be written (%s); %s", self.name, what, self._then)
            self.failures += 1
            return False
        return True


class RecordFile:
    """A file that grows by whole records. Those that it does not take wait, and go with the next one.

    Args:
        path: may be there; its folder is made.
        prepare: brings it into the state from which on it grows; called once, before the first record.
    """

    def __init__(self, path: Path, prepare: Callable[[], None] = lambda: None) -> None:
        self._path, self._prepare = path, prepare
        self._prepared = False
        self._whole = 0
        self._file: BinaryIO | None = None
        self.waiting: list[bytes] = []

    def append(self, record: bytes) -> None:
        """Raises OSError if it could not be written."""
        self.waiting.append(record)
        self.catch_up()

    def catch_up(self) -> None:
        """Writes what waits.

        Raises:
            OSError: it still waits, and nothing of it is in the file.
        """
        try:
            file = self._file = self._file or self._opened()
            content = b"".join(self.waiting)
            written = 0
            while written < len(content):
                written += file.write(content[written:])
        except OSError:
            self._drop_part()
            self.close()  # another attempt opens it anew: the disk may have come back under the same name
            raise
        self._whole += len(content)
        self.waiting.clear()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None

    def _opened(self) -> BinaryIO:
        if not self._prepared:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._prepare()
            self._prepared = True
            self._whole = self._path.stat().st_size if self._path.exists() else 0
        file = self._path.open("ab", buffering=0)
        self._whole = min(self._whole, file.seek(0, os.SEEK_END))
        file.truncate(self._whole)  # of what another attempt has left
        return file

    def _drop_part(self) -> None:
        """Half a record is of no use, and takes the room that a checkpoint may need."""
        if self._file is not None:
            with suppress(OSError):
                self._file.truncate(self._whole)
