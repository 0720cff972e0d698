"""Checks that a text is a sentence that every later step can read; the same for every importer."""

from __future__ import annotations

import re
import unicodedata

from maris_fast.data_shards.importers.left_out import Fault

EMPTY = "empty sentences; correct or remove them in the annotation file"
DAMAGED = (
    "texts with half a character, as a cut or wrongly decoded emoji leaves it; correct them in the "
    "annotation file"
)
CONTROL = "texts with control characters; correct them in the annotation file"
LONG = "sentences longer than CLIP's text tower reads, 77 tokens with start and end; shorten or divide them"
"""Values of ``Fault.kind``."""

CLIP_TOKENS = 77
"""With start and end. The tower is chosen when a cache is built; nearly all of CLIP's have this length."""

_CONTROL = re.compile("[\x00-\x1f\x7f]")
_SPACES = re.compile("[\t\n\v\f\r]")
_WITHOUT_INK = {"Cc", "Cf", "Zs", "Zl", "Zp", "Mn"}
"""Unicode categories: control and format characters, spaces, combining marks."""
_HALF = "\ufffd"
"""What a decoder writes in place of what it cannot decode."""


def sentence_of(text: str, where: str) -> str | Fault:
    """The text, stripped and without line breaks, or why it is not a sentence.

    Args:
        where: file and ids, for the fault.
    """
    text = _SPACES.sub(" ", text).strip()
    if all(unicodedata.category(character) in _WITHOUT_INK for character in text):
        return Fault(EMPTY, where)
    if fault := label_fault(text, where):
        return fault
    tokens = _tokens(text)
    if tokens == 0:  # only entities such as &nbsp;
        return Fault(EMPTY, where)
    if tokens > CLIP_TOKENS - 2:
        return Fault(LONG, f"{where}: {tokens + 2} tokens in {text[:60]!r}")
    return text


def label_fault(text: str, where: str) -> Fault | None:
    """What is wrong with a text such as a category, a kind of expression or a path; None: nothing."""
    if _HALF in text or not is_unicode(text):
        return Fault(DAMAGED, f"{where}: {text[:60]!r}")
    if _CONTROL.search(text):
        return Fault(CONTROL, f"{where}: {text[:60]!r}")
    return None


def is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8; a pickle or JSON can hold halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tokens(text: str) -> int:
    """The number of tokens, or just 1 if it is certainly between 1 and what the tower takes."""
    if text.isascii() and "&" not in text and len(text) <= CLIP_TOKENS - 2:
        return 1  # at most one per character; the tokeniser takes seconds to import
    from maris_fast.encoders.tokens import tokens_of

    return len(tokens_of(text).ids)
