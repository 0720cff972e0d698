"""Scores of referring image segmentation, as sums that ranks can add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)

ALL = "all"


class SegmentationScores:
    """oIoU = ΣI / ΣU over all expressions, mIoU = mean of I / U, Pr@X = share with I / U > X.

    Masks are compared at the image's original size. Where an expression names its kind, the same scores are
    kept for each kind.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}

    def update(
        self, prediction: NDArray[np.bool_], target: NDArray[np.bool_], kind: str | None = None
    ) -> float:
        """Adds one expression; masks [H, W]. Returns its I / U; two empty masks agree, which is 1.

        Raises:
            ValueError: masks of different sizes.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"the prediction is {prediction.shape}, the target {target.shape}; needed is one size"
            )
        intersection = int(np.count_nonzero(prediction & target))
        union = int(np.count_nonzero(prediction | target))
        iou = intersection / union if union else 1.0
        row = np.array([1, intersection, union, iou, *(iou > x for x in THRESHOLDS)], dtype=np.float64)
        for name in (ALL, kind) if kind else (ALL,):
            self._sums[name] = self._sums.get(name, 0) + row
        return iou

    def merge(self, other: Mapping[str, list[float]]) -> None:
        """Adds another rank's ``state()``."""
        for name, row in other.items():
            self._sums[name] = self._sums.get(name, 0) + np.array(row)

    def state(self) -> dict[str, list[float]]:
        """Plain sums by kind, to be sent to other ranks."""
        return {name: row.tolist() for name, row in self._sums.items()}

    def summary(self) -> dict[str, Any]:
        """{'expressions', 'oIoU', 'mIoU', 'Pr@50', ..., 'kinds': {kind: the same}}, scores from 0 to 1."""
        kinds = {name: _scores(row) for name, row in sorted(self._sums.items()) if name != ALL}
        whole = self._sums.get(ALL)
        return {**(_scores(whole) if whole is not None else {"expressions": 0}), "kinds": kinds}


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


def _scores(row: NDArray[np.float64]) -> dict[str, float]:
    count, intersection, union, iou, *above = row.tolist()
    return {
        "expressions": int(count),
        "oIoU": intersection / union if union else 1.0,
        "mIoU": iou / count,
        **{f"Pr@{round(100 * x)}": n / count for x, n in zip(THRESHOLDS, above, strict=True)},
    }
