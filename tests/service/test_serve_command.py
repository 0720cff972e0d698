"""``serve`` as programs see it: the command as a process, queried over real sockets."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import socket
import sys
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from maris_fast.prediction import Picture, Predictor
from maris_fast.rle import Rle
from tests.command_line import maris_fast, said
from tests.pictures import png_chunk, png_of
from tests.service.conftest import Process, client_of, form, pixels, png, process

pytestmark = pytest.mark.process

SECRET = "the-secret-of-a-stranger"
SENTENCES = ("the red circle", "a dog on the left", "bar")


SLOW = """
import time, maris_fast.prediction as module
encode, seconds = module.Predictor.encode, {30: 2, 31: 60}
def slowly(predictor, image):
    if image.height in seconds:
        print("begun", flush=True)
        time.sleep(seconds[image.height])
    return encode(predictor, image)
module.Predictor.encode = slowly
"""
"""Encoding takes ``seconds`` for photographs of these heights."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def running(weights: Path, scratch: Path) -> Iterator[Process]:
    with process(weights, scratch, first=SLOW) as running:
        yield running


@pytest.fixture
def client(running: Process) -> Iterator[httpx.Client]:
    with client_of(running.address) as client:
        yield client


def in_json(photo: bytes, *sentences: str, **more: Any) -> dict[str, Any]:
    return {"json": {"image": base64.b64encode(photo).decode(), "sentences": list(sentences), **more}}


def masks_of(answer: dict[str, Any]) -> np.ndarray:
    """The masks [E, H, W], from either format."""
    found = []
    for mask in answer["masks"]:
        if "rle" in mask:
            assert "png" not in mask
            found.append(Rle.model_validate(mask["rle"]).decode())
        else:
            found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["png"])))))
    return np.stack(found)


