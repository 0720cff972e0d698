"""Models from the Hub and from local folders, and the errors if there are none."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from maris_fast import ArgumentError, CheckpointError, Predictor
from maris_fast.rle import Rle
from tests.command_line import maris_fast, said
from tests.sharing.hub_server import TOKEN, Hub, Repository

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
SENTENCES = ["the red circle", "bar"]


def shared(run: Path, **settings: bool) -> Repository:
    return Repository(files={"best.safetensors": (run / "best.safetensors").read_bytes()}, **settings)


def test_masks_are_the_runs_bit_by_bit_and_the_cache_serves_without_the_hub(run: Path, hub: Hub) -> None:
    hub.repositories["org/name"] = shared(run)
    wanted = Predictor(run).logits(PIXELS, SENTENCES).numpy()
    assert wanted.std() > 0
    of_the_hub = Predictor.from_pretrained("org/name")
    np.testing.assert_array_equal(of_the_hub.logits(PIXELS, SENTENCES).numpy(), wanted)
    sha = hub.repositories["org/name"].sha
    assert Predictor.from_pretrained("org/name", revision=sha).meta == of_the_hub.meta
    hub.requests.clear()
    offline = Predictor.from_pretrained("org/name", local_files_only=True)
    assert hub.requests == []
    np.testing.assert_array_equal(offline.logits(PIXELS, SENTENCES).numpy(), wanted)
    hub.status = 503
    assert Predictor.from_pretrained("org/name").meta == offline.meta
    assert hub.requests != []


def test_a_local_folder_needs_no_hub_and_comes_before_a_repository_of_its_name(run: Path, hub: Hub) -> None:
    Path("org").mkdir()
    shutil.copytree(run, "org/name")
    wanted = Predictor(run).masks(PIXELS, SENTENCES)
    for source in ("org/name", Path("org/name"), "org/name/best.safetensors"):
        np.testing.assert_array_equal(Predictor.from_pretrained(source).masks(PIXELS, SENTENCES), wanted)
    assert hub.requests == []
    with pytest.raises(ArgumentError, match="`revision` is 'v1', which a local folder such as org/name"):
        Predictor.from_pretrained("org/name", revision="v1")


def test_a_private_model_takes_the_users_token(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repositories["org/name"] = shared(run, private=True)
    with pytest.raises(
        CheckpointError, match=r"no such repository .*HF_TOKEN, or log in with `hf auth login`"
    ):
        Predictor.from_pretrained("org/name")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert Predictor.from_pretrained("org/name", cache_dir=tmp_path / "elsewhere").meta.step == 1
    assert list((tmp_path / "elsewhere").rglob("best.safetensors"))


def test_commands_predict_by_the_name_of_a_model_of_the_hub(run: Path, hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/name"] = shared(run)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(PIXELS).save(photos / "one.png")
    wanted = Predictor(run).masks(PIXELS, "bar")
    named = ("--weights", "org/name", "--device", "cpu")
    done = maris_fast("predict", photos / "one.png", "bar", *named, "--out", "out")
    assert done.exit_code == 0, said(done)
    np.testing.assert_array_equal(np.asarray(Image.open("out/one-1-mask.png")), wanted)
    done = maris_fast("predict-many", photos, "bar", *named, "--out", "many")
    assert done.exit_code == 0, said(done)
    (line,) = Path("many/predictions.jsonl").read_text().splitlines()
    np.testing.assert_array_equal(Rle(**json.loads(line)["prediction"]).decode(), wanted)
    hub.requests.clear()
    done = maris_fast("predict", photos / "one.png", "bar", "--weights", "photos/name")
    assert "no weights photos/name; training writes" in said(done)
    assert hub.requests == [], "the name of a folder is mistyped"


def test_a_model_that_cannot_be_downloaded_is_reported_with_a_remedy(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.repositories["org/name"] = shared(run)
    hub.repositories["org/gated"] = shared(run, gated=True)
    hub.repositories["org/bert"] = Repository(files={"model.safetensors": b"", "README.md": b"#"})

    def told(name: str, **settings: object) -> str:
        with pytest.raises(CheckpointError) as error:
            Predictor.from_pretrained(name, **settings)  # type: ignore[arg-type]
        return str(error.value)

    missing = told("org/none")
    assert missing.startswith("no folder org/none here, and of the Hub org/none: no such repository at")
    assert f"{hub.url} that you may read; check the name, or if it is private set HF_TOKEN" in missing
    assert "no revision 'v9'; name a branch, a tag or a commit" in told("org/name", revision="v9")
    assert "its owners ask for consent" in told("org/gated")
    assert "Hub org/bert: no model of maris-fast, which is what `maris-fast push` writes" in told("org/bert")
    assert "not in the cache; leave out `local_files_only`" in told("org/name", local_files_only=True)
    assert "no weights a/b/c; training writes" in told("a/b/c")
    with pytest.raises(ArgumentError, match=r"'org/--name' is not a repository of the Hub: Repo id must"):
        Predictor.from_pretrained("org/--name")
    hub.status = 500
    assert f"not in the cache, and {hub.url} answered 500; try again later" in told("org/name")
    hub.status = 401
    assert "answered 401; set HF_TOKEN, or log in with `hf auth login`" in told("org/name")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{filename}")
    assert "not in the cache, and http://127.0.0.1:9 cannot be reached" in told("org/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not in the cache, and HF_HUB_OFFLINE is set" in told("org/name")


def test_a_pickle_of_the_hub_is_never_opened(hub: Hub, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.mkdir, (tmp_path / "sprung",))  # type: ignore[return-value]

    hub.repositories["org/trap"] = Repository(files={"best.safetensors": pickle.dumps(Trap())})
    with pytest.raises(CheckpointError, match=r"is not a safetensors file .* never from a pickle"):
        Predictor.from_pretrained("org/trap")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    other = (tmp_path / "other.safetensors").read_bytes()
    hub.repositories["org/other"] = Repository(files={"best.safetensors": other})
    with pytest.raises(CheckpointError, match="its header has no 'maris_fast' entry"):
        Predictor.from_pretrained("org/other")
    assert not (tmp_path / "sprung").exists()
