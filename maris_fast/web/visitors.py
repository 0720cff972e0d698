"""Visitors of a server: whom a request is from, and whose turn it is."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

WAITING = 200
"""Requests in the queue; more are told that it is full."""
OF_ONE = 64
"""Of them, those of one visitor, or of all behind one address."""

_Request = TypeVar("_Request")


def too_many(of_one: int = OF_ONE) -> str:
    """What a visitor is told of whom so many requests wait."""
    return f"{of_one} requests of yours are waiting; send more when they are done"


def visitor(host: str) -> str:
    """Of an address that requests come from; of IPv6 the network, in which one visitor has all addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False) if address.version == 6 else address)


def visitor_of(request: Any) -> str:
    """Of a request, as Starlette and Gradio have them."""
    return visitor(request.client.host if request.client else "")


def in_turns(
    waiting: Sequence[_Request],
    visitor_of: Callable[[_Request], str],
    computed: Counter[str],
    last: Mapping[str, int] = MappingProxyType({}),
) -> list[_Request]:
    """Everybody's first request before anybody's second.

    Args:
        computed: how many of each visitor are computed now; they count as turns that were had.
        last: the number of each visitor's last turn, where it is known; who has waited longest comes first.
    """
    had = computed.copy()
    turns = []
    for request in waiting:
        who = visitor_of(request)
        turns.append((had[who], last.get(who, -1)))
        had[who] += 1
    return [waiting[place] for place in sorted(range(len(waiting)), key=turns.__getitem__)]
