"""Referring segmentation scores under several protocols, from the same logits; see docs/scoring.md."""

from maris_fast.scoring.protocols import ALL, MARIS, PROTOCOLS, Pixels, Protocol, named
from maris_fast.scoring.rows import Rows
from maris_fast.scoring.summary import headline, whole

__all__ = [
    "ALL",
    "MARIS",
    "PROTOCOLS",
    "Pixels",
    "Protocol",
    "Rows",
    "headline",
    "named",
    "whole",
]
