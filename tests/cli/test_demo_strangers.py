"""Requests of untrusted clients to the demo's page, which returns only their own files and the examples."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from maris_fast.errors import InputError
from tests.cli.demo_process import Running
from tests.faults import small_disk
from tests.training.processes import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.process

SECRET = "secret-5f0c"
AT_ONCE = 4
SESSIONS = itertools.count()
NO_FILE = "no such file on this page"
NO_TEXT = "is not text"


def described(path: object, **more: Any) -> dict[str, Any]:
    """A file as Gradio describes it."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.address, timeout=60) as client:
        yield client


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


def uploaded(client: httpx.Client, size: tuple[int, int] = (64, 48), name: str = "mine.png") -> str:
    content = BytesIO()
    Image.new("RGB", size, "red").save(content, "PNG")
    answer = client.post("/gradio_api/upload", files={"files": (name, content.getvalue())})
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()
    return str(found)


def queued(client: httpx.Client, function: str, data: list[Any], **more: Any) -> Any:
    """The final output from the queue."""
    functions = {one["api_name"]: one["id"] for one in client.get("/config").json()["dependencies"]}
    session = f"session{next(SESSIONS)}"
    asked = {"fn_index": functions[function], "data": data, "session_hash": session, **more}
    kind = {"content-type": "application/json"}
    joined = client.post("/gradio_api/queue/join", content=json.dumps(asked), headers=kind)
    assert joined.status_code == 200, joined.text
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and (said := json.loads(line[5:]))["msg"] == "process_completed":
                return said["output"]
    raise AssertionError("the queue ended without an answer")


def test_a_path_as_sentences_is_not_read_as_a_file(client: httpx.Client, secret: Path) -> None:
    mine = described(uploaded(client))
    for path in (secret, "/etc/passwd", "/proc/self/environ"):
        for sentences in (described(path), [described(path)], {"value": described(path)}, [str(path)]):
            said = queued(client, "segment", [mine, sentences])
            assert said.get("error", "").startswith("Sentences, one per line is not text"), said


def test_other_fields_and_functions_take_no_file_either(client: httpx.Client, secret: Path) -> None:
    mine, theirs = described(uploaded(client)), described(secret)
    attention = [
        ([mine, theirs, None, None], "Sentence is not text"),
        ([mine, "dog", theirs, 1], "Pixel x is not a number"),
        ([mine, "dog", 1, [theirs]], "Pixel y is not a number"),
        ([mine, "dog", True, 1], "Pixel x is not a number"),
    ]
    for data, wanted in attention:
        assert queued(client, "attention", data)["error"] == wanted + (
            "; expected text only" if "text" in wanted else ""
        )
    for name, data, wanted in (
        ("example", [theirs], "Examples is not a number"),
        ("example", [-1], "no such example"),
        ("_choices", [theirs, None], NO_TEXT),
        ("_choices", ["dog", theirs], NO_TEXT),
    ):
        answer = client.post(f"/gradio_api/run/{name}", json={"data": data})
        assert answer.status_code == 500
        assert wanted in answer.json()["error"]
    spot = {"data": [], "event_data": {"index": [theirs, 1]}}
    assert SECRET not in client.post("/gradio_api/run/_pixel", json=spot).text


