"""Blocks of Markdown files that are drawn from results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from maris_fast.errors import InputError


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'---|' * len(line)}" for line in lines]


def commits_told(commits: Iterable[object]) -> str:
    """``commit A`` or ``commits A, B``, each once, in order of appearance."""
    short = list(dict.fromkeys(str(commit)[:12] for commit in commits))
    return f"commit{'s' if len(short) > 1 else ''} {', '.join(short)}"


def replace_block(file: Path, name: str, content: str) -> None:
    """Put ``content`` between the lines ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.

    Raises:
        InputError: no such file, or it has no such lines.
    """
    try:
        text = file.read_text()
    except OSError as error:
        raise InputError(f"{file} can't be rewritten ({error}); name a checkout with --root") from error
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise InputError(f"{file} has no block {name}: expected the lines {begin.strip()} and {end}")
    head, _, rest = text.partition(begin)
    file.write_text(f"{head}{begin}{content}\n{end}{rest.partition(end)[2]}")
