"""One running demo page, shared by all tests that query it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.demo_process import Running, started
from tests.cli.untrained import write_untrained


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="package")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="package")
def running(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("running")
    Image.new("RGB", (64, 48), "green").save(folder / "example.png")
    with started(weights, folder, "--example", str(folder / "example.png")) as demo:
        yield demo
