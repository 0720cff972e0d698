"""A cache at an address gives the batches of the local one, or an error that says what its server did."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from maris_fast.bench.fake_cache import write_fake_cache
from maris_fast.cli import app
from maris_fast.config import DataSettings, ReadingSettings, StoreAddress, cache_place
from maris_fast.data_shards.cache import read_manifest
from maris_fast.data_shards.cache.verify import verify_cache
from maris_fast.data_shards.stream import CacheReader
from maris_fast.errors import ArgumentError, ConfigError, InputError
from maris_fast.evaluation.evaluate import evaluate
from maris_fast.system import object_store
from maris_fast.system.object_store import StoreError
from tests.data.far_servers import Far, Fault, google_storage, hub, s3_server, web_server
from tests.data.test_stream_staging import PLAN, content, everything
from tests.training.processes import NOTHING_TO_SEE, run
from tests.training.tiny_cache import write_tiny_cache, write_untrained_for
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
QUICK: dict[str, Any] = {"stall_seconds": 4}
"""For servers that keep failing; retries end after half of this time."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cache(tmp_path_factory.mktemp("stores"), shard_bytes=1)


@pytest.fixture(scope="module")
def local(cache: Path) -> list[tuple[Any, ...]]:
    with CacheReader(cache, "train") as reader:
        return everything(reader)


@pytest.fixture(params=["http", "http with versions", "s3", "gs", "hf"])
def far(
    request: pytest.FixtureRequest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Far]:
    servers: dict[str, Callable[[], AbstractContextManager[Far]]] = {
        "http": lambda: web_server(cache),
        "http with versions": lambda: web_server(cache, version=True),
        "s3": lambda: s3_server(cache, monkeypatch),
        "gs": lambda: google_storage(cache, monkeypatch, tmp_path),
        "hf": lambda: hub(cache, monkeypatch),
    }
    with servers[request.param]() as server:
        yield server


def read(far: Far, **settings: Any) -> list[tuple[Any, ...]]:
    with CacheReader(far.address, "train", ReadingSettings(**settings)) as reader:
        return everything(reader)


def of_shards(fault: Callable[[int], Fault]) -> Callable[[str, int], Fault]:
    """Limit ``fault`` to requests for shards; its argument is the number of the request."""
    return lambda name, number: fault(number) if name.endswith(".tar") else None


# The same numbers


def test_batches_of_an_address_are_those_of_the_folder_bit_by_bit(
    far: Far, local: list[tuple[Any, ...]]
) -> None:
    assert read(far) == local
    assert read_manifest(far.address).splits.keys() == {"train", "val"}


def test_the_hubs_token_is_shown_to_the_hub_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(cache, monkeypatch) as far:
        read_manifest(far.address)
        assert far.faults.logins == {("127.0.0.1", "Bearer secret"), ("localhost", None)}


def test_ranks_and_a_resumed_epoch_get_their_own_batches(cache: Path) -> None:
    def batches(place: Path | str, **which: int) -> list[tuple[Any, ...]]:
        with CacheReader(place, "train") as reader:
            return [content(batch) for batch in reader.batches(**PLAN, **which)]

    with web_server(cache) as far:
        for which in ({"first_step": 2}, {"rank": 1, "world": 2}, {"rank": 0, "world": 2, "accumulation": 2}):
            assert batches(far.address, **which) == batches(cache, **which) != []


def test_an_image_is_one_request_and_many_are_in_flight(cache: Path) -> None:
    plan = {**PLAN, "expressions_per_step": 15, "expressions_per_image": 5}
    for requests in (1, 3):
        with web_server(cache, latency=0.1) as far:
            settings = ReadingSettings(requests=requests, prefetch=9)
            with CacheReader(far.address, "train", settings) as reader:
                batches = [content(batch) for batch in reader.batches(**plan)]
            assert len(batches) > 1
            assert len(far.faults.ranges) == _images(batches)
            assert far.faults.most_at_once == requests


def _images(batches: list[tuple[Any, ...]]) -> int:
    return sum(len({sample.image_id for sample in batch[-1]}) for batch in batches)