def test_only_an_uploaded_photograph_is_segmented(
    client: httpx.Client, running: Running, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.png"
    Image.new("RGB", (64, 48), "blue").save(outside)
    link = running.scratch / "link.png"
    link.symlink_to(outside)
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    (served,) = running.scratch.glob("maris-fast-demo-*")
    mine = uploaded(client)
    for path in (
        outside,
        link,
        fifo,
        f"file://{outside}",
        f"{mine}/../../{outside.name}",
        f"{served}/{mine}",  # its path instead of its name
        quote(str(outside), safe=""),
        f"{running.address}/gradio_api/file={mine}",
        "https://example.com/picture.png",
        "",
        mine.partition("/")[2],
    ):
        said = queued(client, "segment", [described(path, url=f"file://{outside}"), "dog"])
        assert said["error"].startswith(NO_FILE), (path, said)
    for value in (str(outside), [described(outside)], 7):
        assert queued(client, "segment", [value, "dog"])["error"].startswith(NO_FILE)
    assert queued(client, "segment", [described(mine), "dog"])["data"][0][0]["caption"].startswith("dog: ")


def test_ways_around_the_queue_take_no_file(client: httpx.Client, secret: Path) -> None:
    mine, theirs = described(uploaded(client)), described(secret)
    for name in ("run", "api"):
        answer = client.post(f"/gradio_api/{name}/segment", json={"data": [mine, theirs]})
        assert answer.status_code == 404
    called = client.post("/gradio_api/call/segment", json={"data": [mine, theirs]}).json()["event_id"]
    said = client.get(f"/gradio_api/call/segment/{called}").text
    assert "event: error" in said
    assert NO_TEXT in said
    for body in ({"photo": mine, "sentences": theirs}, {"data": [mine, theirs]}):
        assert SECRET not in client.post("/gradio_api/call/v2/segment", json=body).text


def test_no_address_leads_to_a_file_outside(client: httpx.Client, running: Running, secret: Path) -> None:
    mine = uploaded(client)
    assert client.get(f"/gradio_api/file={mine}").status_code == 200
    up = "/".join([".."] * 12)
    link = running.scratch / "link.txt"
    link.symlink_to(secret)
    paths = [
        *(
            f"/gradio_api/file={one}"
            for one in (secret, link, f"/{secret}", "/etc/passwd", "/proc/self/environ")
        ),
        f"/gradio_api/file={quote(str(secret), safe='')}",
        f"/gradio_api/file={quote(quote(str(secret), safe=''), safe='')}",
        f"/gradio_api/file={mine}/{up}{secret}",
        f"/gradio_api/file=file://{secret}",
        f"/gradio_api/file={running.address}/config",
        f"/gradio_api/file{secret}",
        f"/gradio_api/proxy={running.address}/config",
        f"/gradio_api/proxy=file://{secret}",
        f"/gradio_api/stream/a/b/{secret}",
        "/gradio_api/deep_link?session_hash=session0",
        f"/config?deep_link=../{mine}",
        f"/?deep_link={quote('../../' + secret.name)}",
        f"/gradio_api/custom_component/0/server/component/{quote('../..' + str(secret), safe='')}",
        "/gradio_api/vibe-code",
        "/gradio_api/dev/reload",
        "/monitoring",
        f"/static/{up}{secret}",
        f"/static/{quote(up, safe='')}{secret}",
        f"/assets/{up}{secret}",
        f"/svelte/{quote(up + str(secret), safe='')}",
        f"/{up}{secret}",
    ]
    for path in paths:
        # httpx would remove the dots from a path.
        answer = client.send(httpx.Request("GET", client.base_url.copy_with(raw_path=path.encode())))
        assert answer.status_code in (403, 404), (path, answer.status_code, answer.text[:200])
        assert SECRET not in answer.text
    for path in ("component_server", "process_recording", "vibe-edit", "run-history/connect", "login"):
        answer = client.post(f"/gradio_api/{path}", json={"data": described(secret), "component_id": 5})
        assert answer.status_code == 404
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert client.request(method, f"/gradio_api/file={mine}").status_code == 405


def test_a_file_is_served_only_under_the_name_that_was_given_out(client: httpx.Client) -> None:
    names = {uploaded(client) for _ in range(3)}  # of the same photograph
    assert len(names) == 3
    for name in names:
        secret, _, plain = name.partition("/")
        assert len(secret) >= 20  # 16 random bytes
        assert plain == "mine.png"
        assert client.get(f"/gradio_api/file={secret[:-1]}-/{plain}").status_code == 404


def test_answers_and_errors_tell_no_path_of_the_server(
    client: httpx.Client, running: Running, weights: Path
) -> None:
    (broken,) = client.post("/gradio_api/upload", files={"files": ("broken.png", b"no pixels")}).json()
    said = [
        *(client.get(path).text for path in ("/", "/config", "/gradio_api/info", "/manifest.json")),
        *(
            json.dumps(queued(client, "segment", [described(name), "dog"]))
            for name in (uploaded(client), broken)
        ),
        client.post("/gradio_api/run/example", json={"data": [0]}).text,
        client.post("/gradio_api/queue/join", json={"fn_index": 99, "data": [], "session_hash": "a"}).text,
    ]
    for path in (str(running.scratch), "maris-fast-demo-", str(weights.parent), str(ROOT), os.getcwd()):
        assert not [one for one in said if path in one]


def test_the_page_answers_to_its_own_names_alone(client: httpx.Client) -> None:
    own = client.base_url.netloc.decode()
    port = own.partition(":")[2]

    def status(**headers: str) -> int:
        return client.get(
            "/config", headers={key.replace("_", "-"): one for key, one in headers.items()}
        ).status_code

    for host in (own, "localhost", f"LOCALHOST:{port}", f"[::1]:{port}", f"127.0.0.2:{port}"):
        assert status(host=host) == 200
    for host in (
        "rebound.example",
        f"rebound.example:{port}",
        f"127.0.0.1.rebound.example:{port}",
        "10.0.0.7",
        "",
    ):
        assert status(host=host) == 421
    assert status(x_forwarded_host="rebound.example") == 421
    assert status(origin=f"http://{own}") == 200
    for origin in ("http://rebound.example", "null", f"http://{own}.rebound.example"):
        assert status(origin=origin) == 403
        join = client.post("/gradio_api/queue/join", json={}, headers={"origin": origin})
        assert join.status_code == 403


def test_sizes_are_limited(client: httpx.Client) -> None:
    large = b"0" * (33 << 20)
    assert client.post("/gradio_api/upload", files={"files": ("large.png", large)}).status_code == 413

    def pieces() -> Iterator[bytes]:  # without Content-Length
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n'
        yield from (large[start : start + 65536] for start in range(0, len(large), 65536))

    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert client.post("/gradio_api/upload", content=pieces(), headers=kind).status_code == 413
    assert client.post("/gradio_api/queue/join", json={"data": ["x" * 70_000]}).status_code == 413
    wide = uploaded(client, (5001, 5000))
    assert (
        "25,005,000 pixels; at most 25,000,000"
        in queued(client, "segment", [described(wide), "dog"])["error"]
    )
    small = described(uploaded(client))
    assert "1001 letters; at most 1000" in queued(client, "segment", [small, "x" * 1001])["error"]
    assert "half a character at 4" in queued(client, "segment", [small, "dog \ud83d"])["error"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\été.jpg", "été.jpg"),
        ("a\x1b[31m.png", "a31m.png"),
        (".png", "png"),
        ("x" * 300 + ".png", "x" * 76 + ".png"),
        ("é" * 300 + ".png", "é" * 38 + ".png"),
        ("", "file"),
        ("..", "file"),
    ],
)
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str, wanted: str) -> None:
    from maris_fast.demo.served import ServedFiles

    served = ServedFiles(tmp_path)
    found = served.add(name, b"1")
    assert found.partition("/")[2] == wanted
    assert served.path(found).read_bytes() == b"1"
    assert served.path(found).parent.parent == tmp_path.resolve()


