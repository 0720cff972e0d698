"""What each peer's script does between a network's output and the scores that it prints, one entry per peer.

``docs/scoring.md`` has the commits of the scripts, how they were run against this module, and what our logits
can't reproduce.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from maris_fast.errors import ConfigError
from maris_fast.scoring.canvas import Canvas, Letterboxed, Original, Squashed, Warped

ALL = "all"

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""The X of Pr@X."""


def precision_name(level: float) -> str:
    return f"Pr@{round(100 * level)}"


@dataclass(frozen=True)
class Protocol:
    """A way of scoring. oIoU = ΣI / ΣU, mIoU = mean IoU of expressions, Pr@X = share of IoUs above X."""

    name: str
    script: str
    """Its source: repository and file."""
    canvas: Canvas
    prints: Mapping[str, str]
    """Scores that the script prints: its own name of each, and ours."""
    threshold: float = 0.0
    """A pixel is predicted where the canvas' value is above this."""
    twice_covered: Literal["kept", "dropped"] = "kept"
    """Whether the truth keeps pixels that lie inside two of an annotation's polygons."""
    sentences: Literal["all", "first"] = "all"
    """Which of a ref's sentences count."""
    at_least: bool = False
    """Pr@X counts IoU ≥ X, not > X."""
    levels: tuple[float, ...] = THRESHOLDS
    added: tuple[float, float] = (0.0, 0.0)
    """Added to I and U of each expression's IoU: the script's guard against division by 0."""
    empty: float = 0.0
    """IoU where the union is empty."""
    takes_masks: bool = False
    """Whether its script is given masks, made with any threshold."""
    none_apart: bool = False
    """Whether gRefCOCO's rules apply to expressions without a target and no-target outputs; see ``count``."""

    @property
    def cut_at(self) -> float:
        """Probability above which its script predicts a pixel."""
        return self.threshold if self.canvas.probabilities else 1 / (1 + math.exp(-self.threshold))

    def reaches(self, iou: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
        return iou >= level if self.at_least else iou > level


class Pixels(NamedTuple):
    """Pixel counts of one expression on one canvas."""

    both: int
    """Predicted and true."""
    predicted: int
    true: int


class Count(NamedTuple):
    """One expression under one protocol."""

    intersection: int
    union: int
    iou: float
    says_none: bool
    """Whether the model says that there is no target."""


def count(protocol: Protocol, pixels: Pixels, no_target: bool | None, *, targetless: bool) -> Count:
    """Apply a protocol to a comparison on its canvas.

    Args:
        no_target: the model's no-target output; None if it has none, and then an empty mask says that there
            is no target. If it is true, no pixel counts as predicted, but with ``none_apart`` the pixels that
            would have been predicted stay in the union of an expression that does have a target.
        targetless: whether the expression has no target. (An object may be too small for the canvas.)
    """
    both, predicted, true = pixels
    says_none = not predicted if no_target is None else no_target
    if no_target and not protocol.none_apart:
        both = predicted = 0
    union = predicted + true - both
    if protocol.none_apart and targetless:
        return Count(0, 0 if says_none else union, float(says_none), says_none)
    if protocol.none_apart and says_none:
        both = 0
    return Count(both, union, _iou(protocol, both, union), says_none)


def _iou(protocol: Protocol, intersection: int, union: int) -> float:
    if union == 0:
        return protocol.empty
    return (intersection + protocol.added[0]) / (union + protocol.added[1])


def _precisions(pattern: str, levels: Sequence[float]) -> dict[str, str]:
    return {pattern.format(level, round(100 * level)): precision_name(level) for level in levels}


MARIS = Protocol(
    name="maris",
    script="this project: at the image's own size, SAM's way back",
    canvas=Original(),
    empty=1.0,
    prints={"oIoU": "oIoU", "mIoU": "mIoU", **_precisions("Pr@{1}", THRESHOLDS)},
)

LAVT = Protocol(
    name="lavt",
    script="yz93/LAVT-RIS test.py",
    canvas=Squashed(480),
    twice_covered="dropped",  # annot[ref_mask == 1] = 1
    at_least=True,
    prints={"Mean IoU": "mIoU", **_precisions("precision@{0:.1f}", THRESHOLDS), "overall IoU": "oIoU"},
)

# In float32, .7 and .9 are slightly below, .6 and .8 slightly above their decimal values.
_CRIS_LEVELS = tuple(torch.arange(0.5, 1.0, 0.1).tolist())

CRIS = Protocol(
    name="cris",
    script="DerrickWang005/CRIS.pytorch engine/engine.py `inference`",
    canvas=Warped(416),
    threshold=0.35,
    levels=_CRIS_LEVELS,
    added=(0.0, 1e-6),
    prints={"IoU": "mIoU", **_precisions("Pr@{1}", _CRIS_LEVELS)},
)

CRIS_VAL = replace(
    CRIS,
    name="cris-val",
    script="DerrickWang005/CRIS.pytorch engine/engine.py `validate`, which picks the best epoch",
    sentences="first",
)

RELA = Protocol(
    name="rela",
    script="henghuiding/ReLA gres_model/evaluation/refer_evaluation.py",
    canvas=Squashed(480),  # INPUT.IMAGE_SIZE of configs/referring_*.yaml; the base file's 1024 is overridden
    at_least=True,
    none_apart=True,
    prints={
        "gIoU": "mIoU",
        "cIoU": "oIoU",
        "T_acc": "T-acc",
        "N_acc": "N-acc",
        **_precisions("Pr@{0:.1f}", (0.7, 0.8, 0.9)),
    },
)

LISA = Protocol(
    name="lisa",
    script="dvlab-research/LISA train_ds.py `validate`",
    canvas=Original(),
    twice_covered="dropped",  # histc with two bins from 0 to 1 ignores the 2
    added=(0.0, 1e-5),
    empty=1.0,
    prints={"giou": "mIoU", "ciou": "oIoU"},
)

_VLT_LEVELS = tuple(np.arange(0.5, 1, 0.05).tolist())

VLT = Protocol(
    name="vlt",
    script="henghuiding/Vision-Language-Transformer callbacks/eval.py, printed by executor.py",
    canvas=Letterboxed(416),
    threshold=0.35,
    levels=_VLT_LEVELS,
    added=(1e-10, 1e-10),
    empty=1.0,
    prints={"seg_iou": "mIoU", **_precisions("prec@{0:.2f}", _VLT_LEVELS)},
)

PHRASECUT = Protocol(
    name="phrasecut",
    script="ChenyunWu/PhraseCutDataset utils/evaluator.py",
    canvas=Original(),
    takes_masks=True,
    prints={"mean_mask_iou": "mIoU", "cum_mask_iou": "oIoU", **_precisions("acc{0:.1f}", THRESHOLDS)},
)

PROTOCOLS = {
    protocol.name: protocol for protocol in (MARIS, LAVT, CRIS, CRIS_VAL, RELA, LISA, VLT, PHRASECUT)
}


def named(names: Sequence[str]) -> tuple[Protocol, ...]:
    """The protocols of ``names``, each once, in the order of ``PROTOCOLS``; "all" names all.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        if name not in PROTOCOLS and name != ALL:
            raise ConfigError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}, and {ALL}")
    return tuple(one for one in PROTOCOLS.values() if one.name in names or ALL in names)
