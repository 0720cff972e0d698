"""Gradio's queue, in which visitors take turns and none takes all places."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Any

from gradio.queueing import Event, EventQueue, Queue

WAITING = 200
"""Requests in the queue; more are told that it is full."""
OF_ONE = 64
"""Of them, those of one visitor, or of all behind one address."""


class Turns(Queue):
    """The queue of ``blocks``. A visitor is an address, as whoever asks chooses the name of the session."""

    def __init__(self, blocks: Any) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=blocks.max_threads,
            update_intervals=1,
            max_size=WAITING,
            blocks=blocks,
        )

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        waiting = [event for one in self.event_queue_per_concurrency_id.values() for event in one.queue]
        if sum(visitor(event.request) == visitor(request) for event in waiting) >= OF_ONE:
            return (
                False,
                f"{OF_ONE} requests of yours are waiting; send more when they are done",
                "queue_full",
            )
        return await super().push(body, request, username)

    def get_events(self) -> Any:
        for one in self.event_queue_per_concurrency_id.values():
            if one.concurrency_limit is None or one.current_concurrency < one.concurrency_limit:
                self._take_turns(one)
        return super().get_events()

    def _take_turns(self, waiting: EventQueue) -> None:
        """Everybody's first request before anybody's second, those that are computed now counted in."""
        turns = Counter(visitor(event.request) for job in self.active_jobs for event in job or ())
        turn: dict[Event, int] = {}
        for event in waiting.queue:
            who = visitor(event.request)
            turn[event] = turns[who]
            turns[who] += 1
        waiting.queue.sort(key=turn.__getitem__)


def visitor(request: Any) -> str:
    """The address that a request comes from; of IPv6 the network, in which one visitor has all addresses."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    return str(ipaddress.ip_network((address, 64), strict=False) if address.version == 6 else address)
