"""``maris-fast push``: the contents of a repository, and their upload."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from maris_fast import Predictor
from maris_fast.config.loading import dump_settings, load_settings
from maris_fast.config.training import TrainingSettings
from maris_fast.sharing.card import plain
from maris_fast.sharing.model_folder import write_model_folder
from maris_fast.system.files import sha256_of
from maris_fast.weights import load_weights, save_weights
from tests.command_line import maris_fast, said
from tests.encoders.provenances import provenance
from tests.folders import files_below
from tests.sharing.conftest import write_score_file
from tests.sharing.hub_server import TOKEN, Hub, Repository
from tests.training.toy_run import toy_settings

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
FILES = {
    "README.md",
    "best.safetensors",
    "pictures/step-000003.png",
    "scores-scenes-synthetic-testA.json",
    "settings.yaml",
}


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(head)
    return values


def test_a_folder_is_written_to_look_at_and_loads_as_the_run_does(
    run: Path, hub: Hub, tmp_path: Path
) -> None:
    done = maris_fast("push", run, "org/name", "--out", tmp_path / "model", "--license", "apache-2.0")
    assert done.exit_code == 0, said(done)
    assert hub.requests == []
    written = files_below(tmp_path / "model")
    assert set(written) == FILES
    assert written["best.safetensors"] == (run / "best.safetensors").read_bytes()
    assert "scores-scenes-synthetic-testB.json is left out: it scores last.safetensors" in said(done)
    assert "pictures/step-000003.png shows photographs of the data set" in said(done)
    shared = Predictor.from_pretrained(tmp_path / "model")
    sentences = ["the red circle", "bar"]
    wanted = Predictor(run).logits(PIXELS, sentences).numpy()
    np.testing.assert_array_equal(shared.logits(PIXELS, sentences).numpy(), wanted)


@pytest.mark.parametrize(
    "places",
    [
        {"cache": "s3://secret/caches/scenes"},
        {"cache": "https://someone:secret@host.org/caches/scenes/"},
        {"cache": "https://someone:secret@scenes"},
        {"shards": "pipe:curl -sf 'https://secret.org/caches/{name}?sv=1&sig=secret'"},
        {"shards": "pipe:aws s3 cp s3://secret/caches/{name} - 2>/dev/null"},
        {"shards": "https://someone:secret@host.org/{name}"},
    ],
)
def test_nothing_of_this_machines_paths_is_shared_and_settings_stay_settings(
    run: Path, tmp_path: Path, places: dict[str, str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    if "shards" in places:
        places = {"cache": "/home/someone/caches/scenes", "staging": "/home/someone/staging", **places}
    changes = {f"data.{name}": place for name, place in places.items()}
    written = toy_settings(Path("/home/someone/runs/one"), **changes)
    (copy / "settings.yaml").write_text(dump_settings(written))
    (tmp_path / "model").mkdir()
    write_model_folder(copy, tmp_path / "model", repository="org/name", license=None)
    for name, content in files_below(tmp_path / "model").items():
        assert not any(
            secret in content for secret in (b"/home", b"someone", b"secret", str(copy).encode())
        ), name
    settings = load_settings(TrainingSettings, [tmp_path / "model" / "settings.yaml"])
    assert (str(settings.data.cache), settings.run.folder.name) == ("scenes", "one")
    assert settings.data.staging == (Path("staging") if "staging" in places else None)
    assert settings.data.shards is None


def test_the_card_says_what_the_run_knows(run: Path, tmp_path: Path) -> None:
    notes = write_model_folder(run, tmp_path, repository="org/name", license="cc-by-4.0", pictures=False)
    assert notes[-1].startswith("these weights were trained on features of random encoders")
    assert not (tmp_path / "pictures").exists()
    card = (tmp_path / "README.md").read_text()
    head = front_matter(card)
    results = head.pop("model-index")[0]["results"]
    assert head == {
        "license": "cc-by-4.0",
        "library_name": "maris-fast",
        "pipeline_tag": "image-segmentation",
        "tags": ["referring-image-segmentation", "maris"],
        "datasets": ["scenes"],
    }
    scored = {one["dataset"]["split"]: one["metrics"][0] for one in results}
    assert scored == {
        "val": {"type": "oIoU", "value": 0.4567},
        "testA": {"type": "oIoU", "value": 0.3456},
    }
    for line in (
        "| scenes (synthetic) val | maris | 12 | 0.457 | 0.500 | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 | – |",
        "| scenes (synthetic) testA | maris | 12 | 0.346 | 0.500 | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 "
        "| 0.246 to 0.446 |",
        "| scenes (synthetic) testA | lavt | 12 | 0.432 | 0.500 |",
        "| weights | of step 1; run finished, 3 steps |",
        "| commit | c0ffee |",
        "| versions | torch 2.11.0, Python 3.11.7 |",
        "| `keep` | `relevant` | pairs that eq. 4's gate keeps",
        'predictor = maris_fast.Predictor.from_pretrained("org/name")',
        "**Note:** these weights were trained on features of random encoders (sam and text).",
    ):
        assert line in card, line
    assert "testB" not in card
    assert "pictures/" not in card


def test_the_card_names_the_encoders_weights_that_are_needed(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for name in ("environment.json", "metrics.jsonl", "scores-scenes-synthetic-testA.json"):
        (copy / name).unlink()
    tensors, meta = load_weights(copy)
    few = {"data": {"name": "a|b", "split_by": "c", "split": "d"}, "weights": "best.safetensors"}
    (copy / "scores-few.json").write_text(json.dumps({**few, "as written": {"oIoU": 0.5}}))
    (copy / "scores-torn.json").write_text('{"data": {"name"')
    real = provenance()
    clip = real.text.model_copy(update={"weights": "openai", "sha256": "bb", "seed": None})
    real = real.model_copy(update={"text": clip})
    meta = meta.model_copy(update={"encoders": real, "scores": None})
    save_weights(copy / "best.safetensors", tensors, meta)
    (tmp_path / "model").mkdir()
    notes = write_model_folder(copy, tmp_path / "model", repository="org/name", license=None)
    card = (tmp_path / "model" / "README.md").read_text()
    assert 'from_pretrained("org/name", sam_weights="sam.pth", text_weights="openai")' in card
    assert "| SAM encoder | vit\\_h (segment-anything 1.0), weights sam.pth, SHA-256 aa |" in card
    assert "| a\\|b (c) d | maris | – | 0.500 | – |" in card
    assert front_matter(card)["license"] == "unknown"
    assert "datasets" not in front_matter(card)
    assert any("the card names no license; say which with `license`" in note for note in notes)


def test_scores_of_earlier_weights_are_not_shared(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for split, sha256 in (("testA", sha256_of(copy / "best.safetensors")), ("testC", "ab" * 32)):
        write_score_file(copy, split, "best.safetensors", 0.9, weights_sha256=sha256)
    write_score_file(copy, "testD", "best.safetensors", 0.9)
    (tmp_path / "model").mkdir()
    notes = write_model_folder(copy, tmp_path / "model", repository="org/name", license=None)
    kept = {one.name for one in (tmp_path / "model").glob("scores-*")}
    assert kept == {"scores-scenes-synthetic-testA.json", "scores-scenes-synthetic-testD.json"}
    assert "testC" not in (tmp_path / "model" / "README.md").read_text()
    told = {split: [note for note in notes if split in note] for split in ("testA", "testC", "testD")}
    assert told["testA"] == []
    assert "is left out: it scores other weights than this best.safetensors" in told["testC"][0]
    assert "has no SHA-256 of its weights" in told["testD"][0]


def test_the_card_has_the_tau_of_these_weights_and_a_split_once(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    tensors, meta = load_weights(copy)
    assert meta.scores is not None
    assert meta.model.tau != 0.25  # the last one of a schedule
    save_weights(copy / "best.safetensors", tensors, meta.model_copy(update={"tau": 0.25}))
    write_score_file(copy, "val", "best.safetensors", 0.9)
    (tmp_path / "model").mkdir()
    write_model_folder(copy, tmp_path / "model", repository="org/name", license=None)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| `tau` | `0.25` |" in card
    assert card.count("| scenes (synthetic) val | maris |") == 1


def test_a_card_without_scores_says_so(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("scores-*", "pictures"))
    tensors, meta = load_weights(copy)
    save_weights(copy / "best.safetensors", tensors, meta.model_copy(update={"scores": None}))
    (tmp_path / "model").mkdir()
    write_model_folder(copy, tmp_path / "model", repository="org/name", license=None)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "None are on record for these weights." in card
    assert "model-index" not in front_matter(card)


def test_text_from_users_is_not_markdown() -> None:
    assert plain("a|b\n<img> [x](y) `c`") == r"a\|b \<img\> \[x\](y) \`c\`"


def test_a_push_makes_the_repository_and_a_second_one_replaces_what_is_no_longer_true(
    run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = maris_fast("push", run, "org/name", "--private", "--license", "mit")
    assert done.exit_code == 0, said(done)
    assert f"pushed: {hub.url}/org/name" in said(done)
    repository = hub.repositories["org/name"]
    assert (repository.private, set(repository.files)) == (True, FILES)
    assert [*hub.large.values()] == [(run / "best.safetensors").read_bytes()]
    wanted = Predictor(run).masks(PIXELS, "bar")
    np.testing.assert_array_equal(Predictor.from_pretrained("org/name").masks(PIXELS, "bar"), wanted)
    repository.files |= {"LICENSE": b"mine", "scores-scenes-synthetic-val.json": b"{}"}
    assert maris_fast("push", run, "org/name", "--no-pictures").exit_code == 0
    assert set(repository.files) == FILES - {"pictures/step-000003.png"} | {"LICENSE"}
    assert repository.private


@pytest.mark.process
def test_a_process_pushes_and_another_loads(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    program = [sys.executable, "-m", "maris_fast.cli"]
    subprocess.run([*program, "push", run, "org/name"], check=True, timeout=120)
    load = "import maris_fast; print(maris_fast.Predictor.from_pretrained('org/name').meta.step)"
    done = subprocess.run(
        [sys.executable, "-c", load], check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stdout == "1\n"


def test_a_folder_that_cannot_be_pushed_is_reported_with_a_remedy(
    run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: object) -> str:
        done = maris_fast("push", *arguments)
        assert done.exit_code == 2, said(done)
        return said(done)

    assert "no token was found; set HF_TOKEN, or log in with `hf auth login`" in told(run, "org/name")
    assert "'name' is not a repository of the Hub: expected org/name" in told(run, "name")
    assert "--license is 'My own'; expected an identifier" in told(run, "org/name", "--license", "My own")
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    wrong = told(run, "org/name")
    assert "answered 401 (Invalid credentials" in wrong
    assert "log in with `hf auth login`, with a token that may do this" in wrong
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories["org/public"] = Repository()
    assert "org/public exists already and is public; make it private" in told(run, "org/public", "--private")
    assert hub.repositories["org/public"].files == {}
    out = tmp_path / "model"
    assert "is not the folder of a run, of a cache or" in told(tmp_path, "org/name", "--out", out)
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "best.safetensors").unlink()
    assert "holds no best.safetensors; the run's first evaluation" in told(copy, "org/name", "--out", out)
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text(json.dumps("kept"))
    assert "is not empty; name a new or an empty folder" in told(run, "org/name", "--out", out)
    assert files_below(out) == {"mine": b'"kept"'}
    hub.status = 500
    assert f"{hub.url} answered 500" in told(run, "org/name")
