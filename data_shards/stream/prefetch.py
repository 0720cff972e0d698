"""Compute a few items ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1


def prefetch(
    items: Iterable[T], depth: int, stop_source: Callable[[], object] | None = None
) -> Generator[T, None, None]:
    """The same items, computed up to ``depth`` ahead by a background thread.

    An exception from the source is raised here, after the items before it. Closing or dropping the iterator
    stops the thread; ``stop_source`` is called first, for a source that may be waiting for something.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None, last: bool) -> None:
        while not stop.is_set():
            try:
                ready.put((item, error, last), timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item, None, False)
                if stop.is_set():
                    return
        except BaseException as error:  # any error must reach the consumer
            put(None, error, True)
        else:
            put(None, None, True)

    def consume() -> Generator[T, None, None]:
        worker = threading.Thread(target=work, name="prefetch", daemon=True)
        worker.start()
        try:
            while True:
                item, error, last = ready.get()
                if error is not None:
                    raise error
                if last:
                    return
                yield item  # type: ignore[misc]
        finally:
            stop.set()
            if stop_source is not None:
                stop_source()
            worker.join()

    return consume()