def require_right(
    predictor: Predictor, photo: Picture, sentences: tuple[str, ...], answer: dict[str, Any]
) -> None:
    """Require the predictor's masks, except for pixels whose logits are 0 up to rounding."""
    logits = predictor.logits(photo, sentences).numpy()
    masks = masks_of(answer)
    assert (answer["height"], answer["width"]) == logits.shape[1:]
    assert [one["sentence"] for one in answer["masks"]] == list(sentences)
    clear = np.abs(logits) > 1e-4 * np.abs(logits).max()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(masks[clear], (logits > 0)[clear])
    for one, mask, logit in zip(answer["masks"], masks, logits, strict=True):
        score = (1 / (1 + np.exp(-logit)))[logit > 0].mean()
        assert one["score"] == pytest.approx(score, abs=2e-3)
        assert one["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        left, top, width, height = one["box"]
        assert (left, left + width - 1) == (columns.min(), columns.max())
        assert (top, top + height - 1) == (rows.min(), rows.max())


def test_fifty_requests_at_once_get_their_own_answers(
    running: Process, client: httpx.Client, predictor: Predictor
) -> None:
    """All photographs have one name, each is in two requests, and two photographs share a size."""
    photos = [pixels(number // 2, 40 + number // 4, 64) for number in range(50)]
    encoded = [predictor.encode(photo) for photo in photos[::2]]
    texts = [tuple(SENTENCES[: number % 3 + 1]) for number in range(50)]
    assert not np.array_equal(
        predictor.masks(encoded[0], SENTENCES[0]), predictor.masks(encoded[1], SENTENCES[0])
    )

    def ask(number: int) -> dict[str, Any]:
        make = form if number % 3 else in_json
        kind = "png" if number % 4 == 0 else "rle"
        with client_of(running.address) as own:
            answer = own.post("/segment", **make(png(photos[number]), *texts[number], format=kind))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    with ThreadPoolExecutor(50) as people:
        answers = list(people.map(ask, range(50)))
    for number, (sentences, answer) in enumerate(zip(texts, answers, strict=True)):
        require_right(predictor, encoded[number // 2], sentences, answer)
    assert client.get("/ready").json() == {"waiting": 0}


def test_a_photograph_is_turned_as_it_is_shown(client: httpx.Client, predictor: Predictor) -> None:
    file, upright = io.BytesIO(), Image.fromarray(pixels(7, 40, 72))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    answer = client.post("/segment", **form(file.getvalue(), "bar")).json()
    require_right(predictor, pixels(7, 40, 72), ("bar",), answer)


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes whose header declares this size."""
    return png_of(width, height, png_chunk(b"IDAT", zlib.compress(bytes(1 << 20))))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photo.png", png(pixels(1)))
    return file.getvalue()


SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><text>{SECRET}</text></svg>'.encode()
UPLOADS = {
    "cut off": (png(pixels(1))[:-2000], 422, "cannot be decoded"),
    "its head cut off": (png(pixels(1))[:20], 422, "is not a readable image"),
    "empty": (b"", 422, "is empty"),
    "a bomb": (bomb(60_000, 60_000), 413, "has 3600 megapixels"),
    "a wide one": (bomb(5001, 5000), 413, "has 25,005,000 pixels; at most 25,000,000 are taken"),
    "a needle": (png(pixels(1, 1, 4000)), 422, "crop it"),
    "a drawing": (SVG, 422, "is XML: a drawing (SVG)"),
    "a web page": (b"<!doctype html><script>1</script>", 422, "is a web page"),
    "an archive": (zipped(), 422, "none of JPEG, PNG, WEBP, GIF, BMP or TIFF"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", 422, "PostScript"),
    "another format": (b"P6 1 1 255\n123", 422, "none of JPEG"),
    "noise": (bytes(range(256)) * 8, 422, "none of JPEG"),
}


@pytest.mark.parametrize("make", [form, in_json])
@pytest.mark.parametrize("upload", UPLOADS)
def test_uploads_that_are_not_photographs_are_refused(client: httpx.Client, upload: str, make: Any) -> None:
    content, status, text = UPLOADS[upload]
    answer = client.post("/segment", **make(content, "dog"))
    assert answer.status_code == status, answer.text
    assert text in answer.json()["error"]
    assert SECRET not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


JSON = {"content-type": "application/json"}
PHOTO = base64.b64encode(png(pixels(1))).decode()


def body(**fields: Any) -> bytes:
    return json.dumps({"image": PHOTO, "sentences": ["dog"], **fields}).encode()


@pytest.mark.parametrize(
    ("content", "headers", "status", "text"),
    [
        (b"\xff\xfe\xfa", JSON, 422, "it is not JSON"),
        (b'{"image": "\xff", "sentences": ["dog"]}', JSON, 422, "it is not JSON"),
        (body(image=float("nan")), JSON, 422, "image: Input should be a valid string"),
        (body(sentences=float("nan")), JSON, 422, "sentences: Input should be a valid list"),
        (body(sentences=[float("inf")]), JSON, 422, "sentences.0: Input should be a valid string"),
        (b'{"image": 1' + b"0" * 5000 + b"}", JSON, 422, "cannot be read"),
        (b"[" * 100_000, JSON, 422, "nested too deep"),
        (b'{"image": "", "image": ""}', JSON, 422, "the key 'image' appears twice"),
        (body(path="/etc/passwd"), JSON, 422, "path: Extra inputs are not permitted"),
        (body(image="/etc/passwd"), JSON, 422, "not in base64"),
        (body(image="/etc/passwds"), JSON, 422, "is not a readable image"),
        (body(image="https://example.com/a.png"), JSON, 422, "not in base64"),
        (body(image="é"), JSON, 422, "not in base64"),
        (body(format="tiff"), JSON, 422, "format: Input should be 'rle' or 'png'"),
        (body(sentences=[]), JSON, 422, "no sentence"),
        (body(sentences=["dog"] * 17), JSON, 422, "17 sentences; at most 16"),
        (body(sentences=["x" * 1001]), JSON, 422, "1001 letters; at most 1000"),
        (body(sentences=["dog " * 100]), JSON, 422, "the text tower tiny takes 77"),
        (body(sentences=[" "]), JSON, 422, "holds no word"),
        (body(sentences=["dog \ud83d"]), JSON, 422, "half a character at 4"),
        (b"", JSON, 422, "it is not JSON"),
        (body(), {"content-type": "text/plain"}, 415, "expected application/json"),
        (body(), {}, 415, "expected application/json"),
        (body(), {"content-type": "multipart/form-data"}, 422, "boundary"),
        (body(), {"content-type": "multipart/form-data; boundary=b"}, 422, "the form cannot be read"),
        (b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}, 422, "no image"),
        (b"--b\r\n", {"content-type": b"multipart/form-data; boundary=\xff"}, 422, "cannot be read"),
        (b"0" * (44 << 20), JSON, 413, "too large"),
    ],
)
def test_requests_that_cannot_be_read_are_refused(
    client: httpx.Client, content: bytes, headers: dict[str, Any], status: int, text: str
) -> None:
    answer = client.post("/segment", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert text in answer.json()["error"]


def test_forms_with_other_fields_are_refused(client: httpx.Client) -> None:
    photo = png(pixels(1))
    for asked, text in (
        ({"files": {"image": photo}, "data": {"sentences": ["dog"], "path": "/etc/passwd"}}, "expected one"),
        ({"files": [("image", photo), ("image", photo)], "data": {"sentences": ["dog"]}}, "Too many files"),
        ({"files": {"sentences": photo}}, "expected one file `image`"),
        ({"files": {"image": photo}, "data": {"sentences": ["dog"] * 17}}, "17 sentences; at most 16"),
        ({"files": {"image": photo}, "data": {"sentences": ["dog"] * 116}}, "116 sentences; at most 16"),
        ({"files": {"image": photo}, "data": {"sentences": ["dog"] * 117}}, "Too many fields"),
        ({"files": {"image": photo}}, "no sentence"),
        ({"files": {"image": photo}, "data": {"sentences": ["x" * (2 << 20)]}}, "Part exceeded"),
    ):
        answer = client.post("/segment", **asked)  # type: ignore[arg-type]
        assert answer.status_code == 422, answer.text
        assert text in answer.json()["error"]
    large = client.post("/segment", **form(bytes((32 << 20) + 1), "dog"))
    assert (large.status_code, "at most 33,554,432 are taken" in large.text) == (413, True)


def test_other_names_origins_paths_and_methods_are_refused(client: httpx.Client) -> None:
    for headers, status in (
        ({"host": "rebound.example"}, 421),
        ({"x-forwarded-host": "rebound.example"}, 421),
        ({"origin": "http://rebound.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ):
        answer = client.post("/segment", **form(png(pixels(1)), "dog"), headers=headers)
        assert answer.status_code == status
        assert answer.json().keys() == {"error"}
    for path in ("/docs", "/redoc", "/metrics", f"/{SECRET}", "/segment/../../etc/passwd"):
        assert client.get(path).status_code == 404
    assert client.get("/segment").status_code == 405
    assert client.request("TRACE", "/segment").status_code == 405


def test_its_description_names_what_it_takes_and_answers(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/segment", "/health", "/ready", "/setup", "/predict", "/webhook"}
    segment = paths["/segment"]["post"]
    assert set(segment["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert set(segment["responses"]) == {"200", "408", "413", "415", "422", "429", "500", "503"}
    assert set(paths["/predict"]["post"]["responses"]) == {*segment["responses"], "502"}


def test_sigterm_answers_what_is_there_and_the_next_process_answers_the_same(
    running: Process, weights: Path, scratch: Path, predictor: Predictor
) -> None:
    """The last test of ``running``, which must have logged no request content and left no files."""
    port = int(running.address.rpartition(":")[2])
    with client_of(running.address) as client, ThreadPoolExecutor(1) as people:
        wanted = client.post("/segment", **form(png(pixels(3)), "bar")).json()
        begun = people.submit(client.post, "/segment", **form(png(pixels(3, 30)), "bar"))
        running.wait_for("begun\n")
        assert running.ended(signal.SIGTERM) == 0
        require_right(predictor, pixels(3, 30), ("bar",), begun.result().json())
    assert running.said.strip().endswith("ended")
    for text in (SECRET, "photo.png", "dog", "bar", "Traceback"):
        assert text not in running.said
    assert not list(scratch.iterdir())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with process(weights, scratch, "--port", str(port), "--grace", "0.5", first=SLOW) as again:
        with client_of(again.address) as client, ThreadPoolExecutor(1) as people:
            assert client.post("/segment", **form(png(pixels(3)), "bar")).json() == wanted
            endless = people.submit(client.post, "/segment", **form(png(pixels(3, 31)), "bar"))
            again.wait_for("begun\n")
            assert again.ended(signal.SIGINT) == 0
            assert endless.result().status_code == 503
            assert endless.result().json() == {"error": "the service is ending; ask again later"}
        assert "Traceback" not in again.said


def test_a_service_that_cannot_be_started_says_why(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = maris_fast("serve", weights, "--port", port)
        assert done.exit_code == 2
        assert f"no service at 127.0.0.1, port {port}" in said(done)
    done = maris_fast("serve", weights, "--max-pixels", 178_000_001)
    assert "--max-pixels is 178,000,001; no image of more than 178,000,000 is read" in said(done)
    done = maris_fast("serve", weights, "--label-studio", "localhost:8080")
    assert "--label-studio is 'localhost:8080'; expected an address" in said(done)
    for name in [name for name in sys.modules if re.match(r"maris_fast\.(serv|web)|uvicorn", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = maris_fast("serve", weights, "--port", 0)
    assert "the service needs uvicorn, which is not installed: pip install 'maris-fast[serve]'" in said(done)
