"""What a run writes besides its weights and checkpoints: its failures do not end the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)


class ByProduct:
    """One such output: its first failure is logged, with ``then``, and all are counted."""

    def __init__(self, name: str, then: str = "the training goes on") -> None:
        self.name, self._then = name, then
        self.failures = 0

    def attempt(self, work: Callable[[], None]) -> bool:
        """Whether ``work`` succeeded; catches any exception, as disks, packages and renderers raise many."""
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
    """A file that grows by whole records. Those that cannot be written wait for the next one.

    Args:
        path: may exist; its folder is created.
        prepare: brings the file into the state to append to; called once, before the first record.
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
        """Writes the waiting records.

        Raises:
            OSError: they still wait, and none of them is in the file.
        """
        try:
            file = self._file = self._file or self._opened()
            content = b"".join(self.waiting)
            written = 0
            while written < len(content):
                written += file.write(content[written:])
        except OSError:
            self._drop_part()
            self.close()  # the next attempt reopens it: the disk may have come back under the same name
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
        file.truncate(self._whole)  # drops what another attempt has left
        return file

    def _drop_part(self) -> None:
        """Drops half a record, which is of no use and takes space that a checkpoint may need."""
        if self._file is not None:
            with suppress(OSError):
                self._file.truncate(self._whole)
