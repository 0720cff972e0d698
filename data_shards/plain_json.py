"""JSON parsing that rejects duplicate keys, of which other parsers silently keep only the last."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter


def checked_json(kind: Any, content: bytes | str) -> Any:
    """The content of a JSON document as ``kind``: a pydantic model, or a type composed of models.

    Raises:
        ValueError: as ``parse_json``, or pydantic's ValidationError if the content is not a ``kind``.
    """
    return TypeAdapter(kind).validate_python(parse_json(content))


def parse_json(content: bytes | str) -> Any:
    """The content of a JSON document.

    Raises:
        ValueError: not JSON, nested too deeply, or an object with a duplicate key.
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
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} appears twice; keep one of them")
            seen.add(key)
    return keys
