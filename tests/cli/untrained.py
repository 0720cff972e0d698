"""Weights that need no training."""

from __future__ import annotations

from pathlib import Path

import torch

from maris_fast.config import ModelSettings, SamSettings, TextSettings
from maris_fast.encoders import EncodersProvenance, SamEncoder, TextEncoder
from maris_fast.model import Maris
from maris_fast.weights import WeightsMeta, save_weights


def write_untrained(folder: Path) -> Path:
    """Write ``untrained.safetensors``: a model for the tiny encoders, as training would have saved it."""
    sam = SamEncoder(SamSettings(arch="vit_tiny", weights="random", image_size=256))
    text = TextEncoder(TextSettings(arch="tiny", weights="random"))
    settings = ModelSettings(channels=16, heads=2)
    meta = WeightsMeta(
        model=settings,
        visual_channels=sam.channels,
        text_channels=text.channels,
        tau=settings.tau,
        step=1,
        scores=None,
        encoders=EncodersProvenance(sam=sam.provenance, text=text.provenance),
    )
    path = folder / "untrained.safetensors"
    with torch.random.fork_rng(devices=[]):
        # A seed for masks that are neither empty nor full in any order of tests; with 0, some are empty.
        torch.manual_seed(6)
        model = Maris(settings, sam.channels, text.channels)
    save_weights(path, model.state_dict(), meta)
    return path
