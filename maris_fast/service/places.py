"""Places for requests that are being processed; the others wait, and visitors take turns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from maris_fast.service.refusals import later
from maris_fast.web.visitors import in_turns, too_many


@dataclass(frozen=True, eq=False)
class _Waiting:
    visitor: str
    called: asyncio.Future[None]


class Places:
    """``at_once`` requests have a place; at most ``most`` wait, and ``of_one`` of one visitor."""

    def __init__(self, at_once: int, most: int, of_one: int) -> None:
        self._at_once, self._most, self._of_one = at_once, most, of_one
        self._waiting: list[_Waiting] = []
        self._taken: Counter[str] = Counter()
        self._turn = 0
        self._last: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def are_full(self) -> bool:
        return len(self._waiting) >= self._most

    @asynccontextmanager
    async def taken(self, visitor: str) -> AsyncIterator[None]:
        """
        Raises:
            HTTPException: too many requests are already waiting.
        """
        if sum(one.visitor == visitor for one in self._waiting) >= self._of_one:
            raise later(too_many(self._of_one), 429)
        if self.are_full:
            raise later(f"{self._most} requests are waiting; ask again later")
        mine = _Waiting(visitor, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._call()
        try:
            await mine.called
            yield
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
            else:
                self._taken -= Counter([visitor])
            self._call()

    def _call(self) -> None:
        while self._waiting and self._taken.total() < self._at_once:
            first = in_turns(self._waiting, lambda one: one.visitor, self._taken, self._last)[0]
            self._waiting.remove(first)
            self._taken[first.visitor] += 1
            self._turn += 1
            self._last[first.visitor] = self._turn
            if not first.called.done():
                first.called.set_result(None)
        here = {*self._taken, *(one.visitor for one in self._waiting)}
        self._last = {visitor: turn for visitor, turn in self._last.items() if visitor in here}