@pytest.mark.parametrize("place", ["folder", "address"])
def test_the_next_epoch_is_read_ahead_and_gives_the_same_batches(cache: Path, place: str) -> None:
    plan = {**PLAN, "epoch": 0}
    with CacheReader(cache, "train") as reader:
        apart = [[content(one) for one in reader.batches(**{**plan, "epoch": epoch})] for epoch in range(4)]
    with web_server(cache) as far:
        ahead = []
        with CacheReader(cache if place == "folder" else far.address, "train") as reader:
            for epoch in range(4):
                batches = reader.batches(**{**plan, "epoch": epoch}, last_epoch=3)
                ahead.append([content(one) for one in batches])
                so_far = sum(map(_images, apart[: epoch + 1]))
                if place == "address" and epoch < 3:
                    wait_until(lambda so_far=so_far: len(far.faults.ranges) > so_far)
        assert ahead == apart
        assert len(far.faults.ranges) == (so_far if place == "address" else 0)


def test_an_epoch_that_was_read_ahead_may_not_come(cache: Path) -> None:
    """The epoch before is left early, or another is requested: resumed, with other arguments, or repeated."""
    with CacheReader(cache, "train") as reader:
        plain = [[content(one) for one in reader.batches(**{**PLAN, "epoch": epoch})] for epoch in range(3)]
        half = [content(one) for one in reader.batches(**{**PLAN, "epoch": 1}, first_step=2)]
        ahead = {**PLAN, "last_epoch": 9}
        assert [content(one) for one in reader.batches(**ahead)] == plain[0]
        assert [content(one) for one in reader.batches(**{**ahead, "epoch": 2})] == plain[2]
        assert [content(one) for one in islice(reader.batches(**ahead), 2)] == plain[0][:2]
        assert [content(one) for one in reader.batches(**ahead)] == plain[0]
        assert [content(one) for one in reader.batches(**{**ahead, "epoch": 1}, first_step=2)] == half
        assert len(everything(reader)) > 0
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("reader ", "prefetch"))]


# Servers that fail temporarily


@pytest.mark.parametrize("version", [False, True])
@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "drop"])
def test_what_fails_now_and_then_is_asked_again(
    cache: Path, local: list[tuple[Any, ...]], fault: Fault, version: bool
) -> None:
    with web_server(cache, version=version, of=lambda _, number: fault if number % 2 == 0 else None) as far:
        assert read(far) == local


@pytest.mark.parametrize("version", [False, True])
@pytest.mark.parametrize("fault", ["stall", "reset"])
def test_a_body_that_stalls_or_is_reset_is_resumed(
    cache: Path, local: list[tuple[Any, ...]], fault: Fault, version: bool
) -> None:
    of = of_shards(lambda number: fault if number == 1 else None)  # 0 is the request for the size
    with web_server(cache, version=version, of=of) as far:
        assert read(far, stall_seconds=8) == local
        far.stop()


SUSPENDED = """
import sys
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader
with CacheReader(sys.argv[1], "train", ReadingSettings(stall_seconds=4)) as reader:
    print(sum(1 for _ in reader.evaluation_batches(max_expressions=6)))
"""


@pytest.mark.process
@pytest.mark.parametrize("fault", ["stall", "hang"])
def test_requests_of_a_process_that_was_suspended_are_repeated(cache: Path, fault: Fault) -> None:
    asked = threading.Event()

    def once(number: int) -> Fault:
        if number != 1:
            return None
        asked.set()
        return fault

    with CacheReader(cache, "train") as reader:
        batches = sum(1 for _ in reader.evaluation_batches(max_expressions=6))
    with web_server(cache, of=of_shards(once)) as far:
        command = [sys.executable, "-c", SUSPENDED, far.address]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert asked.wait(60)
            process.send_signal(signal.SIGSTOP)
            time.sleep(9)
            process.send_signal(signal.SIGCONT)
            assert process.communicate(timeout=60)[0] == f"{batches}\n"
        far.stop()


