"""Every row of the block-size table, compiled ahead of time for the GPUs it is meant for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from maris_fast.kernels.ahead_of_time import SHARED_LIMIT
from maris_fast.kernels.mutual_attention.blocks import TABLE
from maris_fast.kernels.triton_here import ARCHITECTURES


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_row_fits_and_nothing_spills(architecture: int) -> None:
    # In a process of its own: in this one, Triton may be the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "maris_fast.kernels.mutual_attention.compiled", str(architecture)]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    compiled = [json.loads(line) for line in out.splitlines()]

    walks = {(c["kernel"], c["dtype"], c["words"]) for c in compiled}
    for element, dtype in ((2, "bf16"), (4, "fp32")):
        for words in TABLE[architecture, element]:
            assert ("mutual_attention_bwd_kernel", dtype, words) in walks
            assert ("mutual_attention_fwd_chunked_kernel", dtype, words) in walks
    too_large = [c for c in compiled if c["spilled_bytes"] or c["shared_bytes"] > SHARED_LIMIT[architecture]]
    assert too_large == []
