"""Readings of eqs. 3-5 as settings of the model: their effect on the model and on its weights files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from maris_fast.ablation.paper import FRAGMENTS
from maris_fast.config import ModelSettings, TrainingSettings, load_settings
from maris_fast.kernels import Reading, mutual_attention
from maris_fast.model import Maris
from maris_fast.model.kinds import of_model
from maris_fast.pictures.attention_weights import watched
from maris_fast.weights import HEADER, WeightsMeta, load_model, save_weights
from tests.encoders.provenances import provenance
from tests.model.by_hand import inputs, make

CONFIGS = FRAGMENTS.parent
OTHERWISE = {"language_norm": "columns", "empty_rows": "all", "score_scale": "channels"}


@pytest.mark.parametrize("setting", OTHERWISE)
def test_each_setting_changes_what_both_blocks_compute(setting: str) -> None:
    torch.manual_seed(0)
    model = make(**{setting: OTHERWISE[setting]})
    features, words, word_mask, offsets = inputs(3, 1)
    reading = Reading(**{setting: OTHERWISE[setting]})  # type: ignore[arg-type]
    f_v, f_l, groups = model.feature_enhancement(features).flatten(1, 2), words, offsets
    for block in model.ma_blocks:
        norms = (block.norm_v.weight, block.norm_v.bias, block.norm_l.weight, block.norm_l.bias)
        given: dict[str, Any] = {"word_mask": word_mask, "expr_offsets": groups}
        z_v, z_l = block.W_v(f_v), block.W_l(f_l)
        got = block(f_v, f_l, word_mask, model._tau, groups)
        needed = mutual_attention(z_v, z_l, *norms, **given, reading=reading)
        printed = mutual_attention(z_v, z_l, *norms, **given)
        assert all(torch.equal(*pair) for pair in zip(got, needed, strict=True))
        assert not all(torch.equal(*pair) for pair in zip(got, printed, strict=True))
        (f_v, f_l), groups = got, None


def test_pictures_show_the_reading() -> None:
    model = make(empty_rows="all", tau=0.9)
    features, words, word_mask, offsets = inputs(3, 1)
    with torch.inference_mode(), watched(model) as blocks:
        model(features, words, word_mask, offsets)
    for A in blocks:
        torch.testing.assert_close(A.sum(2), torch.ones_like(A[:, :, 0]))
        assert (A.masked_select(~word_mask[:, None, :]) == 0).all()


def saved(path: Path, model: Maris) -> None:
    meta = WeightsMeta(
        model=model.settings,
        visual_channels=model.visual_channels,
        text_channels=model.text_channels,
        tau=0.5,
        step=1,
        scores=None,
        encoders=provenance(),
    )
    save_weights(path, model.state_dict(), meta)


def test_weights_load_with_the_reading_that_they_were_trained_with(tmp_path: Path) -> None:
    saved(tmp_path / "w.safetensors", make(**OTHERWISE))
    model, meta = load_model(tmp_path / "w.safetensors")
    assert [block.reading for block in model.ma_blocks] == [Reading(*OTHERWISE.values())] * 2  # type: ignore[arg-type]
    assert meta.model.language_norm == "columns"


def test_weights_from_before_the_readings_load_as_printed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved(path, make())
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for setting in OTHERWISE:
        del header["model"][setting]
    save_file(tensors, path, metadata={HEADER: json.dumps(header)})
    model, _ = load_model(path)
    assert [block.reading for block in model.ma_blocks] == [Reading("none", "none", "none")] * 2


def test_a_certificate_is_asked_for_with_the_reading() -> None:
    for settings in (ModelSettings(), ModelSettings.model_validate(OTHERWISE)):
        kinds = [
            kind
            for operation, kind in of_model(settings, torch.bfloat16)
            if operation.name == "mutual_attention"
        ]
        wanted = Reading(settings.language_norm, settings.empty_rows, settings.score_scale)
        assert kinds
        assert all(kind.reading == wanted for kind in kinds)


@torch.inference_mode()
def test_at_the_papers_size_words_stay_apart_when_columns_are_divided() -> None:
    """At initialisation. F_v is the output of a GELU: pixels share a mean; as printed, 3,072 of it add up."""

    def cosine(words: torch.Tensor) -> float:
        unit = F.normalize(words[0], dim=1)
        return ((unit @ unit.T).sum() - len(unit)).item() / (len(unit) ** 2 - len(unit))

    def of_blocks(seed: int = 0, **changes: Any) -> list[tuple[float, float]]:
        """Cosines between words in Z_l and in F_val, of each block."""
        torch.manual_seed(seed)
        model = Maris(ModelSettings(**changes), 32, 64).train()
        f_v = model.feature_enhancement([torch.randn(1, 64, 48, 32) for _ in range(3)]).flatten(1, 2)
        f_l, mask, found = torch.randn(1, 10, 64), torch.ones(1, 10, dtype=torch.bool), []
        for block in model.ma_blocks:
            z_l = block.W_l(f_l)
            f_v, f_l = block(f_v, f_l, mask, model._tau, None)
            found.append((cosine(z_l), cosine(f_l)))
        return found

    for keep in ("relevant", "all"):
        printed, divided = of_blocks(keep=keep), of_blocks(keep=keep, language_norm="columns")
        assert all(abs(after - before) < 0.2 for before, after in divided), divided
        assert printed[0][1] - printed[0][0] > 0.4, printed
    shipped = load_settings(TrainingSettings, CONFIGS / "refcoco.yaml").model
    for seed in range(3):
        centered = of_blocks(seed, **shipped.model_dump())
        assert all(abs(after - before) < 0.02 for before, after in centered), centered
    # S / √C is near 0 at the start: without centering all words gather nearly the same mean in block 2.
    _, (before, after) = of_blocks(**{**shipped.model_dump(), "visual_center": "none"})
    assert after - before > 0.15
