"""Compile every row of the table of tiles ahead of time; no GPU is needed.

``python -m maris_fast.kernels.cross_attention.compiled`` prints a JSON line per kernel, with its registers,
spilled bytes and shared memory as ptxas reports them. TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maris_fast.kernels.ahead_of_time import ELEMENT, compile_kernel, print_reports
from maris_fast.kernels.cross_attention.fused import cross_attention_bwd_kernel, cross_attention_fwd_kernel
from maris_fast.kernels.cross_attention.tiles import KEY_BLOCKS, MAX_C, STAGES, WARPS, tile

# On a GPU the kernels take only 16-bit inputs.
ELEMENT_BYTES = 2
OF_THE_INPUTS = ("grad_ptr", "x_ptr", "K_ptr", "V_ptr", "out_ptr", "dx_ptr", "A_ptr", "dS_ptr")


def report(architecture: int, only: str | None = None) -> Iterator[dict[str, Any]]:
    """Compile every row of an architecture at its widest, or only those of one dtype and key block."""
    dtype = ELEMENT[ELEMENT_BYTES]
    types = dict.fromkeys(OF_THE_INPUTS, f"*{dtype}")
    for keys in KEY_BLOCKS:
        if only not in (None, f"{dtype}/{keys}"):
            continue
        cut = tile(architecture, ELEMENT_BYTES, keys)
        for kernel, queries in (
            (cross_attention_fwd_kernel, cut.forward),
            (cross_attention_bwd_kernel, cut.backward),
        ):
            constants = {"C": MAX_C, "BLOCK_Q": queries, "BLOCK_K": keys, "BLOCK_C": MAX_C}
            used = compile_kernel(kernel, types, architecture, WARPS, STAGES, **constants)
            yield {
                "kernel": kernel.__name__,
                "architecture": architecture,
                "dtype": dtype,
                "keys": keys,
                "queries": queries,
                "warps": WARPS,
                **used._asdict(),
            }


if __name__ == "__main__":
    print_reports(__doc__, report)
