"""Label Studio's protocol: what its server sends, brushes that its editor reads, its files."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from maris_fast.errors import ConfigError
from maris_fast.prediction import Predictor
from maris_fast.service import label_studio_files
from maris_fast.service.brush_rle import brush_rle
from maris_fast.service.label_studio_files import LabelStudioFiles
from tests.service.conftest import client_of, pixels, png, serving

CONFIG = """<View>
  <!-- one mask a sentence -->
  <Image name="photo" value="$picture"/>
  <TextArea name="prompt" toName="photo" editable="true" maxSubmissions="1"/>
  {more}
  <BrushLabels name="mask" toName="photo"><Label value="object"/><Label value="the dog"/></BrushLabels>
</View>"""
PHOTOS = {"/data/upload/1/a.png": pixels(1), "/data/upload/2/a.png": pixels(2, 60, 44)}
KEY = "0123456789abcdef"
PERSONAL = "header.payload.signature"


def unpacked(rle: Sequence[int]) -> np.ndarray:
    """Values decoded as by @thi.ng/rle-pack, which Label Studio's editor uses."""
    bits = "".join(f"{one:08b}" for one in rle)
    place = 0

    def read(number: int) -> int:
        nonlocal place
        place += number
        return int(bits[place - number : place], 2)

    total, value_bits = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, length = read(1), read(lengths[read(2)]) + 1
        values += [read(value_bits)] * length if is_run else [read(value_bits) for _ in range(length)]
    assert len(values) == total
    assert len(bits) - place < 8
    return np.array(values, np.uint8)


@given(
    arrays(
        np.bool_,
        array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.booleans(),
        fill=st.booleans(),
    )
)
def test_a_brush_is_unpacked_to_the_mask(mask: np.ndarray) -> None:
    wanted = np.repeat(mask.reshape(-1), 4).astype(np.uint8) * 255
    np.testing.assert_array_equal(unpacked(brush_rle(mask)), wanted)


def test_a_brush_is_what_label_studios_own_library_packs() -> None:
    # label-studio-sdk 2.1.2: brush.encode_rle, which adds a byte of padding where none is needed.
    assert brush_rle(np.array([[0, 1, 1], [1, 0, 0]], bool)) == [
        0,
        0,
        0,
        24,
        57,
        27,
        252,
        96,
        22,
        255,
        231,
        0,
    ]
    long = np.zeros((300, 200), bool)
    long[100:250] = True
    np.testing.assert_array_equal(unpacked(brush_rle(long)).reshape(300, 200, 4)[..., 3] > 0, long)


def request(tasks: Sequence[dict[str, Any]], written: str | None = None, more: str = "") -> dict[str, Any]:
    """A request as Label Studio's server sends it."""
    context = {
        "result": [
            {
                "id": "x",
                "type": "textarea",
                "from_name": "prompt",
                "to_name": "photo",
                "value": {"text": [written]},
            }
        ]
    }
    return {
        "tasks": list(tasks),
        "model_version": None,
        "project": "1.1700000000",
        "label_config": CONFIG.format(more=more),
        "params": {"login": None, "password": None, "context": context if written else None},
    }


def inline(photo: np.ndarray, **data: Any) -> dict[str, Any]:
    address = "data:image/png;base64," + base64.b64encode(png(photo)).decode()
    return {"id": 7, "data": {"picture": address, **data}}


@pytest.fixture(scope="module")
def address(predictor: Predictor) -> Iterator[str]:
    with serving(predictor) as (address, _):
        yield address


def require_brushes(
    predictor: Predictor, photo: np.ndarray, prediction: dict[str, Any], labels: dict[str, str]
) -> None:
    """Require the predictor's masks as brushes; ``labels`` are by sentence, in order."""
    assert prediction["model_version"] == "small"
    assert len(prediction["result"]) == len(labels)
    for region, (sentence, label) in zip(prediction["result"], labels.items(), strict=True):
        height, width = photo.shape[:2]
        assert (region["original_height"], region["original_width"]) == (height, width)
        assert (region["from_name"], region["to_name"], region["type"]) == ("mask", "photo", "brushlabels")
        assert region["value"]["brushlabels"] == [label]
        assert region["value"]["format"] == "rle"
        values = unpacked(region["value"]["rle"]).reshape(height, width, 4)
        logits = predictor.logits(photo, sentence).numpy()
        clear = np.abs(logits) > 1e-4 * np.abs(logits).max()
        np.testing.assert_array_equal((values[..., 3] > 0)[clear], (logits > 0)[clear])
        assert 0.5 < region["score"] < 1
    assert prediction["score"] == pytest.approx(
        np.mean([one["score"] for one in prediction["result"]]), abs=1e-3
    )


