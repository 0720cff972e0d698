"""How many expressions of a step fit on a GPU."""

from __future__ import annotations

from maris_fast.bench.drawing.markdown import table
from maris_fast.bench.results import Suite

GPUS_GB = (8, 24, 40, 80)
EACH = 7
"""Expressions of an image, as RefCOCO has them."""
OVERHEAD = 1.5
"""Assumed: what the backward and the allocator take beyond what is saved."""
RESERVED_GB = 1.5
"""Assumed: CUDA's context, kernels' workspaces and two batches on the device."""


def step_memory_block(suite: Suite) -> str:
    """The counts, and by arithmetic what they leave room for."""
    counts, room = [], []
    for row in suite.rows:
        image, expression = row["image_bytes"], row["expression_bytes"]
        name = f"{row['heads']} heads"
        counts.append([name, *(f"{n / 2**20:.0f} MiB" for n in (row["state_bytes"], image, expression))])
        each = OVERHEAD * (expression + image / EACH)
        fits = [(gb * 1e9 - RESERVED_GB * 1e9 - row["state_bytes"]) / each for gb in GPUS_GB]
        room.append([name, *(str(int(n) // 8 * 8) for n in fits)])
    lines = table(["kept for the backward", "weights and AdamW", "an image", "an expression"], counts)
    lines += ["", *table(["expressions of a rank's part that fit", *(f"{gb} GB" for gb in GPUS_GB)], room)]
    lines += ["", f"(First table: counted on a CPU, {suite.date[:10]}, commit {str(suite.commit)[:12]}, "]
    lines[-1] += (
        f"torch {suite.environment['packages']['torch']}. Second: arithmetic from it, with {OVERHEAD} times "
        f"what is kept and {RESERVED_GB} GB besides, both assumed; not tried on a GPU.)"
    )
    return "\n".join(lines)
