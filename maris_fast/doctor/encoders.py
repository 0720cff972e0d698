"""Weights of the frozen encoders that a cache is to be made with."""

from __future__ import annotations

from collections.abc import Sequence

from maris_fast.config import RANDOM
from maris_fast.doctor.finding import Finding, ok, together, warning
from maris_fast.doctor.subject import Subject


def encoder_weights(subject: Subject) -> Finding:
    """The files are there, hold such encoders and fit their architecture; their numbers are not read."""
    from maris_fast.encoders.sam import check_sam_weights
    from maris_fast.encoders.text import find_text_weights

    assert subject.caching is not None
    sam, text = subject.caching.encoders.sam, subject.caching.encoders.text
    findings = []
    if sam.weights != RANDOM:
        check_sam_weights(sam)
        findings.append(ok(f"SAM {sam.arch}: {sam.weights}"))
    if text.weights != RANDOM:
        path = find_text_weights(text)
        findings.append(ok(f"CLIP {text.arch}: {path}") if path else _not_here(text.arch, text.weights))
    if subject.caching.encoders.random:
        findings.append(judge_random(subject.caching.encoders.random))
    return together(findings)


def judge_random(encoders: Sequence[str], before: str = "") -> Finding:
    """Features of ``encoders`` with random weights; ``before``: what else came."""
    return warning(
        f"{before}random weights in {' and '.join(encoders)}",
        "trained encoders, for anything but trials",
        "nothing, if this is a trial",
    )


def _not_here(arch: str, tag: str) -> Finding:
    return warning(
        f"CLIP {arch}: {tag!r} is not on this machine yet, open_clip will fetch it",
        "weights on this machine, where it has no network",
        "run the command where there is a network first, or set encoders.text.weights to a file",
    )
