"""Long commands report their progress without a terminal, as in the log of a batch system."""

from __future__ import annotations

from pathlib import Path

import pytest

from maris_fast.system import progress
from tests.command_line import maris_fast


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, which the test advances."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_half_a_minute_and_at_the_end(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.counting("encode", 1200, 200) as advance:
        for _ in range(1000):
            seconds[0] += 0.125
            advance()
    assert capsys.readouterr().out.splitlines() == [
        "encode: 440 of 1,200 images, 8.0 images/s, 0:01:35 left",
        "encode: 680 of 1,200 images, 8.0 images/s, 0:01:05 left",
        "encode: 920 of 1,200 images, 8.0 images/s, 0:00:35 left",
        "encode: 1,160 of 1,200 images, 8.0 images/s, 0:00:05 left",
        "encode: 1,200 of 1,200 images, 8.0 images/s, 0:00:00 left",
    ]


def test_several_kinds_of_work_have_their_own_lines_and_short_work_has_none(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.all_counted("image encoder", "text encoder", "short") as (image, text, short):
        for step in range(1, 41):
            image(step, 80)
            seconds[0] += 2
        text(0, 10)
        seconds[0] += 30
        text(0, 10)
        for step in range(3):
            short(step + 1, 3)
    assert capsys.readouterr().out.splitlines() == [
        "image encoder: 16 of 80, 0.5/s, 0:02:08 left",
        "image encoder: 31 of 80, 0.5/s, 0:01:38 left",
        "text encoder: 0 of 10, 0.0/s, unknown time left",
    ]


def test_commands_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    images = ("--train-images", 4, "--val-images", 1, "--image-size", 64)
    done = maris_fast("scenes", "--out", tmp_path / "scenes", *images)
    assert done.exit_code == 0, done.output
    assert "scenes: 5 of 5" in done.output
