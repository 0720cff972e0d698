"""What the compiler makes of every row of the tiles' table, ahead of time: no GPU is needed.

``python -m maris_fast.kernels.cross_attention.compiled`` prints a JSON line a kernel, with its registers,
spilled bytes and shared memory as ptxas reports them. TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maris_fast.kernels.ahead_of_time import ELEMENT, compile_kernel, print_reports
from maris_fast.kernels.cross_attention.fused import cross_attention_bwd_kernel, cross_attention_fwd_kernel
from maris_fast.kernels.cross_attention.tiles import MAX_C, TABLE, WARPS

OF_THE_INPUTS = ("grad_ptr", "x_ptr", "K_ptr", "V_ptr", "out_ptr", "dx_ptr", "A_ptr", "dS_ptr")


def report(architecture: int) -> Iterator[dict[str, Any]]:
    """Compiles every row of an architecture at its widest."""
    for (row_architecture, element_bytes), rows in TABLE.items():
        if row_architecture != architecture:
            continue
        types = dict.fromkeys(OF_THE_INPUTS, f"*{ELEMENT[element_bytes]}")
        for keys, cut in rows.items():
            for kernel, queries in (
                (cross_attention_fwd_kernel, cut.forward),
                (cross_attention_bwd_kernel, cut.backward),
            ):
                constants = {"C": MAX_C, "BLOCK_Q": queries, "BLOCK_K": keys, "BLOCK_C": MAX_C}
                used = compile_kernel(kernel, types, architecture, WARPS, 1, **constants)
                yield {
                    "kernel": kernel.__name__,
                    "architecture": architecture,
                    "dtype": ELEMENT[element_bytes],
                    "keys": keys,
                    "queries": queries,
                    "warps": WARPS,
                    **used._asdict(),
                }


if __name__ == "__main__":
    print_reports(__doc__, report)
