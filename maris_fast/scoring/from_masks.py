"""Protocols for masks that were thresholded elsewhere: which scores can be computed without their logits.

A mask at the image's own size is what a script compares, if it compares at that size and the mask was cut at
the script's threshold. On a square canvas the mask is resampled by nearest neighbour, as the truth is; the
script itself thresholds logits there.
"""

from __future__ import annotations

from collections.abc import Sequence

from maris_fast.errors import ConfigError
from maris_fast.scoring.canvas import Squashed
from maris_fast.scoring.protocols import MARIS, Protocol


def computable(protocols: Sequence[Protocol], cut_at: float, *, named: bool) -> tuple[Protocol, ...]:
    """The ``protocols`` that can score masks cut at this probability; MARIS' always can.

    Args:
        named: whether the user named the protocols one by one; else those that cannot are omitted.

    Raises:
        ConfigError: a named protocol cannot score them.
    """
    refused = {one.name: reason for one in protocols if (reason := why_not(one, cut_at))}
    if named and refused:
        raise ConfigError("; ".join(f"protocol {name}: {reason}" for name, reason in refused.items()))
    return tuple(one for one in protocols if one.name not in refused)


def why_not(protocol: Protocol, cut_at: float) -> str | None:
    """Why a protocol cannot score masks cut at ``cut_at``; None: it can. MARIS' accepts all masks."""
    if protocol == MARIS or protocol.takes_masks or protocol.cut_at == cut_at:
        return None
    return (
        f"its script predicts where p > {protocol.cut_at:g}, these masks were cut at p > {cut_at:g}, and a "
        f"mask has no probabilities; cut yours at {protocol.cut_at:g} and give that as the threshold"
    )


def how(protocol: Protocol) -> str:
    """A description of what the protocol does with a mask."""
    if isinstance(protocol.canvas, Squashed):
        size = protocol.canvas.size
        return f"masks resampled to {size} x {size} by nearest pixels, where its script cuts logits"
    if protocol.takes_masks or protocol.canvas.probabilities:
        return "masks as they are; the way to them, and the threshold, were yours"
    return "masks as they are"
