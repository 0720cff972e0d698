"""Words as CLIP's tokeniser divides them, without a text tower."""

from __future__ import annotations

from functools import cache

from open_clip import SimpleTokenizer


@cache
def tokeniser() -> SimpleTokenizer:
    """CLIP's own, which all its towers share; open_clip's import takes seconds."""
    return SimpleTokenizer()
