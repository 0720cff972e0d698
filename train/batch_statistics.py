"""BatchNorm across ranks.

Each rank normalises by its own share of the step: torch's SyncBatchNorm does not run on CPUs, and DeepSpeed
has none. The running statistics, which evaluation uses, are therefore averaged over ranks before use, that is
before an evaluation and in a checkpoint. The mean of the ranks' variances is a little below the
variance of all pixels together, by the variance of the ranks' means.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def average_batch_statistics(model: nn.Module) -> None:
    """Sets every running mean and variance to its mean over ranks. All ranks must call it."""
    world = dist.get_world_size()
    buffers = [
        buffer
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if world == 1 or not buffers:
        return
    joined = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(joined)
    joined /= world
    for buffer, mean in zip(buffers, joined.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