def test_sentences_are_what_is_written_else_the_tasks_own_else_the_labels(
    address: str, predictor: Predictor
) -> None:
    photo = pixels(5)
    own = '<Text name="t" value="$sentence"/>'
    cases = [
        (request([inline(photo, sentence="bar")], "the red cup", own), {"the red cup": "object"}),
        (request([inline(photo, sentence="bar")], None, own), {"bar": "object"}),
        (
            request([inline(photo, sentence=["bar", "the dog"])], None, own),
            {"bar": "object", "the dog": "the dog"},
        ),
        (request([inline(photo, sentence="bar")]), {"object": "object", "the dog": "the dog"}),
    ]
    with client_of(address) as client:
        assert client.get("/health").json()["status"] == "UP"
        setup = {
            "project": "1.17",
            "schema": CONFIG.format(more=""),
            "hostname": "http://evil",
            "access_token": "x",
        }
        assert client.post("/setup", json=setup).json() == {"model_version": "small"}
        assert client.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 201
        for asked, labels in cases:
            answer = client.post("/predict", json=asked)
            assert answer.status_code == 200, answer.text
            (prediction,) = answer.json()["results"]
            require_brushes(predictor, photo, prediction, labels)


class _LabelStudio(BaseHTTPRequestHandler):
    asked: list[str]
    access = json.dumps({"access": "minutes"}).encode()
    closing = threading.Event()

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.asked.append(self.path)
        known = self.headers.get("Authorization") in (f"Token {KEY}", "Bearer minutes")
        if self.path == "/data/slow":
            self._answer(200, b"", **{"content-length": "1000"})
            with suppress(OSError):
                while not self.closing.wait(0.1):
                    self.wfile.write(b"x")
        elif self.path == "/data/elsewhere":
            self._answer(302, b"", location="http://127.0.0.1:9/")
        elif not known or self.path not in PHOTOS:
            self._answer(404 if known else 401, b"no")
        else:
            self._answer(200, png(PHOTOS[self.path]))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = (self.path, body) == ("/api/token/refresh", {"refresh": PERSONAL})
        self._answer(200 if good else 401, self.access)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def studio() -> Iterator[str]:
    _LabelStudio.asked = []
    _LabelStudio.closing.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _LabelStudio)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    _LabelStudio.closing.set()
    server.shutdown()
    server.server_close()


def tasks(*addresses: str) -> list[dict[str, Any]]:
    return [{"id": number, "data": {"picture": one}} for number, one in enumerate(addresses, start=1)]


@pytest.mark.parametrize("key", [KEY, PERSONAL])
def test_images_of_one_name_at_the_named_server_are_each_their_own(
    predictor: Predictor, studio: str, key: str
) -> None:
    first, second = PHOTOS
    with (
        serving(predictor, LabelStudioFiles(studio, key, 1 << 20)) as (address, _),
        client_of(address) as client,
    ):
        answer = client.post("/predict", json=request(tasks(first, f"{studio}{second}", first), "bar"))
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        for path, prediction in zip((first, second, first), results, strict=True):
            require_brushes(predictor, PHOTOS[path], prediction, {"bar": "object"})


def test_no_other_server_is_asked_and_a_missing_image_is_reported_by_its_task(
    predictor: Predictor, studio: str
) -> None:
    good = next(iter(PHOTOS))

    def told(client: httpx.Client, *addresses: str) -> tuple[int, str]:
        answer = client.post("/predict", json=request(tasks(*addresses), "bar"))
        return answer.status_code, answer.json()["error"]

    with (
        serving(predictor, LabelStudioFiles(studio, KEY, 20_000)) as (address, _),
        client_of(address) as client,
    ):
        elsewhere = "task 2: its image is not at the Label Studio server that this service may ask"
        for other in (
            "http://169.254.169.254/latest/",
            "https://example.com/a.png",
            "//example.com/a.png",
            "file:///etc/passwd",
            "s3://bucket/a.png",
            studio.replace("http", "https"),
        ):
            assert told(client, good, other) == (422, elsewhere)
        assert told(client, "/data/none")[0] == 502
        assert told(client, "/data/elsewhere") == (
            502,
            "task 1: Label Studio answers 302 where its image should be; is LABEL_STUDIO_API_KEY that of a "
            "user who may see the project?",
        )
        assert set(_LabelStudio.asked) - {good} == {"/data/none", "/data/elsewhere"}
    for key in (None, "wrong", "a.wrong.one"):
        with (
            serving(predictor, LabelStudioFiles(studio, key, 20_000)) as (address, _),
            client_of(address) as client,
        ):
            status, text = told(client, good)
            assert (status, "LABEL_STUDIO_API_KEY" in text) == (502, True)
    with serving(predictor, LabelStudioFiles(studio, KEY, 99)) as (address, _), client_of(address) as client:
        assert told(client, good) == (413, "task 1: its image has more than 99 bytes")


