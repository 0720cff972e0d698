"""Compare predictions with truths in batches on the model's device: only pixel counts are copied back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maris_fast.geometry import PATCH, ImageGeometry, to_resized_image
from maris_fast.rle import Rle
from maris_fast.sample import Sample
from maris_fast.scoring.canvas import Canvas, probabilities_of, stacked
from maris_fast.scoring.protocols import Pixels, Protocol

ROOM = {"cpu": 1 << 22, "cuda": 1 << 29}
"""Bytes of resized logits at a time, unless one expression has more: on a CPU, few enough to be compared
while they are in its cache, and for their memory to be reused."""

Cut = tuple[Canvas, float]
"""A canvas, and the threshold above which its pixels are predicted."""


class Comparer:
    """Compares predictions with truths under the given protocols."""

    def __init__(self, protocols: Sequence[Protocol]) -> None:
        self._protocols = protocols
        self._truths: dict[tuple[Rle, Rle | None], _Truth] = {}

    def of_logits(
        self,
        logits: Tensor,
        samples: Sequence[Sample],
        see: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """
        Args:
            logits: [E, 4h, 4w].
            samples: E, of images on that grid.
            see: called with the index of each sample and its mask under the first protocol, bool [H, W], on
                the logits' device.

        Returns:
            Int64 [E, protocols, 3], the fields of ``Pixels``, on the logits' device, without synchronising
            with a GPU.
        """
        order: list[int] = []
        parts = []
        for places in _of_one_size(samples, logits.device):
            some = [samples[place] for place in places]
            of_size = stacked([logits[place] for place in places])
            masks = _predicted(of_size, some[0].geometry, self._cuts)
            parts.append(self._compared(masks, some, logits.device))
            order += places
            if see is not None:
                for place, mask in zip(places, masks[_cut(self._protocols[0])], strict=True):
                    see(place, mask)
        back = torch.tensor(order).argsort()
        return torch.cat(parts)[back.to(logits.device, non_blocking=True)]

    def of_mask(self, prediction: NDArray[np.bool_], sample: Sample) -> list[Pixels]:
        """Compare a mask at the image's own size, resampled to the protocols' canvases as the truth is.

        Raises:
            ValueError: its size differs from the truth's.
        """
        if prediction.shape != sample.target.size:
            raise ValueError(
                f"the prediction is {prediction.shape}, the truth {sample.target.size}; expected one size"
            )
        masks = {cut: torch.from_numpy(cut[0].truth(prediction))[None] for cut in self._cuts}
        (numbers,) = self._compared(masks, [sample], torch.device("cpu")).tolist()
        return [Pixels(*one) for one in numbers]

    @property
    def _cuts(self) -> Sequence[Cut]:
        return list(dict.fromkeys(_cut(one) for one in self._protocols))

    def _compared(
        self, masks: Mapping[Cut, Tensor], samples: Sequence[Sample], device: torch.device
    ) -> Tensor:
        """Int64 [E, protocols, 3], from masks [E, H, W] of each cut."""
        truths = self._truths_of(samples)
        numbers: dict[tuple[int, ...], Tensor] = {}
        columns = []
        for protocol in self._protocols:
            predicted = masks[_cut(protocol)]
            true = [one.under(protocol, device) for one in truths]
            which = id(predicted), *(id(mask) for mask, _ in true)
            if which not in numbers:
                numbers[which] = _counted(predicted, true)
            columns.append(numbers[which])
        return torch.stack(columns, dim=1)

    def _truths_of(self, samples: Sequence[Sample]) -> list[_Truth]:
        """Truth of each sample; the previous call's are cached, as a ref's sentences are consecutive."""
        of_each = [(one.target, one.overlap) for one in samples]
        self._truths = {
            one: self._truths[one] if one in self._truths else _Truth(*one) for one in dict.fromkeys(of_each)
        }
        return [self._truths[one] for one in of_each]


class _Truth:
    """A ref's pixels, decoded once and cached on each canvas and device requested."""

    def __init__(self, target: Rle, overlap: Rle | None) -> None:
        self._kept = target.decode()
        self._dropped = self._kept
        if overlap is not None and overlap.area:
            self._dropped = self._kept & ~overlap.decode()
        self._on: dict[tuple[Canvas, bool, torch.device], tuple[Tensor, int]] = {}

    def under(self, protocol: Protocol, device: torch.device) -> tuple[Tensor, int]:
        """Bool [H, W] on the protocol's canvas, and the number of pixels inside."""
        dropped = protocol.twice_covered == "dropped" and self._dropped is not self._kept
        key = protocol.canvas, dropped, device
        if key not in self._on:
            pixels = protocol.canvas.truth(self._dropped if dropped else self._kept)
            self._on[key] = _sent(pixels, device), int(np.count_nonzero(pixels))
        return self._on[key]


def _of_one_size(samples: Sequence[Sample], device: torch.device) -> Iterator[list[int]]:
    """Indices of samples that are resized together: of one geometry, and no more than fit into ``ROOM``."""
    places: dict[ImageGeometry, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.geometry, []).append(place)
    for geometry, of_size in places.items():
        pixels = PATCH**2 * geometry.h * geometry.w + geometry.height * geometry.width
        together = max(1, ROOM[device.type] // (pixels * torch.float32.itemsize))
        for start in range(0, len(of_size), together):
            yield of_size[start : start + together]


def _cut(protocol: Protocol) -> Cut:
    return protocol.canvas, protocol.threshold


def _predicted(logits: Tensor, geometry: ImageGeometry, cuts: Sequence[Cut]) -> dict[Cut, Tensor]:
    """Masks of each cut, bool [E, H, W], from logits [E, 4h, 4w]."""
    made: dict[Cut, Tensor] = {}
    for kind in (False, True):
        of_kind = [cut for cut in cuts if cut[0].probabilities == kind]
        if of_kind:
            given = probabilities_of(logits) if kind else to_resized_image(logits, geometry)
            made |= {(canvas, at): _above(canvas.values(given, geometry), at) for canvas, at in of_kind}
    return made


def _above(values: Tensor, threshold: float) -> Tensor:
    if values.is_cuda:
        return values > threshold
    return torch.from_numpy(values.numpy() > threshold)  # five times as fast as torch's on a CPU


def _counted(predicted: Tensor, true: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Int64 [E, 3], the fields of ``Pixels``, from masks [E, H, W] and the truths with their areas."""
    if predicted.is_cuda:
        both = predicted & stacked([mask for mask, _ in true])
        areas = torch.tensor([area for _, area in true]).to(predicted.device, non_blocking=True)
        return torch.stack([both.sum((1, 2)), predicted.sum((1, 2)), areas], dim=1)
    # numpy counts 15 times as fast as torch on a CPU.
    return torch.tensor(
        [
            (np.count_nonzero(one & mask.numpy()), np.count_nonzero(one), area)
            for one, (mask, area) in zip(predicted.numpy(), true, strict=True)
        ]
    )


def _sent(pixels: NDArray[np.bool_], device: torch.device) -> Tensor:
    """Copy the pixels to ``device`` without blocking."""
    tensor = torch.from_numpy(pixels)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
