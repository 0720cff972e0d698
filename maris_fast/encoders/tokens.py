"""Expressions as split by CLIP's tokeniser, without a text tower."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import NamedTuple

from open_clip import SimpleTokenizer

_END = "</w>"
"""Suffix of the last token of a word."""
_LONG = 1000
"""Characters; words of longer texts are not cached."""


@cache
def tokeniser() -> SimpleTokenizer:
    """CLIP's tokeniser, shared by all its towers; open_clip's import takes seconds."""
    return SimpleTokenizer()


class Tokens(NamedTuple):
    """Tokens of a text, without start and end tokens."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    """Readable form of each token; see ``readable``."""


def tokens_of(text: str) -> Tokens:
    """The tokens that ``tokeniser().encode`` returns, with their names.

    CLIP's cleaning leaves printable ASCII without HTML unchanged, and no token spans a blank: the words of
    such a text are looked up one by one, three times as fast as through ftfy and byte-pair encoding.
    """
    if len(text) > _LONG or not text.isascii() or not text.isprintable() or "&" in text:
        return _encoded(text)
    words = [_of_word(word) for word in text.split()]
    return Tokens(
        tuple(chain.from_iterable(word.ids for word in words)),
        tuple(chain.from_iterable(word.names for word in words)),
    )


@lru_cache(maxsize=1 << 16)
def _of_word(word: str) -> Tokens:
    return _encoded(word)


def _encoded(text: str) -> Tokens:
    ids = tokeniser().encode(text)
    return Tokens(tuple(ids), tuple(readable(ids)))


def readable(ids: Sequence[int]) -> list[str]:
    """Human-readable form of each token.

    Tokens are pieces of UTF-8, and in non-Latin scripts mostly less than a letter: if one is, each token of
    its word is named by the word and its number in it, such as ``犬 1/2``.
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
