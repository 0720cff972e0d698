"""What the service batches, how it queues requests, and its errors if it cannot answer."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from starlette.exceptions import HTTPException

from maris_fast.cli import serve as serve_command
from maris_fast.errors import CheckpointError
from maris_fast.geometry import to_original_size
from maris_fast.prediction import Predictor
from maris_fast.rle import Rle
from maris_fast.service import server
from maris_fast.service.api import upload_of
from maris_fast.service.segmenting import Segmenting
from maris_fast.service.server import ServiceGate, application
from maris_fast.service.settings import ServiceSettings
from tests.command_line import maris_fast, said
from tests.pictures import Decodes
from tests.service.conftest import Held, client_of, form, pixels, png, serving
from tests.waiting import wait_until

HELD = pixels(0, *Held.SIZE)


def ask(client: httpx.Client, photo: np.ndarray, *sentences: str) -> httpx.Response:
    return client.post("/segment", **form(png(photo), *sentences))


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@contextmanager
def sent(client: httpx.Client, photo: np.ndarray, *sentences: str) -> Iterator[None]:
    """A request whose client disconnects at the end, without waiting for its answer."""
    request = client.build_request("POST", "/segment", **form(png(photo), *sentences))
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((request.url.host, request.url.port)) as connection:
        connection.sendall(f"POST /segment HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        yield


def test_logits_of_several_images_at_once_are_those_of_each_to_rounding(predictor: Predictor) -> None:
    photos = [pixels(1), pixels(2, 64, 48), pixels(3), pixels(4, 60, 60)]
    texts = [["a dog"], ["the red circle on the left of the bar", "cat"], ["bar"], ["one", "two", "three"]]
    encoded = [predictor.encode(photo) for photo in photos]
    together = predictor.coarse_logits(encoded, texts)
    for image, coarse, sentences in zip(encoded, together, texts, strict=True):
        wanted = predictor.logits(image, sentences)
        torch_scale = float(wanted.abs().max())
        difference = (to_original_size(coarse, image.geometry) - wanted).abs().max()
        assert float(difference) < 1e-5 * torch_scale


def test_requests_of_one_moment_share_a_forward_pass_and_a_photograph_its_features(held: Held) -> None:
    with (
        serving(held, at_once=8) as (address, segmenting),
        client_of(address) as client,
        ThreadPoolExecutor(8) as people,
    ):
        first = people.submit(ask, client, HELD, "first")
        assert held.begun.wait(60)
        others = [people.submit(ask, client, pixels(number % 2), f"word {number}") for number in range(6)]
        wait_until(lambda: len(segmenting._coarse._waiting) == 6)
        assert client.get("/ready").json() == {"waiting": 0}
        assert client.get("/health").json() == HEALTH
        held.go_on.set()
        assert first.result().json()["masks"][0]["sentence"] == "first"
        for number, other in enumerate(others):
            assert other.result().json()["masks"][0]["sentence"] == f"word {number}"
    assert held.passes[0] == [["first"]]
    assert len(held.passes) == 2
    assert sorted(text for (text,) in held.passes[1]) == [f"word {number}" for number in range(6)]
    assert held.encoded == [Held.SIZE, (48, 64), (48, 64)]


def test_a_pass_has_a_limit_of_sentences(held: Held) -> None:
    with (
        serving(held, sentences=40) as (address, segmenting),
        client_of(address) as client,
        ThreadPoolExecutor(3) as people,
    ):
        first = people.submit(ask, client, HELD, "first")
        assert held.begun.wait(60)
        others = [people.submit(ask, client, pixels(number), *(["dog"] * 40)) for number in range(2)]
        wait_until(lambda: len(segmenting._coarse._waiting) == 2)
        held.go_on.set()
        assert [one.result().status_code for one in (first, *others)] == [200] * 3
    assert [sum(map(len, one)) for one in held.passes] == [1, 40, 40]


def test_every_option_of_the_command_is_the_services(
    weights: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    served: dict[str, Any] = {}

    @contextmanager
    def asked_at(*arguments: object) -> Iterator[tuple[None, Predictor]]:
        asked.extend(arguments)
        yield None, predictor

    def serve(segmenting: Segmenting, *_: object, **more: Any) -> None:
        served.update(more, settings=segmenting.settings)

    monkeypatch.setattr(serve_command, "asked_at", asked_at)
    monkeypatch.setattr(server, "serve", serve)
    options = "--max-upload 3 --max-pixels 40000 --max-sentences 5 --at-once 6 --queue 7 --per-client 4"
    options += " --timeout 8.5 --grace 9.5 --keep-images 10 --host 0.0.0.0 --port 1234 --device cpu"
    options += " --allow-host one --allow-host another --sam-weights sam.pth --text-weights clip.pt"
    done = maris_fast("serve", weights, *options.split())
    assert done.exit_code == 0, said(done)
    assert asked == ["0.0.0.0", 1234, "service", weights, "sam.pth", "clip.pt", "cpu"]
    assert served["settings"] == ServiceSettings(
        upload_bytes=3 << 20,
        pixels=40_000,
        sentences=5,
        at_once=6,
        waiting=7,
        of_one=4,
        seconds=8.5,
        grace=9.5,
        keep_images=10,
    )
    assert (served["host"], served["allowed_hosts"]) == ("0.0.0.0", ["one", "another"])


HEALTH = {"status": "UP", "model_class": "maris-fast", "model_version": "small"}


class Poisoned(Held):
    def coarse_logits(self, images: Any, expressions: Sequence[Sequence[str]]) -> Any:
        if any("poison" in text for texts in expressions for text in texts):
            raise CheckpointError(f"not finite: {expressions}")
        return super().coarse_logits(images, expressions)


def test_one_that_fails_in_a_shared_pass_fails_alone_and_is_not_quoted_in_the_log(
    weights: Any, caplog: pytest.LogCaptureFixture
) -> None:
    held = Poisoned(weights)
    with (
        caplog.at_level(logging.DEBUG),
        serving(held) as (address, segmenting),
        client_of(address) as client,
        ThreadPoolExecutor(4) as people,
    ):
        first = people.submit(ask, client, HELD, "first")
        assert held.begun.wait(60)
        others = [people.submit(ask, client, pixels(1), text) for text in ("dog", "poison", "cat")]
        wait_until(lambda: len(segmenting._coarse._waiting) == 3)
        held.go_on.set()
        statuses = [one.result().status_code for one in (first, *others)]
        assert statuses == [200, 200, 500, 200]
        assert others[1].result().json() == {"error": "an error of the service, which its log names"}
    (told,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert told.startswith("POST /segment: CheckpointError at ")
    assert not [one for one in caplog.records if "poison" in one.getMessage() and one.name != "httpx"]


def test_the_queue_has_an_end_and_an_address_a_share_and_takes_turns(held: Held) -> None:
    with (
        serving(held, at_once=1, waiting=3, of_one=2) as (address, _),
        client_of(address) as many,
        client_of(address, transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other,
        client_of(address, transport=httpx.HTTPTransport(local_address="127.0.0.3")) as third,
        ThreadPoolExecutor(8) as people,
    ):
        begun = people.submit(ask, many, HELD, "begun")
        assert held.begun.wait(60)
        waiting = []
        for number in range(2):
            waiting.append(people.submit(ask, many, pixels(number), f"many {number}"))
            wait_until(lambda: third.get("/ready").json() == {"waiting": len(waiting)})
        refused = ask(many, pixels(9), "too many")
        assert refused.status_code == 429
        assert refused.json() == {"error": "2 requests of yours are waiting; send more when they are done"}
        assert refused.headers["Retry-After"] == "5"
        another = people.submit(ask, other, pixels(5), "other")
        wait_until(lambda: third.get("/ready").status_code == 503)
        assert third.get("/ready").json() == {"error": "the queue is full"}
        full = ask(third, pixels(6), "third")
        assert (full.status_code, full.json()) == (503, {"error": "3 requests are waiting; ask again later"})
        assert third.get("/health").status_code == 200
        held.go_on.set()
        assert [one.result().status_code for one in (begun, *waiting, another)] == [200] * 4
    order = [text for one in held.passes for (text,) in one]
    # The first turn of one client comes before the second of another.
    assert order == ["begun", "other", "many 0", "many 1"]


def test_a_request_that_takes_too_long_is_answered_and_leaves_its_place(held: Held) -> None:
    with serving(held, at_once=1, seconds=1.0) as (address, _), client_of(address) as client:
        late = ask(client, HELD, "late")
        assert (late.status_code, late.json()) == (
            503,
            {"error": "not answered within 1 s; ask again later"},
        )
        held.go_on.set()
        wait_until(lambda: ask(client, pixels(1), "soon").status_code == 200)


def test_a_client_that_disconnects_leaves_the_queue(held: Held) -> None:
    with serving(held, at_once=1, waiting=1) as (address, _), client_of(address) as client:
        with ThreadPoolExecutor(2) as people:
            begun = people.submit(ask, client, HELD, "begun")
            assert held.begun.wait(60)
            with sent(client, pixels(1), "impatient"):
                wait_until(lambda: client.get("/ready").status_code == 503)
            wait_until(lambda: client.get("/ready").status_code == 200)
            held.go_on.set()
            assert begun.result().status_code == 200
        assert ask(client, pixels(2), "next").status_code == 200
    assert [text for one in held.passes for (text,) in one] == ["begun", "next"]


def test_requests_that_are_held_have_room_for_so_many_bytes(held: Held) -> None:
    photo = png(HELD)
    with (
        serving(held, held_bytes=len(photo) + 2000) as (address, _),
        client_of(address) as client,
        ThreadPoolExecutor(1) as people,
    ):
        begun = people.submit(ask, client, HELD, "begun")
        assert held.begun.wait(60)
        text = "too many requests are held already; ask again later"
        for content in (png(pixels(1)), iter([png(pixels(1))])):  # with and without Content-Length
            kind = {"content-type": "application/json"}
            full = client.post("/segment", content=content, headers=kind)
            assert (full.status_code, full.json()) == (503, {"error": text})
            assert full.headers["Retry-After"] == "5"
        held.go_on.set()
        assert begun.result().status_code == 200
        wait_until(lambda: ask(client, HELD, "again").status_code == 200)


def test_a_photograph_is_decoded_once_and_never_if_it_has_too_many_pixels(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    decodes = Decodes(monkeypatch)
    with serving(held, pixels=48 * 64) as (address, _), client_of(address) as client:
        refused = client.post("/segment", **form(png(pixels(1, 49, 64)), "dog"))
        assert (refused.status_code, decodes.number) == (413, 0)
        assert ask(client, pixels(1), "dog").status_code == 200
    assert decodes.number == 1


def test_a_form_has_as_many_sentences_as_the_setting_allows(predictor: Predictor) -> None:
    with serving(predictor, sentences=130) as (address, _), client_of(address) as client:
        answer = client.post("/segment", **form(png(pixels(1)), *(["dog"] * 130), format="rle"))
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["masks"]) == 130


@pytest.mark.parametrize("mebibytes", [1, 32, 384, 2000])
def test_the_largest_upload_has_room(predictor: Predictor, mebibytes: int) -> None:
    segmenting = Segmenting(predictor, ServiceSettings(upload_bytes=mebibytes << 20))
    app = application(segmenting, "small", None)
    gate = ServiceGate(app, segmenting, {"localhost"}, any_address=False)
    most, _ = gate.bound("/segment")
    assert most > (mebibytes << 20) * 4 / 3
    assert gate.room is not None
    assert gate.room >= max(4 * most, 512 << 20)
    segmenting.close()


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("line", [b"\n", b"\r\n", b" \t\v\f"])
def test_base64_may_have_line_breaks(head: str, line: bytes) -> None:
    content = png(pixels(1))
    text = head + base64.encodebytes(content).replace(b"\n", line).decode()
    assert upload_of(text, len(content)).content == content


@pytest.mark.parametrize("text", ["aGk=\u2028", "aGk=\u00a0", "aG.k=", "aGk", "data:image/png,aGk="])
def test_other_text_is_not_base64(text: str) -> None:
    with pytest.raises(HTTPException, match="not in base64"):
        upload_of(text, 100)


def test_no_features_are_kept_where_the_operator_wants_none(held: Held) -> None:
    with serving(held, keep_images=0) as (address, _), client_of(address) as client:
        wanted = ask(client, pixels(1), "dog").json()
        assert ask(client, pixels(1), "dog").json() == wanted
    assert held.encoded == [(48, 64), (48, 64)]
    assert Rle(**wanted["masks"][0]["rle"]).decode().shape == (48, 64)


def test_a_service_whose_gpu_has_failed_is_not_ready(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    held.go_on.set()
    with serving(held) as (address, _), client_of(address) as client:
        with monkeypatch.context() as patched:
            patched.setattr(held, "coarse_logits", failing(torch.OutOfMemoryError("CUDA out of memory.")))
            assert ask(client, pixels(1), "dog").status_code == 500
            assert client.get("/ready").status_code == 200
            error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            patched.setattr(held, "coarse_logits", failing(error))
            assert ask(client, pixels(1), "dog").status_code == 500
        assert client.get("/ready").json() == {"error": "the GPU has failed; restart the service"}
        assert client.get("/health").status_code == 200
