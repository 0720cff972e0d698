"""Annotation files as bytes of UTF-8, whatever encoding they were saved in."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

from maris_fast.errors import InputError

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
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"no file {path}; it is part of the data set") from error


def read_utf8(path: Path) -> bytes:
    """A file of JSON or of JSON lines without a byte order mark; UTF-16 and UTF-32 are read too.

    Half of a surrogate pair (``"\\ud83d"``), which JSON can write but no text hold, becomes U+FFFD.

    Raises:
        InputError: no such file.
    """
    content = read_bytes(path)
    if content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        content = content.decode(encoding, "replace").removeprefix("\ufeff").encode()
    return _ESCAPES.sub(_whole, content) if re.search(rb"\\u[dD][89a-fA-F]", content) else content


def read_json(path: Path) -> bytes:
    """As ``read_utf8``, of a file that is one JSON document.

    Raises:
        InputError: no such file, or in an encoding that cannot be told.
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


def _whole(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["half"] else escape[0]
