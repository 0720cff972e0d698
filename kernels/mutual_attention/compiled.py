"""Compile every row of the block-size table ahead of time; no GPU is needed.

``python -m maris_fast.kernels.mutual_attention.compiled`` prints a JSON line per kernel, with its registers,
spilled bytes and shared memory; with ``--sass``, what forward and backward do for each row of visual tokens
(sass_report.py), on sm_90 unless others are named; with ``--reading``, not for the equations as printed, but
with every other reading switched on. TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maris_fast.kernels.ahead_of_time import ELEMENT, compile_kernel, print_reports
from maris_fast.kernels.mutual_attention.configurations import configurations
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED, Reading
from maris_fast.kernels.mutual_attention.sass_report import sass_report

OTHERWISE = Reading("columns", "all", "channels")


def report(
    architecture: int, only: str | None = None, reading: Reading = AS_PRINTED
) -> Iterator[dict[str, Any]]:
    """Compile every configuration of an architecture, or only those of one dtype and word block."""
    for one in configurations(architecture, reading):
        walk = one.walk
        if only not in (None, f"{ELEMENT[one.element_bytes]}/{one.words}"):
            continue
        used = compile_kernel(
            one.kernel,
            one.types(),
            architecture,
            walk.warps,
            walk.stages,
            unaligned=one.unaligned,
            **one.constants,
        )
        yield {
            "kernel": one.kernel.__name__,
            "architecture": architecture,
            "dtype": ELEMENT[one.element_bytes],
            "words": one.words,
            "C": one.C,
            "unaligned": bool(one.unaligned),
            "rows": walk.rows,
            "warps": walk.warps,
            "stages": walk.stages,
            "chunk": walk.chunk or one.C,
            **used._asdict(),
        }


if __name__ == "__main__":
    print_reports(__doc__, report, sass_report, reading=("every other reading switched on", OTHERWISE))
