from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from maris_fast.config import ModelSettings
from maris_fast.model import Maris
from maris_fast.model.flops import training_flops

VISUAL, TEXT, GRID, WORDS = 20, 12, (5, 7), 6
OFFSETS = (0, 3, 4)
SMALL: dict[str, Any] = {
    "channels": 16,
    "heads": 2,
    "mutual_attention_impl": "reference",
    "attention_impl": "reference",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ma_blocks": 0},
        {"ma_blocks": 3, "decoder_blocks": 1, "keep": "all"},
        {"decoder_feed_forward": 2.5, "decoder_norm": "pre", "decoder_positions": "sine"},
        {"channels": 24, "heads": 3, "input_norm": "layer", "feature_positions": "sine"},
        {"enhancement": "last"},
        {"enhancement": "vit_det"},
        {"fusion": "transformer"},
        {"fusion": "transformer", "ma_blocks": 3},
        {"fusion": "spatial_dynamic"},
        {"fusion": "bidirectional"},
        {"fusion": "bidirectional", "ma_blocks": 1},
        {"decoder": "sam"},
        {"decoder": "sam", "decoder_blocks": 1, "enhancement": "last", "ma_blocks": 0},
        {"token_to_image": True},
        {"decoder_self_attention": "pooled"},
        {"linguistic_guidance": "product"},
        {"no_target": True},
    ],
    ids=str,
)
def test_the_formula_counts_what_pytorch_counts_in_a_training_step(changes: dict[str, Any]) -> None:
    settings = ModelSettings(**{**SMALL, **changes})
    model = Maris(settings, VISUAL, TEXT)
    images, expressions = len(OFFSETS) - 1, OFFSETS[-1]
    features = [torch.randn(images, *GRID, VISUAL) for _ in range(3)]
    words = torch.randn(expressions, WORDS, TEXT)
    mask = torch.ones(expressions, WORDS, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        said = model(features, words, mask, torch.tensor(OFFSETS, dtype=torch.int32))
        sum(output.square().mean() for output in said if output is not None).backward()
    flops = training_flops(settings, VISUAL, TEXT, GRID, WORDS)
    assert flops.of(images, expressions) == counter.get_total_flops()
