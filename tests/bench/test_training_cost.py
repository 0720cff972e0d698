"""FLOPs of training, ours and the peers': formulas against PyTorch's counter, and the document's table."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from maris_fast.bench.results import ROOT
from maris_fast.bench.training_cost import PEERS, caching, cost_table, sam_vit_h


def test_sam_s_formula_counts_what_pytorch_counts_on_segment_anything_s_own_encoder() -> None:
    from segment_anything.modeling import ImageEncoderViT

    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder = ImageEncoderViT(
            img_size=1024,
            embed_dim=1280,
            depth=32,
            num_heads=16,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=(7, 15, 23, 31),
        )
        encoder(torch.empty(1, 3, 1024, 1024))
    assert sam_vit_h() == counter.get_total_flops()


def test_the_peers_formulas_give_what_pytorch_counted_on_their_own_code() -> None:
    """GFLOP of forward and backward with random weights, as docs/training.md says."""
    counted = {
        "CRIS, ResNet-50": 395.75,
        "CRIS, ResNet-101": 469.90,
        "ETRIS, ViT-B/16": 473.24,
        "ETRIS, ResNet-101": 315.96,
    }
    found = {name: peer.expression / 1e9 for name, peer in PEERS.items()}
    assert {name: found[name] for name in counted} == pytest.approx(counted, rel=5e-4)
    lavt = PEERS["LAVT, Swin-B"]
    assert (lavt.image + lavt.rest) / 1e9 == pytest.approx(1181.65, rel=2e-3)


def test_the_document_s_table_is_what_the_formulas_give() -> None:
    document = (ROOT / "docs" / "training.md").read_text()
    section = document.partition("\n## FLOPs of a training\n")[2].partition("\n## ")[0]
    assert f"splits, {caching() / 1e15:.0f} PFLOP" in section
    assert [line for line in section.splitlines() if line.startswith("|")] == cost_table()
