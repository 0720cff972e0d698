"""Errors as HTTP responses: a status and one line of text, ``{"error": "..."}``."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from maris_fast.errors import InputError, TooLargeError
from maris_fast.web.gate import LATER


def refused(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)


def of_input(error: InputError) -> HTTPException:
    """The HTTP error for input that cannot be used."""
    return HTTPException(413 if isinstance(error, TooLargeError) else 422, str(error))


def later(text: str, status: int = 503) -> HTTPException:
    return HTTPException(status, text, LATER)
