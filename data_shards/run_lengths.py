"""COCO's compressed run lengths, checked: pycocotools decodes counts that end early to unwritten memory."""

from __future__ import annotations


def require_whole(counts: str, height: int, width: int) -> None:
    """
    Raises:
        ValueError: the counts are damaged, or do not cover height * width pixels.
    """
    runs = run_lengths(counts)
    if min(runs, default=0) < 0:
        raise ValueError("its run lengths are damaged: one is negative")
    if sum(runs) != height * width:
        raise ValueError(f"its run lengths are damaged: they cover {sum(runs)} pixels of {height * width}")


def run_lengths(counts: str) -> list[int]:
    """Numbers of pixels outside, inside, outside ... of the mask, as ``rleFrString`` of pycocotools reads it.

    Raises:
        ValueError: no such string, or one that was cut.
    """
    runs: list[int] = []
    number = shift = 0
    for one in counts.encode("utf-8"):
        bits = one - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its run lengths are damaged: {chr(one)!r} is none of their characters")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # the number goes on
            continue
        if bits & 16:  # it is negative
            number |= -1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    if shift:
        raise ValueError("its run lengths are damaged: they end within a number")
    return runs
