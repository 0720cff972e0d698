"""The cache's table: what writing takes."""

from __future__ import annotations

from maris_fast.bench.drawing.markdown import table
from maris_fast.bench.results import Suite


def writing_block(suite: Suite) -> str:
    """A table from pictures on disk to shards, one of the shard writer alone, and the conditions."""
    encoding = [row for row in suite.rows if "images_per_s" in row]
    lines = [
        [row["way"], f"{row['images_per_s']:.2f}", f"{row['to_first']:.2f}", f"{row['to_before']:.2f}"]
        for row in encoding
    ]
    parts = table(["from pictures on disk", "images/s", "first = 1", "row before = 1"], lines)
    lines = [
        [row["way"], f"{row['gb_per_s']:.2f}", f"{row['to_raw']:.2f}"]
        for row in suite.rows
        if "gb_per_s" in row
    ]
    parts += ["", *table(["from features in memory", "GB/s", "raw write = 1"], lines), ""]
    first, here = encoding[0], suite.environment
    told = f"{here['device']}, {here['processor_cores']} cores, load average {first['load_average'][1]:.1f}"
    parts.append(
        f"(Medians of ratios within each of {first['rounds']} rounds, {first['images']} pictures, "
        f"{first['arch']} at {first['image_size']} px with random weights; shards of ViT-H's size, "
        f"with fsync; {told}, commit {str(suite.commit)[:12]}, {suite.date[:10]}.)"
    )
    return "\n".join(parts)
