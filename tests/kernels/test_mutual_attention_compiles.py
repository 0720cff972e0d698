"""Every row of the block-size table, compiled ahead of time for the GPUs it is meant for."""

from __future__ import annotations

import pytest

from maris_fast.kernels.mutual_attention.blocks import TABLE
from maris_fast.kernels.triton_here import ARCHITECTURES
from tests.kernels.compiling import compiled_for, too_large


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_row_fits_and_nothing_spills(architecture: int) -> None:
    compiled = compiled_for("mutual_attention", architecture)
    walks = {(c["kernel"], c["dtype"], c["words"]) for c in compiled}
    for element, dtype in ((2, "bf16"), (4, "fp32")):
        for words in TABLE[architecture, element]:
            assert ("mutual_attention_bwd_kernel", dtype, words) in walks
            assert ("mutual_attention_fwd_chunked_kernel", dtype, words) in walks
    assert too_large(compiled, architecture) == []