@pytest.mark.parametrize("fault", [503, "cut"])
def test_of_s3_too(
    cache: Path, local: list[tuple[Any, ...]], fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = of_shards(lambda number: fault if number % 2 == 0 else None)
    with s3_server(cache, monkeypatch, of=of, latency=0.01) as far:
        assert read(far) == local


def test_a_slow_server_is_not_an_error(cache: Path, local: list[tuple[Any, ...]]) -> None:
    with web_server(cache, latency=0.2) as far:
        assert read(far, stall_seconds=8) == local


# Servers that fail permanently


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (503, r"503 Service Unavailable after \d+ retries; .*lower data\.requests, or raise data\.stall_sec"),
        (429, r"429 Too Many Requests after \d+ retries; .*lower data\.requests"),
        (404, "404 Not Found; copy it there, or check the address"),
        (401, "401 Unauthorized; take an address that needs no login"),
        (403, r"403 Forbidden \(ExpiredToken\); take an address"),
        (400, "400 Bad Request; check the address"),
        ("cut", r"the connection was cut \d times, the last after .* bytes: the server ended .* early"),
        (
            "reset",
            r"the connection was cut \d times, .*: the server ended the connection;",
        ),
        ("stall", r"the connection was cut \d times, the last after .* bytes: no answer in 1 s;"),
        ("drop", r"the server ended the connection.* after \d+ retries"),
        ("hang", r"no answer in 1 s after \d+ retries; .*raise data\.stall_seconds \(4\)"),
        ("whole", r"the server gives no parts of files \(range requests\)"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_what_fails_for_good_is_named_with_shard_and_key(
    cache: Path, fault: Fault, says: str, skip: bool
) -> None:
    """Also if bad samples are skipped: an unavailable server does not make samples bad."""
    with web_server(cache) as far:
        settings = ReadingSettings(**QUICK, on_bad_sample="skip" if skip else "stop")
        with CacheReader(far.address, "train", settings) as reader:
            far.faults.of = of_shards(lambda _: fault)
            before = time.monotonic()
            with pytest.raises(StoreError, match=rf"train-00000\d\.tar, image 0{{11}}\d: {says}"):
                everything(reader)
            assert time.monotonic() - before < 8
            assert not len(reader.bad_samples)
            far.stop()


@pytest.mark.parametrize("fault", [503, "drop"])
@pytest.mark.parametrize("settings", [ReadingSettings(), None])
def test_an_error_names_only_settings_that_were_given(
    cache: Path, settings: ReadingSettings | None, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "MOST_RETRIES", 1)
    with web_server(cache) as far, CacheReader(far.address, "train", settings) as reader:
        far.faults.of = of_shards(lambda _: fault)
        with pytest.raises(StoreError) as raised:
            everything(reader)
    end = "try again later" if fault == 503 else "check the address, the server and the network"
    longer = "raise data.stall_seconds (60) to wait longer"
    assert str(raised.value).endswith(longer if settings else end)
    assert ("data." in str(raised.value)) == (settings is not None)


@pytest.mark.parametrize("name", ["manifest.json", "train-000002.index.npz", "train-000003.tar"])
def test_what_is_not_there_is_named_at_the_start(cache: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    (copy / name).unlink()
    with web_server(copy) as far, pytest.raises(InputError, match=rf"{name}.*(404 Not Found|is missing)"):
        read(far)


def test_a_shard_of_another_size_or_index_is_named_at_the_start(cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    os.truncate(copy / "train-000001.tar", 5000)
    with web_server(copy) as far, pytest.raises(InputError, match=r"train-000001\.tar has 5000 bytes"):
        read(far)
    shutil.copy(cache / "train-000001.tar", copy)
    shutil.copy(cache / "train-000002.index.npz", copy / "train-000001.index.npz")
    with web_server(copy) as far, pytest.raises(InputError, match=r"train-000001\.index\.npz is not the one"):
        read(far)


def test_bytes_that_changed_on_the_server_are_named_and_may_be_skipped(cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    with web_server(copy) as far, CacheReader(far.address, "train") as reader:
        place = int(reader.index.offset[0, 3])
        list(reader.batches(**PLAN))  # each image is correct at first
        with (copy / "train-000000.tar").open("r+b") as file:
            file.seek(place)
            file.write(b"\x55\xaa")
        with pytest.raises(InputError, match=r"train-000000\.tar, image 0{11}1: \w+\.npy is not what was"):
            list(reader.batches(**PLAN))
        settings = ReadingSettings(on_bad_sample="skip")
        with CacheReader(far.address, "train", settings) as skipping:
            assert len(list(skipping.batches(**PLAN))) == skipping.steps_per_epoch(4)
            assert len(skipping.bad_samples) == 1


def test_credentials_that_expire_during_an_epoch_are_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(cache, monkeypatch) as far:
        with CacheReader(far.address, "train") as reader:
            far.faults.of = of_shards(lambda number: None if number == 0 else 403)
            with pytest.raises(StoreError, match=r"403 Forbidden \(ExpiredToken\); set or renew AWS_"):
                [everything(reader) for _ in range(2)]
        far.faults.of = lambda *_: None
        monkeypatch.setenv("AWS_SESSION_TOKEN", "expired")
        with pytest.raises(InputError, match=r"boxes/manifest\.json: 403 Forbidden \(ExpiredToken\)"):
            read(far)


def test_a_bucket_or_key_that_is_not_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(cache, monkeypatch) as far:
        for address, code in (("s3://other/boxes", "NoSuchBucket"), (f"{far.address}/x", "NoSuchKey")):
            with pytest.raises(
                InputError, match=rf"holds no feature cache, or no complete one: .*404 .*\({code}\)"
            ):
                read_manifest(address)


def test_without_credentials_it_says_which_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's role is queried at an address that only clouds have; here it is a closed port."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"no credentials .*AWS_ACCESS_KEY_ID.*AWS_SKIP_SIGNATURE=true"):
        CacheReader("s3://caches/boxes", "train", ReadingSettings(**QUICK))


SERVER = ("-m", "maris_fast.bench.range_server")


@pytest.mark.process
@pytest.mark.parametrize("staged", [False, True])
def test_a_server_that_dies_during_an_epoch_is_named_and_the_run_resumes_after_it(
    cache: Path, tmp_path: Path, staged: bool
) -> None:
    with CacheReader(cache, "train") as whole:
        expected = [content(one) for one in whole.batches(**PLAN)]
    process = subprocess.Popen([sys.executable, *SERVER, str(cache)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    address = f"http://127.0.0.1:{int(process.stdout.readline())}"
    settings = ReadingSettings(**QUICK, prefetch=1, staging=tmp_path / "kept" if staged else None)
    found: list[tuple[Any, ...]] = []
    with CacheReader(address, "train", settings) as reader:
        before = time.monotonic()
        batches = reader.batches(**PLAN)
        found.append(content(next(batches)))
        process.kill()
        process.wait()
        with pytest.raises(StoreError, match=r"train-00000\d\.tar, image .*connection"):
            found.extend(map(content, batches))
        assert time.monotonic() - before < 8
    assert found == expected[: len(found)] != []
    with web_server(cache) as other, CacheReader(other.address, "train", settings) as reader:
        rest = [content(one) for one in reader.batches(**PLAN, first_step=len(found))]
    assert found + rest == expected


def test_leaving_early_ends_the_requests(cache: Path) -> None:
    with web_server(cache) as far:
        with CacheReader(far.address, "train", ReadingSettings(stall_seconds=80)) as reader:
            far.faults.of = of_shards(lambda number: "hang" if number > 1 else None)
            batches = reader.batches(**PLAN)
            next(batches)
            before = time.monotonic()
            batches.close()  # type: ignore[attr-defined]
        assert time.monotonic() - before < 15
        far.faults.ended.set()


def test_a_fork_of_a_process_that_read_an_address_says_that_it_cannot(cache: Path) -> None:
    with web_server(cache) as far:
        read_manifest(far.address)
        if (child := os.fork()) == 0:
            try:
                read_manifest(far.address)
            except ConfigError as error:
                os._exit(7 if "start it by spawn" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.process
def test_ctrl_c_does_not_wait_for_a_server(cache: Path) -> None:
    with web_server(cache, of=lambda *_: "hang") as far:
        command = [sys.executable, "-m", "maris_fast.cli", "info", far.address]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: far.faults.most_at_once > 0)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.communicate(timeout=5)[1]
        assert process.returncode


def test_batches_that_were_not_taken_are_missed(cache: Path) -> None:
    """Requesting them after those of the next epoch is an error."""
    ahead = {**PLAN, "last_epoch": 3}
    with CacheReader(cache, "train") as reader:
        list(reader.batches(**ahead))
        late = reader.batches(**{**ahead, "epoch": 1})
        list(reader.batches(**{**ahead, "epoch": 2}))
        with pytest.raises(RuntimeError, match="another epoch was asked for"):
            list(late)


MEMORY = """
import re, sys
from pathlib import Path
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader
from maris_fast.data_shards.stream.pipeline import Pipeline
from maris_fast.data_shards.stream.ring import ByteRing
from maris_fast.data_shards.stream.step_order import Group, Share
settings = ReadingSettings(prefetch=2, verify="never")
def resident(line):
    return 1024 * int(re.search(line + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
with CacheReader(sys.argv[1], "train", settings) as reader:
    shares = (Share((Group(image, (0,)),), 1, False) for _ in range(3) for image in range(reader.images))
    ring = ByteRing(int(sys.argv[2]), pinned=False)
    pipeline = Pipeline(shares, reader.shards, reader.layouts, ring, reader.bad_samples, settings, 8)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
    for batch in pipeline:
        pipeline.release(batch)
    pipeline.stop()
    print(resident("VmHWM") - before, int(reader.index.size.sum()) * 3)
"""


@pytest.mark.process
def test_memory_is_the_ring_and_a_little_for_each_request(tmp_path: Path) -> None:
    write_fake_cache(tmp_path / "cache", 8)
    ring = 5 * 2**23
    with web_server(tmp_path / "cache") as far:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, far.address, str(ring)],
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
            cwd=ROOT,
        )
    grown, total = map(int, done.stdout.split())
    assert total > 5 * ring
    assert grown < ring + 8 * 4 * 2**20


# Everything else that reads a cache


def test_a_far_cache_is_verified_like_a_near_one(cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    with web_server(copy) as far:
        assert verify_cache(far.address, progress=False) == verify_cache(copy, progress=False)
        content = bytearray((copy / "train-000002.tar").read_bytes())
        content[3000] ^= 1
        (copy / "train-000002.tar").write_bytes(content)
        (copy / "val-000000.tar").unlink()
        found = verify_cache(far.address, progress=False).problems
        assert [one.file for one in found] == ["train-000002.tar", "val-000000.tar"]
        assert found == verify_cache(copy, progress=False).problems
        far.faults.of = of_shards(lambda _: 403)
        with pytest.raises(StoreError, match="403 Forbidden"):
            verify_cache(far.address, progress=False)


def test_scores_on_an_address_are_those_on_the_folder(cache: Path, tmp_path: Path) -> None:
    weights = write_untrained_for(cache, tmp_path / "best.safetensors")
    with web_server(cache) as far:
        assert evaluate(weights, far.address, "val") == evaluate(weights, cache, "val")


@pytest.mark.process
def test_commands_take_an_address_and_training_on_it_is_the_same(cache: Path, tmp_path: Path) -> None:
    losses = []
    with web_server(cache, latency=0.01) as far:
        for place in (str(cache), far.address):
            folder = tmp_path / str(len(losses))
            tiny = (
                "--config",
                "refcoco",
                "model.channels=16",
                "model.heads=2",
                "schedule.epochs=2",
                "run.log_every=1",
            )
            small = ("data.expressions_per_step=4", f"data.cache={place}", f"run.folder={folder}")
            command = ("maris-fast", "train", *tiny, *small, *NOTHING_TO_SEE)
            done = run(*command)
            assert done.returncode == 0, done.stderr[-4000:]
            records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            losses.append([one["loss"] for one in records if one["kind"] == "train"])
        assert losses[0] == losses[1] != []
        weights = tmp_path / "1" / "best.safetensors"
        for command in ("info", "verify"):
            assert CliRunner().invoke(app, [command, far.address]).exit_code == 0
        done = run("maris-fast", "eval", weights, far.address)
        assert done.returncode == 0, done.stderr[-4000:]
        far.faults.of = lambda *_: 403
        done = run("maris-fast", "eval", weights, far.address)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"error: {far.address}/manifest.json: 403 Forbidden")
        assert "Traceback" not in done.stderr


# Settings


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("gs://bucket", "gs://bucket"),
        ("https://host:8000/a%20b", "https://host:8000/a%20b"),
        ("hf://datasets/org/name@main/a", "hf://datasets/org/name@main/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),  # a Path collapses the two slashes
    ],
)
def test_an_address_is_not_a_folder(text: str | Path, url: str) -> None:
    assert cache_place(text) == StoreAddress(url)
    settings = DataSettings.model_validate({"cache": text})
    assert DataSettings.model_validate(settings.model_dump(mode="json")).cache == StoreAddress(url)


@pytest.mark.parametrize("text", ["/data/cache", "cache", "./s3", "a:b", "C:\\cache", "~/x"])
def test_a_folder_is_not_an_address(text: str) -> None:
    assert cache_place(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://host/a", "of no known kind; these are read: s3://"),
        ("file:///data", "of no known kind"),
        ("s3://", "expected a host or bucket"),
        ("https://host/a?token=1", "without '\\?'"),
        ("hf://org/name", "expected hf://datasets/ORG/NAME"),
        ("hf://datasets/org", "expected hf://datasets/ORG/NAME"),
    ],
)
def test_another_address_is_refused(text: str, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        CacheReader(text, "train")
    with pytest.raises(ValidationError, match=says):
        DataSettings.model_validate({"cache": text})


def test_an_address_and_a_stream_of_shards_exclude_each_other(tmp_path: Path) -> None:
    both = {"cache": "s3://a/b", "shards": "pipe:cat {name}", "staging": tmp_path}
    with pytest.raises(ValidationError, match="set one of them"):
        DataSettings.model_validate(both)


def test_without_obstore_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"s3://a/b is read by obstore.*pip install 'maris-fast\[stores\]'"):
        read_manifest("s3://a/b")
