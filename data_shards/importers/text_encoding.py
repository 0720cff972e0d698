"""Annotation files as bytes of UTF-8, whatever encoding they were saved in."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from maris_fast.errors import InputError

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPES = re.compile(
    rb"(?P<pair>\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)


def read_bytes(path: Path) -> bytes:
    """
    Raises:
        InputError: no such file.
    """
    with _opened(path) as file:
        return file.read()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"no file {path}; it is part of the data set") from error
    with file:
        yield file


def read_utf8(path: Path) -> bytes:
    """A file of JSON or JSON lines as UTF-8 without a byte order mark; UTF-16 and UTF-32 are converted.

    Half of a surrogate pair (``"\\ud83d"``), which JSON can express but UTF-8 cannot, becomes U+FFFD.

    Raises:
        InputError: no such file.
    """
    content = read_bytes(path)
    if content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        content = content.decode(encoding, "replace").removeprefix("\ufeff").encode()
    return _without_halves(content)


def utf8_lines(path: Path) -> Iterator[bytes]:
    """The lines of ``read_utf8`` without line ends, with one line at a time in memory.

    Raises:
        InputError: no such file.
    """
    with _opened(path) as file:
        start = file.read(len(codecs.BOM_UTF8) + 4)
        mark = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        encoding = json.detect_encoding(start[mark : mark + 4])
        file.seek(mark)
        if encoding.startswith("utf-8"):
            for ended in file:
                yield from map(_without_halves, ended.splitlines())
            return
        text = io.TextIOWrapper(file, encoding, errors="replace", newline="\n")
        for number, line in enumerate(text):
            whole = line if number else line.removeprefix("\ufeff")
            yield from map(_without_halves, whole.encode().splitlines())


def read_json(path: Path) -> bytes:
    """As ``read_utf8``, for a file that is one JSON document.

    Raises:
        InputError: no such file, or of an unknown encoding.
    """
    content = read_utf8(path)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is in none of UTF-8, UTF-16 and UTF-32 (byte {error.start:,} is "
            f"{content[error.start]:#04x}); save it as UTF-8"
        ) from error
    return content


def _without_halves(content: bytes) -> bytes:
    return _ESCAPES.sub(_whole, content) if _HALF.search(content) else content


def _whole(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["half"] else escape[0]
