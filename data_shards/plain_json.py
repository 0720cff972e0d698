"""JSON in which nothing is lost: of a key that stands twice in an object, parsers keep the last alone."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter


def checked_json(kind: Any, content: bytes | str) -> Any:
    """What a JSON document holds, as ``kind``: a pydantic model, or a type that is made of some.

    Raises:
        ValueError: as ``parse_json``; pydantic's ValidationError, which is one, where it is no ``kind``.
    """
    return TypeAdapter(kind).validate_python(parse_json(content))


def parse_json(content: bytes | str) -> Any:
    """What a JSON document holds.

    Raises:
        ValueError: not JSON, nested too deep, or an object that has a key twice.
    """
    try:
        return json.loads(content, object_pairs_hook=_object)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(names) if key in names[:place])
        raise ValueError(f"the key {twice!r} appears twice; keep one of them")
    return keys
