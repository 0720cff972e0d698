"""Settings of the service."""

from __future__ import annotations

from dataclasses import dataclass

from maris_fast.web.limits import MOST_PIXELS, MOST_SENTENCES, MOST_UPLOADED
from maris_fast.web.visitors import OF_ONE, WAITING

HELD = 512 << 20
"""Bytes of requests that are held at least."""
LARGEST_HELD = 4
"""Requests of the largest size that can be held."""
MOST_BESIDE = 64 << 10
"""Most bytes of a request besides the photograph."""


@dataclass(frozen=True)
class ServiceSettings:
    upload_bytes: int = MOST_UPLOADED
    """Most bytes of a photograph's file."""
    pixels: int = MOST_PIXELS
    """Most pixels of a photograph."""
    sentences: int = MOST_SENTENCES
    """Most sentences about a photograph in one request."""
    at_once: int = 8
    """Requests that are processed concurrently, and may share a forward pass."""
    waiting: int = WAITING
    """Most requests in the queue."""
    of_one: int = OF_ONE
    """Most requests in the queue from one address."""
    held_bytes: int | None = None
    """Most bytes of all requests that are not answered yet; None: ``HELD``, or more if requests are large."""
    seconds: float = 60.0
    """Time limit for answering a request, from its last byte."""
    grace: float = 25.0
    """Seconds for current requests to finish when the service is told to end."""
    keep_images: int = 8
    """Photographs whose features are cached."""

    @property
    def request_bytes(self) -> int:
        """Most bytes of a request; base64 makes a photograph a third larger."""
        return self.upload_bytes * 4 // 3 + MOST_BESIDE

    @property
    def room(self) -> int:
        """Most bytes of requests that are held."""
        if self.held_bytes is not None:
            return self.held_bytes
        return max(HELD, LARGEST_HELD * self.request_bytes)
