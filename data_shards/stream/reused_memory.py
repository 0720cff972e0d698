"""Memory for tensors that their consumer owns, reused once nothing refers to them."""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from maris_fast.data_shards.stream.pages import fresh_pages


class ReusedMemory:
    """A pool of host memory for tensors; memory returns with the last reference to a tensor's storage.

    So a tensor that is referenced, also as a view, in an autograd graph or as a numpy array, is never
    overwritten. Fresh memory would be zeroed by the system page by page, which takes longer than filling it.
    ``empty`` is called by one thread; tensors may be freed in any.

    Args:
        most: free buffers to keep; further ones are returned to the system.
    """

    def __init__(self, most: int) -> None:
        self._free: deque[mmap.mmap] = deque(maxlen=most)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor on the CPU, of at least one element."""
        size = prod(shape) * dtype.itemsize
        pages = self._take(size)
        # A new array each time: the storage holds it, and it is freed with the storage.
        held = np.frombuffer(pages, np.uint8, size)
        weakref.finalize(held, self._free.append, pages).atexit = False
        return torch.from_numpy(held).view(dtype).view(*shape)

    def _take(self, size: int) -> mmap.mmap:
        if self._free and len(pages := self._free.popleft()) >= size:
            return pages
        # Batches differ in size: a buffer that is too small is replaced, so that few sizes remain.
        return fresh_pages(size)
