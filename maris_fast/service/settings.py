"""Settings of the service."""

from __future__ import annotations

from dataclasses import dataclass

from maris_fast.web.limits import MOST_PIXELS, MOST_SENTENCES, MOST_UPLOADED
from maris_fast.web.visitors import OF_ONE, WAITING


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
    held_bytes: int = 512 << 20
    """Most bytes of all requests that are not answered yet."""
    seconds: float = 60.0
    """Time limit for answering a request, from its last byte."""
    grace: float = 25.0
    """Seconds for current requests to finish when the service is told to end."""
    keep_images: int = 8
    """Photographs whose features are cached."""
