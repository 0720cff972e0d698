"""A small model, distinct photographs, and the service, in this process or as the command."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from maris_fast.prediction import EncodedImage, Picture, Predictor
from tests.cli.untrained import write_untrained
from tests.training.processes import ROOT

pytest.importorskip("fastapi")


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="package")
def predictor(weights: Path) -> Predictor:
    return Predictor(weights)


def pixels(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A random photograph, a different one for each ``number``."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(photo: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    return file.getvalue()


def form(photo: bytes, *sentences: str, name: str = "photo.png", **more: str) -> dict[str, Any]:
    """The form of a request; every photograph has the same name by default."""
    return {"files": {"image": (name, photo)}, "data": {"sentences": list(sentences), **more}}


class Held(Predictor):
    """Records what it computes; encodes photographs of ``SIZE`` only once ``go_on`` is set."""

    SIZE = (30, 40)

    def __init__(self, weights: Path) -> None:
        super().__init__(weights)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.encoded: list[tuple[int, int]] = []
        self.passes: list[list[list[str]]] = []

    def encode(self, image: Picture) -> EncodedImage:
        assert isinstance(image, Image.Image)
        size = (image.height, image.width)
        self.encoded.append(size)
        if size == self.SIZE:
            self.begun.set()
            assert self.go_on.wait(300)
        return super().encode(image)

    def coarse_logits(self, images: Any, expressions: Any) -> Any:
        self.passes.append([list(texts) for texts in expressions])
        return super().coarse_logits(images, expressions)


@pytest.fixture
def held(weights: Path) -> Iterator[Held]:
    predictor = Held(weights)
    yield predictor
    predictor.go_on.set()


@contextmanager
def serving(predictor: Predictor, files: Any = None, **changed: Any) -> Iterator[tuple[str, Any]]:
    """Run the service in this process; yield its address and its ``Segmenting``."""
    import uvicorn

    from maris_fast.service.segmenting import Segmenting
    from maris_fast.service.server import ServiceGate, application
    from maris_fast.service.settings import ServiceSettings
    from maris_fast.web.listening import listening, settings

    segmenting = Segmenting(predictor, ServiceSettings(**changed))
    gate = ServiceGate(application(segmenting, "small", files), segmenting, {"localhost"}, any_address=False)
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(settings(gate))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", segmenting
        finally:
            getattr(predictor, "go_on", threading.Event()).set()
            server.should_exit = True
            thread.join(30)
            segmenting.close()


class Process:
    """The command as a process on the CPU, at ``address``; ``said`` is its output so far."""

    def __init__(self, weights: Path, scratch: Path, *options: str, first: str = "") -> None:
        code = f"{first}\nfrom maris_fast.cli import app; app()"
        command = (sys.executable, "-c", code, "serve", str(weights), "--device", "cpu", *options)
        self.process = subprocess.Popen(
            ["env", f"TMPDIR={scratch}", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if found := re.match(r"(http://\S+)", line):
                self.address = found[1]
                return
        pytest.fail(self.said)

    def wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        assert next(self.process.stdout) == line

    def ended(self, signal_number: int | None = None) -> int:
        if signal_number is not None:
            self.process.send_signal(signal_number)
        said, _ = self.process.communicate(timeout=120)
        self.said += said
        return self.process.returncode


@contextmanager
def process(weights: Path, scratch: Path, *options: str, first: str = "") -> Iterator[Process]:
    running = Process(weights, scratch, *(options or ("--port", "0")), first=first)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def client_of(address: str, **more: Any) -> httpx.Client:
    # Without certificates, which take longer to load than a request.
    return httpx.Client(base_url=address, timeout=120, verify=False, **more)
