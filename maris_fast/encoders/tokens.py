"""Words as CLIP's tokeniser divides them, without a text tower."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from open_clip import SimpleTokenizer

_END = "</w>"
"""Of the last token of a word."""


@cache
def tokeniser() -> SimpleTokenizer:
    """CLIP's own, which all its towers share; open_clip's import takes seconds."""
    return SimpleTokenizer()


def readable(ids: Sequence[int]) -> list[str]:
    """What each token stands for, as a person reads it.

    Tokens are pieces of UTF-8, and of other scripts than Latin mostly less than a letter: where one is, each
    token of its word is called by the word and its number in it, such as ``犬 1/2``.
    """
    names: list[str] = []
    word: list[bytes] = []
    for place, token in enumerate(ids):
        piece = tokeniser().decoder[token]
        word.append(bytes(tokeniser().byte_decoder[letter] for letter in piece.removesuffix(_END)))
        if piece.endswith(_END) or place == len(ids) - 1:
            names += _names(word)
            word = []
    return names


def _names(word: Sequence[bytes]) -> list[str]:
    try:
        return [piece.decode() for piece in word]
    except UnicodeDecodeError:
        whole = b"".join(word).decode(errors="replace")
        return [f"{whole} {place}/{len(word)}" for place in range(1, len(word) + 1)]
