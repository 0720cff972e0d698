"""Batching of calls that arrive while others are being computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Together(Generic[_In, _Out]):
    """Batches calls without delay: those that wait when the previous batch ends start at once.

    Args:
        compute: returns the results of several calls, or an exception in place of a result. If it raises,
            each call is computed alone, so that an error of one does not affect others.
        size_of: returns the size of a call.
        most: maximum total size of a batch; a larger call is computed alone.
        thread: where ``compute`` runs, one batch at a time.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[_In]], Sequence[_Out | Exception]],
        size_of: Callable[[_In], int],
        most: int,
        thread: Executor,
    ) -> None:
        self._compute, self._size_of, self._most, self._thread = compute, size_of, most, thread
        self._waiting: list[tuple[_In, asyncio.Future[_Out]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, one: _In) -> _Out:
        future: asyncio.Future[_Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while batch := self._next():
                calls = [one for one, _ in batch]
                for (_, future), result in zip(batch, await self._results(calls), strict=True):
                    if future.done():  # the caller has left
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        finally:
            self._running = None

    def _next(self) -> list[tuple[_In, asyncio.Future[_Out]]]:
        self._waiting = [one for one in self._waiting if not one[1].done()]
        size = number = 0
        for one, _ in self._waiting:
            size += self._size_of(one)
            if number and size > self._most:
                break
            number += 1
        batch, self._waiting = self._waiting[:number], self._waiting[number:]
        return batch

    async def _results(self, calls: Sequence[_In]) -> Sequence[_Out | Exception]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._compute, calls)
        except Exception as error:
            if len(calls) == 1:
                return [error]
        return [(await self._results([one]))[0] for one in calls]
