"""Files of the one Label Studio server that an operator names; no other address is ever fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

import httpx
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from maris_fast.errors import ConfigError
from maris_fast.images import Upload

SECONDS = 20.0
"""Time limit of a fetch, from the request for a token to the last byte."""


class LabelStudioFiles:
    """
    Args:
        server: URL of the server, such as ``http://localhost:8080``.
        key: a user's personal access token or legacy token; None: only files that are public.
        most: maximum bytes of a file.

    Raises:
        ConfigError: ``server`` is not an http or https URL.
    """

    def __init__(self, server: str, key: str | None, most: int) -> None:
        if not _is_server(server):
            raise ConfigError(
                f"`label_studio` is {server!r}; expected an address such as http://localhost:8080"
            )
        self._server, self._key, self._most = server.rstrip("/") + "/", key, most

    async def fetch(self, address: str) -> Upload:
        """
        Args:
            address: URL at the server, or relative to it, as in the data of tasks.

        Raises:
            HTTPException: the file is on another server, not available, or too large.
        """
        try:
            whole = httpx.URL(urljoin(self._server, address))
            is_there = _origin(str(whole)) == _origin(self._server)
        except (ValueError, httpx.InvalidURL) as error:
            raise HTTPException(
                422, "the address of its image is not a URL; expected one of the Label Studio server"
            ) from error
        if not is_there:
            raise HTTPException(422, "its image is not at the Label Studio server that this service may ask")
        try:
            async with (
                asyncio.timeout(SECONDS),
                httpx.AsyncClient(timeout=None, follow_redirects=False, trust_env=False) as client,
            ):
                return Upload(await self._content(client, whole))
        except TimeoutError as error:
            raise HTTPException(502, f"Label Studio does not give its image within {SECONDS:g} s") from error
        except httpx.HTTPError as error:
            raise HTTPException(
                502, f"Label Studio does not give its image ({type(error).__name__})"
            ) from error

    async def _content(self, client: httpx.AsyncClient, address: httpx.URL) -> bytes:
        content = bytearray()
        async with client.stream("GET", address, headers=await self._headers(client)) as answer:
            if answer.status_code != 200:
                raise HTTPException(
                    502,
                    f"Label Studio answers {answer.status_code} where its image should be; is "
                    "LABEL_STUDIO_API_KEY that of a user who may see the project?",
                )
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > self._most:
                    raise HTTPException(413, f"its image has more than {self._most:,} bytes")
        return bytes(content)

    async def _headers(self, client: httpx.AsyncClient) -> Mapping[str, str]:
        if self._key is None:
            return {}
        if self._key.count(".") != 2:
            return {"Authorization": f"Token {self._key}"}
        # A personal access token is exchanged for tokens that last minutes.
        answer = await client.post(urljoin(self._server, "api/token/refresh"), json={"refresh": self._key})
        if answer.status_code != 200:
            raise HTTPException(502, "Label Studio does not take LABEL_STUDIO_API_KEY")
        try:
            return {"Authorization": f"Bearer {_Token.model_validate_json(answer.content).access}"}
        except ValidationError as error:
            raise HTTPException(
                502,
                "Label Studio answers a token's refresh with something else; expected JSON with an `access`",
            ) from error


class _Token(BaseModel):
    access: str


def _is_server(address: str) -> bool:
    try:
        parts = urlsplit(address)
        httpx.URL(address)
    except (ValueError, httpx.InvalidURL):
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _origin(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.scheme, parts.netloc
