"""Files of object stores and web servers, read by range requests; obstore is the client.

A request that fails with 5xx, 408 or 429, cannot connect or receives no bytes is retried with exponential
backoff for half of ``patience``; each attempt waits a quarter of it for bytes. So a server that stays down
raises an error before ``patience`` is over. A body that is cut or stalls is resumed from where it ended,
until nothing has arrived for half of ``patience``.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from maris_fast.config import StoreAddress
from maris_fast.errors import ConfigError, MarisError
from maris_fast.system.hub import LOGIN

CHUNK = 1 << 19
"""Bytes of a chunk: few enough to be in the core's cache when they are copied and checked."""
MOST_RETRIES = 10
_MOST_CUTS, _MOST_CUTS_AT_ONE_PLACE = 100, 6

T = TypeVar("T")


class StoreError(MarisError):
    """A server did not deliver what was requested. No sample is at fault, so none is skipped for it.

    Attributes:
        what: what the server answered, and what to change.
        status: HTTP status; None without an answer.
    """

    def __init__(self, where: str, what: str, status: int | None = None) -> None:
        super().__init__(f"{where}: {what}")
        self.what, self.status = what, status


class ObjectStore:
    """The files below an address. Thread-safe.

    Args:
        address: folder of the files.
        patience: seconds until a request that receives nothing is an error, retries included.
        configured: ``data.stall_seconds`` is the patience and ``data.requests`` limits the requests, so
            messages name these settings.

    Raises:
        ConfigError: obstore is not installed, or rejects the address or the environment's settings.
    """

    def __init__(self, address: StoreAddress, patience: float, *, configured: bool = False) -> None:
        self.address, self._patience, self._configured = address, patience, configured
        self._store = _connected(address, patience)

    def __truediv__(self, name: str) -> StoreAddress:
        return self.address / name

    def __str__(self) -> str:
        return str(self.address)

    def size(self, name: str) -> int:
        """Size of a file in bytes.

        Raises:
            StoreError: the server does not report it.
        """
        size: int = self._asked(name, lambda obstore: obstore.head(self._store, name)["size"])
        return size

    def sizes(self) -> dict[str, int]:
        """Names of all files and their sizes in bytes. Object stores only.

        Raises:
            StoreError: the server does not list them.
        """
        found = self._asked("", lambda obstore: obstore.list(self._store).collect())
        return {one["path"]: one["size"] for one in found}

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a file atomically. Object stores only.

        Raises:
            StoreError: the server rejects it.
        """
        self._asked(name, lambda obstore: obstore.put(self._store, name, content))

    def remove(self, name: str) -> None:
        """Remove a file if it exists. Object stores only."""
        try:
            self._asked(name, lambda obstore: obstore.delete(self._store, name))
        except StoreError as error:
            if error.status != 404:
                raise

    def stream(self, name: str, start: int, stop: int) -> Generator[bytes, None, None]:
        """Bytes ``start`` to ``stop`` of a file, in chunks of about 500 KB; fewer if the file ends earlier.

        Raises:
            StoreError: the server does not deliver them.
        """
        cuts = here = 0
        since = time.monotonic()
        while start < stop:
            before, answered = start, False
            try:
                chunks = self._opened(name, start, stop)
                answered = True
                while (chunk := self._asked(name, lambda _: next(chunks, None))) is not None:  # noqa: B023
                    start += len(chunk)
                    yield chunk
                    since = time.monotonic()
                return
            except StoreError as error:
                waited = time.monotonic() - since
                if waited > 2 * self._patience:
                    since = time.monotonic()  # this process was suspended, so its time-outs mean nothing
                    continue
                # obstore resumes by itself if the server gives a version (ETag) of the file.
                if error.status is not None or not answered:
                    raise
                cuts, here = cuts + 1, 1 if start > before else here + 1
                late = waited >= self._patience / 2
                if late or cuts == _MOST_CUTS or here == _MOST_CUTS_AT_ONE_PLACE:
                    raise StoreError(
                        str(self.address / name),
                        f"the connection was cut {cuts} times, the last after {start:,} bytes: {error.what}",
                    ) from error
                time.sleep(min(_first_pause(self._patience) * 2**here, self._patience / 8))

    def _opened(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        def work(obstore: Any) -> Iterator[bytes]:
            found = obstore.get(self._store, name, options={"range": (start, stop)})
            chunks: Iterator[bytes] = found.stream(CHUNK)
            return chunks

        try:
            return self._asked(name, work)
        except StoreError as error:
            # There is no range after a file's end: servers reject it, or send all of an empty file.
            if error.status in (200, 416) and self.size(name) <= start:
                return iter(())
            raise

    def _asked(self, name: str, work: Callable[[Any], T]) -> T:
        import obstore
        from obstore.exceptions import BaseError, NotSupportedError

        where = str(self.address / name if name else self.address)
        _require_no_fork(where)
        try:
            return _interruptible(lambda: work(obstore))
        except NotSupportedError as error:
            raise StoreError(
                where,
                "the server gives no parts of files (range requests); copy the cache to one that does, or to "
                "a local folder",
                200,
            ) from error
        except (BaseError, OSError) as error:
            told = _told(str(error), self.address, self._patience, self._configured)
            raise StoreError(where, *told) from error


def _interruptible(work: Callable[[], T]) -> T:
    """Run ``work`` outside the main thread, so that Ctrl-C does not wait for a server."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # raised in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="request", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


