"""The waterfall of readers as tables."""

from __future__ import annotations

from statistics import median

from maris_fast.bench.drawing.markdown import table
from maris_fast.bench.results import Suite

RAW_TWO = "raw preadv, two threads"


def reading_block(suite: Suite) -> str:
    """A table with a warm page cache and one with a cold, and the conditions."""
    parts: list[str] = []
    for state in ("warm", "cold"):
        rows = [row for row in suite.rows if row.get("page_cache") == state]
        two = next(row["seconds"] for row in rows if row["way"] == RAW_TWO)
        lines = [
            [
                row["way"],
                f"{row['gb_per_s']:.2f}",
                f"{row['to_raw']:.2f}",
                f"{median(a / b for a, b in zip(two, row['seconds'], strict=True)):.2f}",
                f"{row['to_stock']:.1f}",
            ]
            for row in rows
        ]
        head = [f"{state} page cache", "GB/s", "of raw, one thread", "of raw, two threads", "stock = 1"]
        parts += [*table(head, lines), ""]
    timed = next(row for row in suite.rows if "page_cache" in row)
    start = next(row for row in suite.rows if "open_s" in row)
    here = suite.environment
    told = [f"{here['device']}, {here['processor_cores']} cores, load average {timed['load_average'][1]:.1f}"]
    told.append(f"commit {str(suite.commit)[:12]}, {suite.date[:10]}")
    parts.append(
        f"(Medians of ratios within each of {timed['rounds']} rounds, {timed['images']} groups of ViT-H's "
        f"size, int8; {', '.join(told)}. Start-up on {start['images']:,} images: "
        f"{start['open_s'] + start['plan_s']:.1f} s.)"
    )
    return "\n".join(parts)
