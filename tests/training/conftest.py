"""The cache that the training tests share; none of them changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.tiny_cache import write_tiny_cache


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cache(tmp_path_factory.mktemp("cache"))
