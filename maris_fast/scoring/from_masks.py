"""Everybody's rules for masks that somebody else has cut: what can be said of them without their logits.

A mask at the image's own size is what a script compares, if it compares there and if the mask was cut where
the script cuts. On a square canvas the mask is resampled by nearest pixels, as the truth is; the script
itself cuts logits there.
"""

from __future__ import annotations

from collections.abc import Sequence

from maris_fast.errors import ConfigError
from maris_fast.scoring.canvas import Squashed
from maris_fast.scoring.protocols import MARIS, Protocol


def computable(protocols: Sequence[Protocol], cut_at: float, *, named: bool) -> tuple[Protocol, ...]:
    """Those of ``protocols`` that masks cut at this probability can be scored by; MARIS' is always scored.

    Args:
        named: somebody named the protocols one by one; else those that cannot be are left out.

    Raises:
        ConfigError: one that was named cannot be.
    """
    refused = {one.name: reason for one in protocols if (reason := why_not(one, cut_at))}
    if named and refused:
        raise ConfigError("; ".join(f"protocol {name}: {reason}" for name, reason in refused.items()))
    return tuple(one for one in protocols if one.name not in refused)


def why_not(protocol: Protocol, cut_at: float) -> str | None:
    """Why such masks cannot be scored by a protocol; None: they can. MARIS' takes all masks as they are."""
    if protocol == MARIS or protocol.takes_masks or protocol.cut_at == cut_at:
        return None
    return (
        f"its script predicts where p > {protocol.cut_at:g}, these masks were cut at p > {cut_at:g}, and a "
        f"mask has no probabilities; cut yours at {protocol.cut_at:g} and give that as the threshold"
    )


def how(protocol: Protocol) -> str:
    """What is done with a mask, in words."""
    if isinstance(protocol.canvas, Squashed):
        size = protocol.canvas.size
        return f"masks resampled to {size} x {size} by nearest pixels, where its script cuts logits"
    if protocol.takes_masks or protocol.canvas.probabilities:
        return "masks as they are; the way to them, and the threshold, were yours"
    return "masks as they are"
