"""One call as a CUDA graph, whose replay is timed without the host's share."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Run the block on a stream of its own on a GPU: only there can a call be captured."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield
    torch.cuda.synchronize(device)


def captured(function: Callable[[], object]) -> Callable[[], None] | None:
    """One call as a CUDA graph on the current stream; None if it can't be captured."""
    for _ in range(2):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            function()
    except RuntimeError:
        gc.collect()
        torch.cuda.synchronize()
        return None
    return graph.replay
