"""Weights are used only with features of the encoders they were trained on; errors name both hashes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maris_fast.config import TrainingSettings
from maris_fast.data_shards.cache import read_manifest
from maris_fast.data_shards.cache.manifest import CacheManifest
from maris_fast.errors import CheckpointError
from maris_fast.evaluation.evaluate import evaluate
from maris_fast.train import checkpoints, resuming
from tests.training.tiny_cache import write_tiny_cache, write_untrained_for


def with_sam(manifest: CacheManifest, folder: Path, sha256: str) -> None:
    values = manifest.model_dump()
    values["encoders"]["sam"] |= {"sha256": sha256, "seed": None, "weights": "sam.pth"}
    changed = CacheManifest.model_validate(values).sealed()
    (folder / "manifest.json").write_text(changed.model_dump_json())


def test_scoring_refuses_a_cache_of_other_weights_with_both_hashes(tmp_path: Path) -> None:
    cache = write_tiny_cache(tmp_path)
    manifest = read_manifest(cache)
    with_sam(manifest, cache, "a" * 64)
    weights = write_untrained_for(cache, tmp_path / "model.safetensors")
    with_sam(manifest, cache, "b" * 64)
    with pytest.raises(CheckpointError, match=f"sam.sha256: {'a' * 64} against {'b' * 64}"):
        evaluate(weights, cache, "val")
    with_sam(manifest, cache, "a" * 64)
    assert evaluate(weights, cache, "val")["as written"]


def test_resuming_refuses_a_cache_of_other_features_with_both_fingerprints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "check_shapes", lambda *arguments: None)
    settings = TrainingSettings.model_validate({"data": {"cache": "there"}, "run": {"folder": str(tmp_path)}})
    state: Any = SimpleNamespace(settings=settings.model_dump(mode="json"), data="aaaa", step=3)
    resuming.check(tmp_path, state, settings, "aaaa", torch.nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match=r"another cache \(fingerprint aaaa\).*\(bbbb\)"):
        resuming.check(tmp_path, state, settings, "bbbb", torch.nn.Linear(1, 1))
