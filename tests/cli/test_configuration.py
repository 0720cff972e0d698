"""Configuration files that start from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from maris_fast.config import TrainingSettings, load_settings
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


def test_a_circle_and_a_missing_file_name_the_files(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    circle = write(tmp_path, "b.yaml", "extends: a.yaml\n")
    with pytest.raises(ConfigError, match=r"circle: .*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        load_settings(TrainingSettings, circle)
    lost = write(tmp_path, "lost.yaml", "extends: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"no configuration .*nowhere\.yaml \(which .*lost\.yaml"):
        load_settings(TrainingSettings, lost)


def test_the_fast_preset_is_the_papers_but_for_what_it_names() -> None:
    paper = load_settings(TrainingSettings, CONFIGS / "refcoco.yaml")
    fast = load_settings(TrainingSettings, CONFIGS / "refcoco_fast.yaml")
    assert (paper.model.heads, paper.engine.compile) == (8, False)
    assert fast.model == paper.model.model_copy(update={"heads": 2})
    assert fast.engine == paper.engine.model_copy(update={"compile": True})
    assert (fast.data, fast.optimiser, fast.schedule) == (paper.data, paper.optimiser, paper.schedule)
