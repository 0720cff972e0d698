"""What an operator sets of the service."""

from __future__ import annotations

from dataclasses import dataclass

from maris_fast.web.limits import MOST_PIXELS, MOST_SENTENCES, MOST_UPLOADED
from maris_fast.web.visitors import OF_ONE, WAITING


@dataclass(frozen=True)
class ServiceSettings:
    upload_bytes: int = MOST_UPLOADED
    """Of a photograph's file."""
    pixels: int = MOST_PIXELS
    """Of a photograph."""
    sentences: int = MOST_SENTENCES
    """About a photograph at once."""
    at_once: int = 8
    """Requests that are worked on, and may share a forward pass."""
    waiting: int = WAITING
    """Requests in the queue."""
    of_one: int = OF_ONE
    """Of them, those of one address."""
    held_bytes: int = 512 << 20
    """Of all requests that were not answered yet."""
    seconds: float = 60.0
    """In which a request is answered, from its last byte."""
    grace: float = 25.0
    """Seconds for the requests that are there when the service is asked to end."""
    keep_images: int = 8
    """Photographs whose features are kept."""
