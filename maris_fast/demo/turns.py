"""Gradio's queue, in which visitors take turns and none can take all places."""

from __future__ import annotations

from collections import Counter
from typing import Any

from gradio.queueing import Event, EventQueue, Queue

from maris_fast.web.visitors import OF_ONE, WAITING, in_turns, too_many, visitor_of


class Turns(Queue):
    """The queue of ``blocks``. A visitor is an address, since clients choose the names of sessions."""

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
        if sum(visitor_of(event.request) == visitor_of(request) for event in waiting) >= OF_ONE:
            return False, too_many(), "queue_full"
        return await super().push(body, request, username)

    def get_events(self) -> Any:
        for one in self.event_queue_per_concurrency_id.values():
            if one.concurrency_limit is None or one.current_concurrency < one.concurrency_limit:
                self._take_turns(one)
        return super().get_events()

    def _take_turns(self, waiting: EventQueue) -> None:
        computed = Counter(visitor_of(event.request) for job in self.active_jobs for event in job or ())
        waiting.queue[:] = in_turns(waiting.queue, _of_event, computed)


def _of_event(event: Event) -> str:
    return visitor_of(event.request)