def test_the_oldest_files_make_room_but_examples_stay(tmp_path: Path) -> None:
    from maris_fast.demo.served import ServedFiles

    served = ServedFiles(tmp_path, room=100)
    example = served.add("example.png", b"0" * 30, stays=True)
    first, second, third = (served.add(f"{number}.png", b"0" * 35) for number in range(3))
    with pytest.raises(InputError, match="no such file on this page; upload it again"):
        served.path(first)
    kept = {served.path(name) for name in (example, second, third)}
    assert {path for path in tmp_path.resolve().rglob("*") if path.is_file()} == kept


def test_a_full_disk_of_the_server_is_reported_and_no_partial_file_stays(tmp_path: Path) -> None:
    from maris_fast.demo.served import ServedFiles

    with small_disk(tmp_path / "disk", "64k") as disk:
        served = ServedFiles(disk)
        with pytest.raises(InputError, match=r"cannot keep mine\.png: No space left on device"):
            served.add("mine.png", b"0" * 80_000)
        assert not list(disk.iterdir())
        assert served.path(served.add("mine.png", b"0" * 30_000)).stat().st_size == 30_000


class Slow:
    """A stand-in predictor: photographs of ``SIZE`` block until ``go_on`` is set, others take no time."""

    caution = None
    SIZE = (640, 480)

    def __init__(self) -> None:
        import torch

        self.device = torch.device("cpu")
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.encoded: list[tuple[int, int]] = []
        self.answered: list[tuple[int, int]] = []

    def encode(self, image: Image.Image) -> tuple[int, int]:
        self.encoded.append(image.size)
        if image.size == self.SIZE:
            self.begun.set()
            assert self.go_on.wait(300)
        return image.width, image.height

    def masks(self, encoded: tuple[int, int], texts: list[str]) -> np.ndarray:
        self.answered.append(encoded)
        return np.ones((len(texts), *encoded[::-1]), dtype=bool)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Slow, str]]:
    """A ``Slow`` predictor, and the address of the page that serves it from this process."""
    pytest.importorskip("gradio")
    import uvicorn

    from maris_fast.demo.answers import Demo
    from maris_fast.demo.gate import PageGate
    from maris_fast.demo.served import ServedFiles
    from maris_fast.demo.server import application
    from maris_fast.web.listening import listening, settings

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    predictor = Slow()
    app = application(Demo(predictor), ServedFiles(tmp_path), "slow")  # type: ignore[arg-type]
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(settings(PageGate(app, {"localhost"}, any_address=False)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield predictor, f"http://127.0.0.1:{listener.getsockname()[1]}"
        predictor.go_on.set()
        server.should_exit = True
        thread.join(30)


def test_fifty_visitors_are_answered_while_one_request_takes_long(slow: tuple[Slow, str]) -> None:
    predictor, address = slow

    def visit(size: tuple[int, int]) -> str:
        with httpx.Client(base_url=address, timeout=120) as client:
            assert client.get("/").status_code == 200
            said = queued(client, "segment", [described(uploaded(client, size)), "dog"])
            return str(said["data"][0][0]["caption"])

    with ThreadPoolExecutor(50) as visitors:
        long = visitors.submit(visit, Slow.SIZE)
        assert predictor.begun.wait(60)
        others = [visitors.submit(visit, (40 + number, 30)) for number in range(49)]
        assert [one.result(timeout=240) for one in others] == ["dog: 100.0% of the image"] * 49
        assert not long.done()
        predictor.go_on.set()
        assert long.result(timeout=60) == "dog: 100.0% of the image"


def test_one_visitor_neither_fills_the_queue_nor_keeps_others_waiting(slow: tuple[Slow, str]) -> None:
    predictor, address = slow
    other = httpx.Client(
        base_url=address, timeout=120, transport=httpx.HTTPTransport(local_address="127.0.0.2")
    )
    with httpx.Client(base_url=address, timeout=120) as many, other:
        mine = described(uploaded(many, Slow.SIZE))

        def ask(number: int) -> httpx.Response:
            asked = {"fn_index": 0, "data": [mine, "dog"], "session_hash": f"many{number}"}
            return many.post("/gradio_api/queue/join", json=asked)

        wait_until(lambda: (ask(0).status_code, len(predictor.encoded) == AT_ONCE)[1])
        statuses = [ask(number).status_code for number in range(80)]
        taken = statuses.count(200)
        assert statuses == [200] * taken + [503] * (80 - taken)
        assert 60 <= taken <= 64
        refused = ask(81).json()["detail"]
        assert refused == "64 requests of yours are waiting; send more when they are done"
        photo = described(uploaded(other, (40, 30)))
        asked = {"fn_index": 0, "data": [photo, "dog"], "session_hash": "other"}
        assert other.post("/gradio_api/queue/join", json=asked).status_code == 200
        predictor.go_on.set()
        wait_until(lambda: (40, 30) in predictor.answered)
        # Not after the 64 requests of the other client, but among the first.
        assert predictor.answered.index((40, 30)) < 3 * AT_ONCE


def opened(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_what_comes_too_slowly_is_not_waited_for(
    slow: tuple[Slow, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from maris_fast.demo import gate
    from maris_fast.web import connections

    monkeypatch.setattr(gate, "UPLOAD_SECONDS", 1.0)
    monkeypatch.setattr(gate, "ASKED_SECONDS", 1.0)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1.0)
    _, address = slow
    host = "Host: localhost\r\nContent-Length: 5000\r\n"
    upload = (
        f"POST {gate.UPLOAD} HTTP/1.1\r\n{host}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    join = f"POST /gradio_api/queue/join HTTP/1.1\r\n{host}Content-Type: application/json\r\n\r\n{{"
    for begun, answer in (
        (upload, b"HTTP/1.1 408"),
        (join, b"HTTP/1.1 408"),
        ("GET / HTTP/1.1\r\nHost: ", b""),
    ):
        with opened(address) as visitor:
            visitor.sendall(begun.encode())
            said, before = b"", time.monotonic()
            # Sending a byte now and then does not extend the limit.
            while time.monotonic() < before + 60:
                with suppress(OSError):
                    visitor.sendall(b"a")
                visitor.settimeout(0.2)
                with suppress(TimeoutError):
                    try:
                        got = visitor.recv(4096)
                    except ConnectionResetError:
                        got = b""
                    if not got:
                        break
                    said += got
            assert time.monotonic() < before + 30
            assert said.startswith(answer)
            assert bool(said) == bool(answer)
    assert httpx.get(f"{address}/config").status_code == 200


def test_one_visitor_has_so_many_connections(slow: tuple[Slow, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from maris_fast.web import connections

    monkeypatch.setattr(connections, "OF_ONE", 5)
    _, address = slow
    with ExitStack() as stack:
        held = [stack.enter_context(opened(address)) for _ in range(5)]
        with opened(address) as sixth, suppress(ConnectionError):
            assert sixth.recv(1) == b""
        other = httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"))
        assert stack.enter_context(other).get(f"{address}/config").status_code == 200
        held.pop().close()
        with httpx.Client(base_url=address) as again:
            wait_until(lambda: answered(again))


def answered(client: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return client.get("/config").status_code == 200
    return False


def test_ctrl_c_does_not_wait_for_a_request(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    code = (
        "import time, maris_fast.prediction as module\n"
        "module.Predictor.encode = lambda *_: (print('begun', flush=True), time.sleep(500))\n"
        "from maris_fast.cli import app; app()"
    )
    process = subprocess.Popen(
        ["env", f"TMPDIR={tmp_path}", sys.executable, "-c", code, "demo", str(weights), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = next(line.split()[0] for line in process.stdout if line.startswith("http://"))
        with httpx.Client(base_url=address, timeout=60) as client:
            asked = {"fn_index": 0, "data": [described(uploaded(client)), "dog"], "session_hash": "a"}
            assert client.post("/gradio_api/queue/join", json=asked).status_code == 200
            assert next(process.stdout) == "begun\n"
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=60)
        assert said.strip().endswith("ended")
        assert process.returncode == 0
        assert not list(tmp_path.glob("maris-fast-demo-*"))
    finally:
        process.kill()
        process.wait()
