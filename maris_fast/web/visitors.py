"""Visitors of a server: who sent a request, and whose turn it is."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

WAITING = 200
"""Most requests in the queue; further ones are refused because it is full."""
OF_ONE = 64
"""Most requests in the queue from one visitor, or from all behind one address."""

_Request = TypeVar("_Request")


def too_many(of_one: int = OF_ONE) -> str:
    """Message for a visitor that has too many waiting requests."""
    return f"{of_one} requests of yours are waiting; send more when they are done"


def visitor(host: str) -> str:
    """The visitor at a client's address; for IPv6 its /64 network, of which one visitor has all addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False) if address.version == 6 else address)


def visitor_of(request: Any) -> str:
    """The visitor who sent a request of Starlette or Gradio."""
    return visitor(request.client.host if request.client else "")


def in_turns(
    waiting: Sequence[_Request],
    visitor_of: Callable[[_Request], str],
    computed: Counter[str],
    last: Mapping[str, int] = MappingProxyType({}),
) -> list[_Request]:
    """The requests in round-robin order: every visitor's first before any visitor's second.

    Args:
        computed: each visitor's number of requests that are being computed; they count as turns taken.
        last: the number of each visitor's last turn, if known; the one with the oldest turn comes first.
    """
    had = computed.copy()
    turns = []
    for request in waiting:
        who = visitor_of(request)
        turns.append((had[who], last.get(who, -1)))
        had[who] += 1
    return [waiting[place] for place in sorted(range(len(waiting)), key=turns.__getitem__)]