def test_addresses_and_answers_that_are_not_what_they_should_be_are_reported_by_task(
    predictor: Predictor, studio: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = next(iter(PHOTOS))

    def told(key: str, *addresses: str) -> tuple[int, str]:
        files = LabelStudioFiles(studio, key, 20_000)
        with serving(predictor, files) as (address, _), client_of(address) as client:
            answer = client.post("/predict", json=request(tasks(*addresses), "bar"))
            return answer.status_code, answer.json()["error"]

    for address in ("http://[x", "http://localhost:port/a.png", "/data/\x00.png", "http://a\x7f/"):
        status, text = told(KEY, good, address)
        assert (status, text.partition(":")[0]) == (422, "task 2"), text
    for access in (b"<html>log in</html>", b"[]", b'{"access": 5}', b"\xff"):
        monkeypatch.setattr(_LabelStudio, "access", access)
        status, text = told(PERSONAL, good)
        assert (status, "expected JSON with an `access`" in text) == (502, True)
    for server in ("localhost:8080", "http://", "http://[x", "http://localhost:port"):
        with pytest.raises(ConfigError, match="expected an address such as http://localhost:8080"):
            LabelStudioFiles(server, KEY, 1)


def test_an_image_that_comes_byte_by_byte_is_not_waited_for(
    predictor: Predictor, studio: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_studio_files, "SECONDS", 1.0)
    files = LabelStudioFiles(studio, KEY, 20_000)
    with serving(predictor, files) as (address, _), client_of(address) as client:
        answer = client.post("/predict", json=request(tasks("/data/slow"), "bar"))
    assert (answer.status_code, answer.json()["error"]) == (
        502,
        "task 1: Label Studio does not give its image within 1 s",
    )


def test_an_interface_without_a_brush_or_that_cannot_be_read_is_refused(address: str) -> None:
    entities = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>'
    configs = {
        "": "is not XML",
        "<View>": "is not XML",
        entities: "declares entities of its own",
        "<View>" + " " * 100_000 + "</View>": "too long",
        '<View><Image name="i" value="$i"/></View>': "has no brush for an image",
        '<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i"/></View>': "has no brush",
        CONFIG.format(more="").replace("$picture", "a.png"): "has no brush",
    }
    with client_of(address) as client:
        for config, text in configs.items():
            for path, asked in (
                ("/setup", {"schema": config}),
                ("/predict", {"tasks": [], "label_config": config}),
            ):
                answer = client.post(path, json=asked)
                assert answer.status_code == 422
                assert text in answer.json()["error"]
        for tasks_, text in (
            ([{"id": 3, "data": {}}], "task 3: its data has no text 'picture'"),
            ([{"data": {"picture": 5}}], "task 1: its data has no text 'picture'"),
            ([inline(pixels(1)), {"id": 8, "data": {"picture": "/data/upload/a.png"}}], "--label-studio URL"),
            (
                [{"id": 9, "data": {"picture": "data:image/svg+xml;base64,PHN2Zy8+"}}],
                "task 9: the image is XML",
            ),
            ([{"id": 9, "data": {"picture": "data:image/svg+xml,<svg/>"}}], "is not in base64"),
            ("x", "tasks: Input should be a valid list"),
        ):
            answer = client.post("/predict", json=request([], "dog") | {"tasks": tasks_})
            assert answer.status_code == 422, answer.text
            assert text in answer.json()["error"]
        for path in ("/predict", "/setup"):
            assert client.post(path, content=b"\xff").status_code == 422
