"""Token features are open_clip's own before pooling; errors for bad weights or expressions say what to do."""

from __future__ import annotations

import time
from pathlib import Path

import open_clip
import pytest
import torch
from huggingface_hub import constants
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from maris_fast.config import TextSettings
from maris_fast.encoders import TextEncoder
from maris_fast.encoders import text as text_module
from maris_fast.encoders.tokens import readable, tokeniser, tokens_of
from maris_fast.errors import CheckpointError, ConfigError, InputError
from maris_fast.system.launchers import free_port


def tiny(**changes: object) -> TextSettings:
    return TextSettings.model_validate({"arch": "tiny", "weights": "random", **changes})


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(tiny())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, open_clip.CLIP]:
    """The smallest model of open_clip with CLIP's own text tower, saved as open_clip saves one."""
    torch.manual_seed(0)
    model = open_clip.create_model("RN50-quickgelu", pretrained=None).eval()
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file(model.state_dict(), path)
    return path, model


def test_features_are_the_tokens_that_open_clip_pools(clip: tuple[Path, open_clip.CLIP]) -> None:
    path, model = clip
    encoder = TextEncoder(TextSettings(arch="RN50-quickgelu", weights=str(path)))
    assert_pools_like(encoder, model)
    assert not encoder.provenance.random
    assert encoder.provenance.quick_gelu


def assert_pools_like(encoder: TextEncoder, model: open_clip.CLIP) -> None:
    text = "the left zebra"
    (features,) = encoder.encode([text])
    assert features.tokens == ("the", "left", "zebra", "<end>")
    assert features.words.shape == (4, 512)
    with torch.no_grad():
        pooled = model.encode_text(open_clip.tokenize([text]))
    # Pooling takes the end token and projects it.
    torch.testing.assert_close(features.words[-1] @ model.text_projection, pooled[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_expression_has_the_same_features_alone_and_in_batches_of_any_size(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    texts = ["red circle", "the small blue square left of it", "thing"]
    alone = [encoder.encode([text])[0].words for text in texts]
    monkeypatch.setattr(text_module, "_BATCH", size)
    together = [features.words for features in encoder.encode(texts)]
    torch.testing.assert_close(together, alone)


def test_different_words_have_clearly_different_features(encoder: TextEncoder) -> None:
    colours = encoder.encode(["red", "blue", "green", "yellow", "left", "right"])
    first = torch.nn.functional.normalize(torch.stack([each.words[0] for each in colours]), dim=1)
    similarity = first @ first.T - torch.eye(len(colours))
    assert similarity.abs().max() < 0.6


@given(st.one_of(st.text(), st.text(st.characters(min_codepoint=1, max_codepoint=127))))
@example("the dog's 2nd ball, on_top & <end_of_text> it'S")
@example(400 * "word ")
@example("caf&eacute; &amp;amp; \x1b[1mthe\tdog\r\n")
def test_tokens_are_open_clips(text: str) -> None:
    ids = tokeniser().encode(text)
    assert tokens_of(text) == (tuple(ids), tuple(readable(ids)))


def test_a_long_expression_is_cut_and_keeps_the_end_token() -> None:
    encoder = TextEncoder(tiny(max_words=5))
    cut, whole = encoder.encode(["a b c d e f", "a b c d"])
    assert cut.tokens == ("a", "b", "c", "d", "<end>")
    assert cut.truncated
    assert not whole.truncated
    # The cut precedes the tower: the end token has seen only the words that remain.
    assert torch.equal(cut.words, whole.words)


def test_an_expression_longer_than_the_tower_takes_is_an_error(encoder: TextEncoder) -> None:
    encoder.tokenise("word " * 75)
    with pytest.raises(InputError, match=r"word word.*78 tokens.*77"):
        encoder.tokenise("word " * 76)


@pytest.mark.parametrize("text", ["", "   "])
def test_an_expression_without_a_word_is_an_error(encoder: TextEncoder, text: str) -> None:
    with pytest.raises(InputError, match="no word"):
        encoder.encode([text])


def test_random_weights_follow_their_seed() -> None:
    first, again, other = (TextEncoder(tiny(seed=seed)).encode(["a dog"])[0].words for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert TextEncoder(tiny(seed=1)).provenance.random


def test_a_tag_that_cannot_be_fetched_says_where_to_put_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the hub's own client, at a port that nothing listens on."""
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"http://127.0.0.1:{free_port()}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the client's attempts
    with pytest.raises(
        CheckpointError, match=r"check your connection.*encoders\.text\.weights.*ViT-L-14-quickgelu"
    ):
        TextEncoder(TextSettings(arch="ViT-L-14", weights="openai"))


def test_a_tag_knows_its_activation(
    monkeypatch: pytest.MonkeyPatch, clip: tuple[Path, open_clip.CLIP]
) -> None:
    path, model = clip
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tag: str(path))
    encoder = TextEncoder(TextSettings(arch="RN50", weights="openai"))
    assert_pools_like(encoder, model)
    assert encoder.provenance.quick_gelu
    assert encoder.provenance.weights == "openai"
    assert encoder.provenance.sha256


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ViT-L-14.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*data only.*tag"):
        TextEncoder(TextSettings(arch="ViT-B-32", weights=str(path)))


def test_weights_of_another_width_say_what_was_found_and_needed(clip: tuple[Path, open_clip.CLIP]) -> None:
    path, _ = clip
    with pytest.raises(CheckpointError, match=r"width 512.*ViT-L-14.*768"):
        TextEncoder(TextSettings(arch="ViT-L-14", weights=str(path)))


def test_a_state_dict_without_a_text_tower_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"visual.proj": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="no text tower"):
        TextEncoder(TextSettings(arch="ViT-B-32", weights=str(path)))


def test_the_tiny_tower_takes_a_trained_file(tmp_path: Path) -> None:
    trained = TextEncoder(tiny(seed=7))
    path = tmp_path / "trained.pt"
    torch.save({f"text.{name}": tensor for name, tensor in trained.tower.state_dict().items()}, path)
    loaded = TextEncoder(tiny(weights=str(path)))
    got, needed = (encoder.encode(["a red dog"])[0].words for encoder in (loaded, trained))
    assert torch.equal(got, needed)
    assert loaded.provenance.sha256 is not None
    assert not loaded.provenance.random


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"arch": "ViT-Q-99", "weights": "random"}, ConfigError, "not a model of open_clip"),
        ({"arch": "ViT-B-16-SigLIP", "weights": "random"}, ConfigError, "not CLIP's own"),
        ({"arch": "tiny", "weights": "openai"}, ConfigError, "no trained weights"),
        ({"arch": "ViT-B-32", "weights": "/no/such.pt"}, CheckpointError, "neither a file nor a tag"),
    ],
)
def test_settings_that_name_nothing_say_what_there_is(
    settings: dict[str, str], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        TextEncoder(TextSettings.model_validate(settings))
