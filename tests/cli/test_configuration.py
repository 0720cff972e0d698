"""Configuration files that extend others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maris_fast.config import CacheSettings, TrainingSettings, as_override, is_override, load_settings
from maris_fast.config.plain_yaml import load_yaml
from maris_fast.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "train" / "configs"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_what_comes_later_wins_and_sections_are_joined(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "data: {cache: a}\nmodel: {channels: 64, heads: 4}\n")
    write(tmp_path, "below/b.yaml", "extends: ../a.yaml\nmodel: {heads: 2}\n")
    own = write(tmp_path, "own.yaml", "extends: [a.yaml, below/b.yaml]\nrun: {folder: r}\ndata: {cache: c}\n")
    settings = load_settings(TrainingSettings, own, ["model.tau=0.25"])
    assert (settings.model.channels, settings.model.heads, settings.model.tau) == (64, 2, 0.25)
    assert str(settings.data.cache) == "c"


def test_of_several_files_the_later_win_section_by_section(tmp_path: Path) -> None:
    base = write(
        tmp_path, "base.yaml", "data: {cache: a}\nrun: {folder: r}\nmodel: {channels: 64, heads: 4}\n"
    )
    row = write(tmp_path, "row.yaml", "model: {heads: 2}\n")
    settings = load_settings(TrainingSettings, [base, row], ["run.seed=3"])
    assert (settings.model.channels, settings.model.heads, settings.run.seed) == (64, 2, 3)
    assert load_settings(TrainingSettings, [row, base]).model.heads == 4
    wrong = write(tmp_path, "wrong.yaml", "model: {haeds: 2}\n")
    with pytest.raises(
        ConfigError, match=r"base\.yaml and .*wrong\.yaml cannot be used(?s:.*)did you mean 'heads'"
    ):
        load_settings(TrainingSettings, [base, wrong])


@pytest.mark.process
def test_a_row_of_an_ablation_is_one_command(tmp_path: Path) -> None:
    main = Path(__file__).parents[2] / "train" / "main.py"
    command = [sys.executable, str(main), "--config", str(CONFIGS / "refcoco.yaml")]
    command += ["--config", str(CONFIGS / "ablations" / "without_ma.yaml"), f"run.folder={tmp_path / 'row'}"]
    shown = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True).stdout
    assert "ma_blocks: 0" in shown
    assert f"folder: {tmp_path / 'row'}" in shown


def test_a_circle_and_a_missing_file_name_the_files(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    circle = write(tmp_path, "b.yaml", "extends: a.yaml\n")
    with pytest.raises(ConfigError, match=r"circle: .*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        load_settings(TrainingSettings, circle)
    lost = write(tmp_path, "lost.yaml", "extends: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"no configuration .*nowhere\.yaml \(which .*lost\.yaml"):
        load_settings(TrainingSettings, lost)


def test_a_file_extends_shipped_configurations_by_their_names(tmp_path: Path) -> None:
    own = write(tmp_path, "own.yaml", "extends: [refcoco+, presets/fast]\nmodel: {channels: 128}\n")
    files = [CONFIGS / "refcoco+.yaml", CONFIGS / "presets" / "fast.yaml"]
    assert load_settings(TrainingSettings, own) == load_settings(
        TrainingSettings, files, ["model.channels=128"]
    )
    own = write(tmp_path, "own.yaml", "extends: refcocoo\n")
    with pytest.raises(ConfigError, match=r"refcocoo \(which .*own\.yaml extends\); of the .* refcoco,"):
        load_settings(TrainingSettings, own)


@given(st.one_of(st.text("ab/ #:'\"~-[{&*!%@`0.1\n\\", max_size=8), st.integers(0, 99)))
def test_a_value_put_into_an_override_is_read_back_as_it_was(value: str | int) -> None:
    settings = load_settings(
        TrainingSettings,
        None,
        [as_override("data.cache", "c"), as_override("run.folder", f"/x{value}"), "run.seed=1"],
    )
    assert str(settings.run.folder) == str(Path(f"/x{value}"))


@pytest.mark.parametrize("value", ["3", "true", "null", "a: b", "runs/try #2", "- 1", "[", ""])
def test_text_that_is_yaml_for_something_else_is_quoted(value: str) -> None:
    key, _, text = as_override("data.val_split", value).partition("=")
    assert key == "data.val_split"
    assert load_yaml(text) == value
    assert load_yaml(as_override("run.seed", 3).partition("=")[2]) == 3


def test_a_word_is_an_override_if_a_key_stands_before_the_sign() -> None:
    assert all(map(is_override, ("device=cpu", "encoders.sam.weights=a/b.pth", "run.folder=~/x=y")))
    assert not any(
        map(is_override, ("runs/lr=1e-3/cache", "./lr=1e-3", "cache", "s3://b/x=y", "=x", "a b=c"))
    )


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = write(tmp_path, "own.yaml", "run: {folder: ~/runs/x}\ndata: {cache: ~/c}\n")
    settings = load_settings(TrainingSettings, own, ["data.staging=~/s"])
    assert settings.run.folder == tmp_path / "runs" / "x"
    assert (settings.data.cache, settings.data.staging) == (tmp_path / "c", tmp_path / "s")
    caching = load_settings(CacheSettings, None, ["encoders.sam.weights=~/sam.pth"])
    assert str(caching.encoders.sam.weights) == str(tmp_path / "sam.pth")


def test_a_shipped_configuration_is_named_without_its_folder_unless_a_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = load_settings(TrainingSettings, [Path("refcoco"), Path("ablations/without_ma")])
    assert row == load_settings(
        TrainingSettings, [CONFIGS / "refcoco.yaml", CONFIGS / "ablations" / "without_ma.yaml"]
    )
    for kind, folder in ((TrainingSettings, "train"), (CacheSettings, "data_shards")):
        shipped = CONFIGS.parents[1] / folder / "configs" / "quickstart.yaml"
        assert load_settings(kind, Path("quickstart")) == load_settings(kind, shipped)
    with pytest.raises(ConfigError, match=r"file refcocoo; .* there are .*refcoco, refcoco\+"):
        load_settings(TrainingSettings, Path("refcocoo"))
    write(tmp_path, "refcoco", "data: {cache: own}\nrun: {folder: r}\n")
    assert str(load_settings(TrainingSettings, Path("refcoco")).data.cache) == "own"


def test_the_fast_preset_is_the_papers_but_for_what_it_names() -> None:
    paper = load_settings(TrainingSettings, CONFIGS / "refcoco.yaml")
    fast = load_settings(TrainingSettings, CONFIGS / "refcoco_fast.yaml")
    assert (paper.model.heads, paper.engine.compile) == (8, "auto")
    assert fast.model == paper.model.model_copy(update={"heads": 2, "decoder_self_attention": "pooled"})
    same = ("engine", "data", "optimiser", "schedule")
    assert [getattr(fast, name) for name in same] == [getattr(paper, name) for name in same]
