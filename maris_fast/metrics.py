"""What is measured of a batch while training, and the precisions of all scores (see ``scoring``)."""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def pixel_overlap(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """ΣI and ΣU of a batch, int64 [2], where it is computed: nothing waits for the device.

    Args:
        logits: [E, H, W]; a pixel is predicted where > 0.
        targets: [E, H, W] of 0 and 1, any dtype.
        weights: [E]; an expression of weight 0 is padding and counts for nothing.
    """
    real = (weights > 0)[:, None, None]
    predicted, wanted = (logits > 0) & real, (targets > 0) & real
    return torch.stack([(predicted & wanted).sum(), (predicted | wanted).sum()])