_process: int | None = None
"""PID of the process that uses obstore, whose threads do not survive a fork: a child's request would hang."""


def _require_no_fork(where: str) -> None:
    global _process
    _process = _process or os.getpid()
    if _process != os.getpid():
        raise ConfigError(
            f"{where}: this process was forked from one that reads addresses, and cannot; start it by spawn "
            "(multiprocessing.get_context('spawn'))"
        )


def _connected(address: StoreAddress, patience: float) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import HTTPStore, from_url
    except ImportError as error:
        raise ConfigError(
            f"{address} is read by obstore, which is not installed: pip install 'maris-fast[stores]'"
        ) from error
    options: dict[str, Any] = {
        "client_options": {
            "allow_http": True,  # where an address or AWS_ENDPOINT_URL says http://
            "connect_timeout": timedelta(seconds=min(5.0, patience / 4)),
            "read_timeout": timedelta(seconds=patience / 4),
            "timeout": timedelta(days=1),  # a large file may take long, provided that bytes arrive
        },
        "retry_config": {
            "max_retries": MOST_RETRIES,
            "retry_timeout": timedelta(seconds=patience / 2),
            "backoff": {
                "init_backoff": timedelta(seconds=_first_pause(patience)),
                "max_backoff": timedelta(seconds=patience / 8),
                "base": 2,
            },
        },
    }
    try:
        if address.scheme in ("s3", "gs"):
            return from_url(address.url, **options)
        url = address.url
        if address.scheme == "hf":
            url, token = _of_the_hub(address)
            if token:
                options["client_options"]["default_headers"] = {"authorization": f"Bearer {token}"}
        return HTTPStore(url, **options)
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{address} cannot be opened: {_first_line(str(error))}") from error


def _first_pause(patience: float) -> float:
    return min(0.1, patience / 100)


def _of_the_hub(address: StoreAddress) -> tuple[str, str | None]:
    """The Hub's URL of ``hf://datasets/ORG/NAME[@REVISION][/PATH]``, and the user's token."""
    from huggingface_hub import constants, get_token

    _, organisation, name, *path = address.url.removeprefix("hf://").split("/")
    name, _, revision = name.partition("@")
    parts = (constants.ENDPOINT, "datasets", organisation, name, "resolve", revision or "main", *path)
    return "/".join(parts), get_token()


_LOGIN = {
    "s3": "set or renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (for a public bucket "
    "AWS_SKIP_SIGNATURE=true), or the machine's role",
    "gs": "set or renew GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "hf": LOGIN,
}
# Services that give a cloud machine its credentials.
_ROLE = re.compile(r"169\.254\.169\.254|/latest/api/token|/latest/meta-data|computeMetadata")
_STATUS = re.compile(r"status code: (\d{3})([^:\n]*)(?:: (.*))?", re.DOTALL)


def _told(text: str, address: StoreAddress, patience: float, configured: bool) -> tuple[str, int | None]:
    """What an error of obstore means and what to do; the HTTP status, if there was an answer."""
    head, _, debug = text.partition("\n\nDebug source:")
    retries = re.search(r"after (\d+) retries", head)
    tries = f" after {retries[1]} retries" if retries else ""
    wait = f", or raise data.stall_seconds ({patience:g}) to wait longer" if configured else ""
    login = _LOGIN.get(address.scheme, "take an address that needs no login")
    if _ROLE.search(head):
        return f"no credentials found, and this machine has no role; {login}", None
    if found := _STATUS.search(head):
        status, name, body = int(found[1]), found[2], found[3] or ""
        code = re.search(r"<Code>([^<]{1,100})</Code>", body)
        what = f"{status}{name}{f' ({code[1]})' if code else ''}{tries}"
        if status in (401, 403):
            return f"{what}; {login}", status
        if status == 404:
            return f"{what}; copy it there, or check the address", status
        if status in (408, 429) or status >= 500:
            remedy = f"lower data.requests{wait}" if configured else "try again later"
            return f"{what}; the server is overloaded or failing: {remedy}", status
        return f"{what}; check the address", status
    for sign, what in (
        ("kind: Timeout", f"no answer in {patience / 4:g} s"),
        ("lookup address", "no such host"),
        ("ConnectionRefused", "nothing listens there (connection refused)"),
        ("ConnectionReset", "the server ended the connection"),
        ("IncompleteBody", "the server ended the connection early"),
        ("IncompleteMessage", "the server ended the connection without an answer"),
    ):
        if sign in debug:
            return f"{what}{tries}; check the address, the server and the network{wait}", None
    return f"{_first_line(head)}{tries if tries not in head else ''}; check the address and the network", None


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
