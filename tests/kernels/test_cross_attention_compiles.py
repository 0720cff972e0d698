"""Every tile of cross-attention's table, compiled ahead of time for the GPUs it is meant for."""

from __future__ import annotations

import pytest

from maris_fast.kernels.cross_attention.tiles import KEY_BLOCKS
from tests.kernels.compiling import compiled_by, too_large


@pytest.mark.process
@pytest.mark.slow
def test_every_tile_fits_and_nothing_spills() -> None:
    kernels = ("cross_attention_fwd_kernel", "cross_attention_bwd_kernel")
    for architecture, compiled in compiled_by("cross_attention", "80", "90").items():
        assert {(c["kernel"], c["keys"]) for c in compiled} == {(k, n) for k in kernels for n in KEY_BLOCKS}
        assert too_large(compiled, int(architecture)) == []
