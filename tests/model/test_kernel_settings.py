"""Settings of the model that name what the kernels offer; neither side imports the other."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from maris_fast.config import ModelSettings
from maris_fast.kernels.cross_attention import IMPLEMENTATIONS as CROSS
from maris_fast.kernels.multihead_attention import IMPLEMENTATIONS as MULTIHEAD
from maris_fast.kernels.mutual_attention.api import READINGS, Impl
from maris_fast.kernels.mutual_attention.reference import Keep

OFFERED: dict[str, tuple[Any, ...]] = {
    "mutual_attention_impl": get_args(Impl),
    "attention_impl": ("auto", *MULTIHEAD),
    "cross_attention_impl": ("auto", *CROSS),
    "keep": get_args(Keep),
    **READINGS,
}


@pytest.mark.parametrize("setting", OFFERED)
def test_a_setting_takes_what_the_kernels_offer_and_nothing_else(setting: str) -> None:
    assert get_args(ModelSettings.model_fields[setting].annotation) == OFFERED[setting]
