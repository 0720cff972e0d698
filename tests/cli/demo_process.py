"""The demo's command as a process, and a client of its page."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.training.processes import ROOT

COMMAND = (sys.executable, "-c", "from maris_fast.cli import app; app()")


@dataclass
class Running:
    process: subprocess.Popen[str]
    address: str
    client: Any
    scratch: Path
    """The process's temporary folder."""

    def segment(self, photo: Path | None, *sentences: str) -> Any:
        return self.client.predict(_uploaded(photo), "\n".join(sentences), api_name="/segment")

    def attention(self, photo: Path | None, sentence: str, x: int | None, y: int | None) -> Any:
        return self.client.predict(_uploaded(photo), sentence, x, y, api_name="/attention")


def _uploaded(photo: Path | None) -> Any:
    from gradio_client import handle_file

    return None if photo is None else handle_file(photo)


@contextmanager
def started(weights: Path, folder: Path, *options: str) -> Iterator[Running]:
    """The command as a process on a free port, with temporary files and answers below ``folder``."""
    gradio_client = pytest.importorskip("gradio_client")
    pytest.importorskip("gradio")
    scratch = folder / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        ["env", f"TMPDIR={scratch}", *COMMAND, "demo", str(weights), "--port", "0", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.match(r"(http://\S+)", line):
                break
        else:
            pytest.fail("".join(said))
        client = gradio_client.Client(
            found[1],
            verbose=False,
            download_files=folder / "answers",
            analytics_enabled=False,
        )
        yield Running(process, found[1], client, scratch)
    finally:
        process.kill()
        process.wait()
