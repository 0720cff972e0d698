"""Uploaded and generated files of the page, under names that cannot be guessed; the oldest are removed first.

A name is looked up, never joined to a folder: a file that was not added here has no name, so it cannot be
requested. Only the visitor who uploaded the file or was given it knows its name.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from maris_fast.errors import InputError

ROOM = 1 << 30
"""Most bytes on disk, of all visitors together."""
LONGEST_NAME = 80


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    stays: bool


class ServedFiles:
    """Files by name in ``folder``, at most ``room`` bytes of them besides those that stay. Thread-safe."""

    def __init__(self, folder: Path, room: int = ROOM) -> None:
        self.folder = folder.resolve()
        self.room = room
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, name: str, content: bytes, *, stays: bool = False) -> str:
        """Store a file, and remove the oldest others if there is no room for it.

        Args:
            name: the visitor's name for it; its last part, without unusual characters, ends the name here.
            stays: never remove it to make room.

        Returns:
            The name under which it is requested, such as ``kX2…/photo.jpg``.

        Raises:
            InputError: the file cannot be written.
        """
        secret, plain = secrets.token_urlsafe(16), _plain(name)
        path = self.folder / secret / plain
        served = f"{secret}/{plain}"
        with self._lock:
            self._make_room(len(content))
            # Counted before it is written, so that two concurrent calls do not use the same room.
            self._files[served] = _File(path, len(content), stays)
        try:
            path.parent.mkdir()
            path.write_bytes(content)
        except OSError as error:
            with self._lock:
                self._remove(served)
            raise InputError(f"the server cannot keep {plain}: {error.strerror}") from error
        return served

    def add_picture(self, name: str, picture: Image.Image) -> Path:
        """Store a picture in the format that its name ends with; return its path."""
        content = BytesIO()
        picture.save(content, format=PurePosixPath(name).suffix[1:])
        return self.path(self.add(name, content.getvalue()))

    def path(self, served: object) -> Path:
        """The path of the file of a name.

        Raises:
            InputError: no file has this name, or it was removed.
        """
        with self._lock:
            file = self._files.get(served) if isinstance(served, str) else None
        if file is None:
            raise InputError("no such file on this page; upload it again")
        return file.path

    def name_of(self, path: str) -> str:
        """The name of a file that ``add`` stored at this path."""
        return "/".join(Path(path).relative_to(self.folder).parts)

    def _make_room(self, size: int) -> None:
        held = sum(file.size for file in self._files.values())
        for served, file in list(self._files.items()):
            if held + size <= self.room:
                return
            if not file.stays:
                held -= file.size
                self._remove(served)

    def _remove(self, served: str) -> None:
        file = self._files.pop(served, None)
        if file is not None:
            file.path.unlink(missing_ok=True)
            if file.path.parent.is_dir():
                file.path.parent.rmdir()


def _plain(name: str) -> str:
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(one for one in last if one.isalnum() or one in "-_. ")
    stem, dot, ending = kept.strip(". ").rpartition(".")
    if not dot:
        stem, ending = ending, ""
    ending = ending[:8]
    # File systems limit bytes, and a character may have four.
    while len(f"{stem}{dot}{ending}".encode()) > LONGEST_NAME:
        stem = stem[:-1]
    return f"{stem or 'file'}{dot}{ending}"
