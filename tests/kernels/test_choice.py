"""The choice between implementations: an operation with fake candidates, on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

from maris_fast.kernels.choice import Operation, chosen, of, prove, table, text
from maris_fast.kernels.choice.operation import power_of_two, read, rounded_to
from maris_fast.kernels.choice.proving import choose
from maris_fast.kernels.choice.table import (
    FOLDER_VARIABLE,
    Certificates,
    choices,
    chosen_at,
    forget,
    machine,
    of_device,
    summary,
)
from maris_fast.kernels.interpreter import interpreter_counts
from maris_fast.kernels.mutual_attention.api import chosen_impl, mutual_attention
from maris_fast.kernels.mutual_attention.candidates import OPERATION as MUTUAL
from maris_fast.kernels.mutual_attention.candidates import Kind as MutualKind
from maris_fast.kernels.mutual_attention.operator import INTERPRETED
from maris_fast.system import process_table
from tests.command_line import maris_fast
from tests.kernels.fake_operation import BREAKING, CROWDED, HUNTED, LONG, OPERATION, SOURCE, STUCK, Kind
from tests.waiting import wait_until

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
DYING, PLAIN, USUAL = Kind(64, True, True), Kind(128, True, False), Kind(64, False, False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


@pytest.mark.process
def test_the_fastest_right_one_is_chosen_and_the_others_are_left_out_by_name(cache: Path) -> None:
    lines: list[str] = []
    prove([(OPERATION, DYING), (OPERATION, USUAL), (OPERATION, DYING)], CPU, lines.append, patience=5)
    assert chosen(OPERATION, text(DYING), CPU) == "fast"
    assert chosen(OPERATION, text(USUAL), CPU) == "usual"
    assert chosen(OPERATION, text(PLAIN), CPU) is None
    (file,) = cache.glob("*.json")
    results = json.loads(file.read_text())["operations"]["fake"][text(DYING)]["results"]
    assert {name: result["reason"] for name, result in results.items() if "reason" in result} == {
        "wrong": "wrong: out: error 1.0e+00, allowed 1.0e-02",
        "aborts": "crashed: SIGABRT",
        "hangs": "hung: no answer in 5 s",
    }
    assert 1.5 < results["fast"]["ms"] < results["usual"]["ms"]
    first, second, wrote = lines
    assert first.startswith("kernels 1 of 2, fake size=64 fast=True dying=True: fast (")
    assert "aborts left out, crashed: SIGABRT; hangs left out, hung: no answer in 5 s" in first
    assert second.startswith("kernels 2 of 2, fake size=64 fast=False dying=False: usual (")
    assert wrote == f"wrote {file}"
    assert summary(OPERATION, CPU, "slow") == "of 2 proven kinds of calls fast for 1, usual for 1; else slow"


@pytest.mark.process
def test_a_candidate_that_breaks_the_device_is_the_only_one_that_fails_of_it(cache: Path) -> None:
    """In a proof, after one, or in a later round of timing: a fresh child goes on with the others."""
    kind = Kind(BREAKING, True, False)
    prove([(OPERATION, kind), (OPERATION, USUAL)], CPU)
    (file,) = cache.glob("*.json")
    found = json.loads(file.read_text())["operations"]["fake"]
    results = found[text(kind)]["results"]
    illegal = "AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert {
        name: result["reason"] for name, result in results.items() if "reason" in result
    } == dict.fromkeys(("breaks", "breaks-after", "breaks-later"), illegal)
    assert {name for name, result in results.items() if "ms" in result} == {"usual", "slow", "fast", "quick"}
    assert chosen(OPERATION, text(kind), CPU) == "fast"
    assert found[text(USUAL)]["chosen"] == "usual"


@pytest.mark.process
def test_an_exception_between_two_trials_says_nothing_about_the_next_candidate(cache: Path) -> None:
    lines: list[str] = []
    unknown = replace(OPERATION, where="tests.kernels.no_such_file:OPERATION")
    known = prove([(OPERATION, PLAIN), (unknown, USUAL)], CPU, lines.append)
    assert lines[0].startswith("kernels 1 of 2, fake size=128 fast=True dying=False: fast (")
    assert lines[1].startswith(
        "kernels: 1 kinds can't be tried now, crashed: status 1, ModuleNotFoundError: "
    )
    (file,) = cache.glob("*.json")
    assert list(json.loads(file.read_text())["operations"]["fake"]) == [text(PLAIN)]
    found = known.find("fake", text(USUAL))
    assert found is not None
    assert found["chosen"] is None


@pytest.mark.process
@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (CROWDED, "greedy left out, out of memory; greedy-later left out, out of memory"),
        (HUNTED, "killed left out, ended: SIGKILL"),
    ],
)
def test_a_failure_that_passes_holds_for_this_process_and_is_tried_again_at_the_next_start(
    size: int, reason: str, cache: Path
) -> None:
    kinds = [(OPERATION, Kind(size, True, False)), (OPERATION, USUAL)]
    for number_of_proofs in (2, 1):
        lines: list[str] = []
        prove(kinds, CPU, lines.append)
        assert lines[0].startswith(f"kernels 1 of {number_of_proofs}, fake size={size} ")
        assert f"({reason}; " in lines[0]
        assert "; the next start tries again; " in lines[0]
        assert chosen(OPERATION, text(kinds[0][1]), CPU) == "fast"
        lines.clear()
        prove(kinds, CPU, lines.append)
        assert lines == []
        (file,) = cache.glob("*.json")
        assert list(json.loads(file.read_text())["operations"]["fake"]) == [text(USUAL)]
        forget()


@pytest.mark.process
def test_a_child_that_cannot_start_says_nothing_about_any_candidate(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = torch.device("cuda:99")
    table.of_device.cache_clear()
    monkeypatch.setattr(table, "machine", lru_cache(lambda device: machine(CPU)))
    lines: list[str] = []
    known = prove([(OPERATION, PLAIN), (OPERATION, USUAL)], gone, lines.append)
    (line,) = lines
    assert line.startswith("kernels: 2 kinds can't be tried now, crashed: status 1, ")
    assert line.endswith("; the next start tries again")
    assert "Error: " in line
    found = known.find("fake", text(PLAIN))
    assert found == {"chosen": None, "results": {}}
    assert list(cache.glob("*.json")) == []


STARTER = """
import sys
import torch
from maris_fast.kernels.choice import prove
from tests.kernels.fake_operation import OPERATION, Kind
kind = Kind(int(sys.argv[1]), fast=False, dying=False)
prove([(OPERATION, kind)], torch.device("cpu"), patience=20, alive=lambda: print("alive", flush=True))
"""


@contextmanager
def starter(size: int, **more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that proves a kind, with its child's number, once all but the last candidate are right."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-c", STARTER, str(size)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(5)] == ["alive\n"] * 5
        (child,) = process_table.descendants(process.pid)
        yield process, child


@pytest.mark.process
def test_the_child_ends_with_the_process_that_started_it(cache: Path, tmp_path: Path) -> None:
    with starter(STUCK, TMPDIR=str(tmp_path)) as (process, child):
        process.kill()
    wait_until(lambda: process_table.started(child) in (None, process_table.ENDED))


@pytest.mark.process
@pytest.mark.slow
def test_a_candidate_that_was_suspended_with_the_proof_has_not_hung(cache: Path) -> None:
    """As by `scontrol suspend`, for longer than a candidate's time without an answer."""
    with starter(LONG) as (process, child):
        for pid in (process.pid, child):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(25)
        for pid in (process.pid, child):
            os.kill(pid, signal.SIGCONT)
        process.communicate(timeout=200)
        assert process.returncode == 0
    (file,) = cache.glob("*.json")
    results = json.loads(file.read_text())["operations"]["fake"][text(Kind(LONG, False, False))]["results"]
    assert "ms" in results["thinks"], results


@pytest.mark.process
def test_the_result_of_a_kind_is_reported_and_written_at_once(cache: Path) -> None:
    """A run that is interrupted at the second kind has kept the first."""

    def told(line: str) -> None:
        if "1 of 2" in line:
            # The file is written after this line.
            assert list(cache.glob("*.json")) == []
        elif "2 of 2" in line:
            (file,) = cache.glob("*.json")
            assert list(json.loads(file.read_text())["operations"]["fake"]) == [text(USUAL)]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prove([(OPERATION, USUAL), (OPERATION, Kind(32, False, False))], CPU, told)


def written(cache: Path, chosen_there: str = "fast", **changed: Any) -> Path:
    """A certificate for PLAIN, as a proof would have left it."""
    results = {"usual": {"ms": 20.0}, "fast": {"ms": 2.0}}
    known = Certificates({**machine(CPU), **changed})
    found = {OPERATION.name: {text(PLAIN): {"chosen": chosen_there, "results": results}}}
    assert known.learn(found, {OPERATION.name: OPERATION.sources_hash()}) is None
    forget()
    return known.file


def test_a_second_start_proves_nothing_again(cache: Path) -> None:
    written(cache)
    lines: list[str] = []
    prove([(OPERATION, PLAIN)], CPU, lines.append)
    assert lines == []
    assert chosen(OPERATION, text(PLAIN), CPU) == "fast"


@pytest.mark.process
def test_a_changed_source_counts_for_nothing_until_it_is_proven_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "kernel.py"
    source.write_text("one")
    operation = replace(OPERATION, sources=(source,))
    known = of_device(CPU)
    found = {"fake": {text(PLAIN): {"chosen": "fast", "results": {"fast": {"ms": 2.0}}}}}
    known.learn(found, {"fake": operation.sources_hash()})
    assert chosen(operation, text(PLAIN), CPU) == "fast"
    source.write_text("two")
    forget()
    assert chosen(operation, text(PLAIN), CPU) is None
    monkeypatch.setenv(SOURCE, str(source))
    lines: list[str] = []
    prove([(operation, Kind(64, False, False))], CPU, lines.append)
    assert len(lines) == 2
    # Results of the old source are gone.
    assert list(of_device(CPU).operations["fake"]) == [text(Kind(64, False, False))]


@pytest.mark.parametrize("other", [{"torch": "1.0"}, {"device": "another"}, {"driver": "1"}])
def test_another_version_device_or_driver_has_a_file_of_its_own(cache: Path, other: dict[str, str]) -> None:
    own, others = written(cache), written(cache, "usual", **other)
    assert own != others
    assert chosen(OPERATION, text(PLAIN), CPU) == "fast"


@pytest.mark.process
def test_a_home_that_cannot_be_written_keeps_it_in_memory_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file" / "kernels"))
    forget()
    lines: list[str] = []
    prove([(OPERATION, USUAL)], CPU, lines.append)
    assert lines[-1].endswith("can't be written (Not a directory), so this holds for this process alone")
    assert chosen(OPERATION, text(USUAL), CPU) == "usual"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"machine": 1}', '{"machine":{},"operations":{"a":[]},"sources":{}}']
)
def test_a_broken_file_is_reported_and_ignored(
    cache: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(cache)
    file.write_text(content)
    assert chosen(OPERATION, text(PLAIN), CPU) is None
    assert f"{file} can't be used" in caplog.text
    assert "`maris-fast kernels prove` writes it again" in caplog.text


def test_two_processes_that_prove_at_the_same_time_lose_nothing_of_each_other(cache: Path) -> None:
    mine, other = of_device(CPU), Certificates(machine(CPU))
    for known, kind in ((mine, PLAIN), (other, USUAL)):
        found = {"fake": {text(kind): {"chosen": "usual", "results": {"usual": {"ms": 1.0}}}}}
        known.learn(found, {"fake": OPERATION.sources_hash()})
    forget()
    assert set(of_device(CPU).operations["fake"]) == {text(PLAIN), text(USUAL)}


@pytest.mark.parametrize(
    ("times", "timed", "taken"),
    [
        ({"usual": 1.04, "other": 1.0}, True, "usual"),
        ({"usual": 1.06, "other": 1.0}, True, "other"),
        ({"usual": 9.0, "other": 1.0}, False, "usual"),
        ({"other": 1.0}, True, "other"),
        ({}, True, None),
    ],
)
def test_five_per_cent_is_a_tie_and_times_that_mean_nothing_do_not_choose(
    times: dict[str, float], timed: bool, taken: str | None
) -> None:
    results = {name: {"ms": ms} for name, ms in times.items()}
    assert choose(["usual", "other"], results, timed) == taken


def test_a_kind_comes_back_from_its_words_and_lengths_go_to_a_power_of_two() -> None:
    assert read(Kind, text(DYING)) == DYING
    kind = MutualKind("bfloat16", 32, 256, 4096, True, False, True)
    assert read(MutualKind, text(kind)) == kind
    assert of(MUTUAL.where) is MUTUAL
    with pytest.raises(ValueError, match="is not a kind of size, fast, dying"):
        read(Kind, "size=1")
    assert [power_of_two(n) for n in (1, 64, 65, 3072, 4096, 10**6)] == [64, 64, 128, 4096, 4096, 65536]
    for least in (16, 64):
        for length in (1, 16, 17, 64, 65, 3072, 4096, 4097, 10**6):
            above, most = rounded_to(power_of_two(length, least), least)
            assert above < length <= most


class Lengths(NamedTuple):
    words: int
    tokens: int
    masked: bool


# {tokens: {words: implementation}}
PROVEN = {128: {16: "a", 64: "b"}, 256: {64: "c"}, 1024: {32: "c"}, 4096: {16: "safe", 64: "c"}}


@pytest.fixture
def of_lengths() -> Operation:
    """An operation with a certificate for the lengths of PROVEN."""
    operation = replace(OPERATION, name="lengths", kind=Lengths, lengths=(("tokens", 64), ("words", 16)))
    found = {
        text(Lengths(words, tokens, masked)): {"chosen": name if masked else "other", "results": {}}
        for tokens, row in PROVEN.items()
        for words, name in row.items()
        for masked in (True, False)
    }
    of_device(CPU).take({"lengths": found}, {"lengths": operation.sources_hash()})
    return operation


def needed(tokens: int, words: int) -> str:
    """What a call must take: the choice for the next longer lengths of PROVEN, or the longest words."""
    if not (64 < tokens <= 4096 and words <= 64):
        return "safe"
    row = next(row for proven, row in PROVEN.items() if tokens <= proven)
    return next((name for proven, name in row.items() if words <= proven), row[max(row)])


def test_lengths_take_what_was_proven_for_the_next_longer_ones_and_outside_the_safe_one(
    of_lengths: Operation,
) -> None:
    steps = choices(of_lengths, Lengths(0, 0, True), CPU, "safe")
    for tokens, row in PROVEN.items():
        for words, name in row.items():
            assert chosen(of_lengths, text(Lengths(words, tokens, True)), CPU) == name
    for tokens, words in product((1, 64, 65, 128, 129, 512, 1024, 1025, 4096, 4097), (1, 16, 17, 64, 65)):
        assert chosen_at((tokens, words), steps) == needed(tokens, words)
    # From 129 tokens to 1024, all take the same.
    assert steps[0] == (64, 128, 1024, 4096)
    of_device(CPU).take({"lengths": {}}, {"lengths": "of other sources"})
    assert chosen_at((100, 5), choices(of_lengths, Lengths(0, 0, True), CPU, "safe")) == "safe"


def test_under_torch_compile_lengths_of_a_step_share_a_graph(of_lengths: Operation) -> None:
    from torch._dynamo.testing import CompileCounter  # takes seconds

    steps = choices(of_lengths, Lengths(0, 0, True), CPU, "safe")
    names = ["safe", "a", "b", "c"]

    def call(tokens: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return words.sum() + names.index(chosen_at((tokens.shape[0], words.shape[0]), steps))

    torch._dynamo.reset()
    compiles = CompileCounter()
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=compiles)
    for tokens, words in product((129, 300, 600, 1000, 1024), (2, 16, 17, 64)):
        assert compiled(torch.zeros(tokens), torch.zeros(words)) == names.index("c")
    assert compiles.frame_count == 1
    for words, name in ((16, "a"), (64, "b")):
        assert compiled(torch.zeros(100), torch.zeros(words)) == names.index(name)
    assert compiles.frame_count == 3


CALL = """
import torch
from maris_fast.kernels.mutual_attention import api
real = api._implementation
api._implementation = lambda *given: print(*(found := real(*given))) or found
for words, tokens in ((5, 3072), (40, 3072), (5, 20)):
    z_v, z_l = torch.randn(1, tokens, 16), torch.randn(1, words, 16)
    mask = torch.ones(1, words, dtype=torch.bool)
    offsets = torch.tensor([0, 1], dtype=torch.int32)
    api.mutual_attention(z_v, z_l, *[torch.ones(16)] * 4, word_mask=mask, expr_offsets=offsets)
"""


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and output of ``maris-fast kernels prove`` in the interpreter, for a small model."""
    if INTERPRETED and not interpreter_counts():
        pytest.skip("Triton 3.6's interpreter is refused under this NumPy")
    folder = tmp_path_factory.mktemp("proven")
    config = folder / "run.yaml"
    config.write_text(
        "data: {cache: none}\nrun: {folder: none}\n"
        "model: {channels: 16, heads: 4, ma_blocks: 1, attention_impl: sdpa}\n"
    )
    done = called(folder, "-m", "maris_fast.cli", "kernels", "prove", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def called(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {FOLDER_VARIABLE: str(folder / "cache"), "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **own, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.process
@pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
def test_prove_ends_with_a_certificate_after_which_auto_takes_the_kernels(proven: tuple[Path, str]) -> None:
    folder, said = proven
    # Three blocks of keys, two of words; with and without a gradient.
    assert "kernels 10 of 10, mutual_attention dtype=float32 words=32 C=16" in said
    assert said.splitlines()[-1].startswith("10 kinds of calls are proven on cpu")
    done = called(folder, "-c", CALL)
    assert done.stdout.split() == ["triton", "reference", "reference"], done.stderr


@pytest.mark.process
@pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
def test_show_tells_what_each_kind_gets(proven: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("COLUMNS", "250")
    assert "nothing is proven on cpu" in " ".join(maris_fast("kernels", "show").output.split())
    monkeypatch.setenv(FOLDER_VARIABLE, str(proven[0] / "cache"))
    forget()
    shown = maris_fast("kernels", "show").output
    assert (shown.count("words=16"), shown.count("keys=16")) == (2, 2)
    assert "reference: " in shown


def test_auto_is_the_reference_where_nothing_is_proven() -> None:
    z_v, z_l = torch.randn(1, 20, 16), torch.randn(1, 5, 16)
    parameters = [torch.ones(16)] * 4
    kind = MutualKind("float32", 16, 16, 64, False, False, False)
    assert chosen_impl(kind, CPU) == "reference"
    auto = mutual_attention(z_v, z_l, *parameters)
    plain = mutual_attention(z_v, z_l, *parameters, impl="reference")
    assert all(torch.equal(*pair) for pair in zip(auto, plain, strict=True))


@pytest.mark.interpreter
@pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
def test_under_torch_compile_the_choice_is_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = MutualKind("float32", 16, 16, 64, False, False, True)
    cut = "triton:32/4/1/0/4+64/4/1/16/4"
    found = {"mutual_attention": {text(kind): {"chosen": cut, "results": {cut: {"ms": 1.0}}}}}
    of_device(CPU).take(found, {"mutual_attention": MUTUAL.sources_hash()})
    z_l, parameters = torch.randn(1, 5, 16, requires_grad=True), [torch.ones(16)] * 4
    compiled = torch.compile(mutual_attention, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (20, 30):
        z_v = torch.randn(1, length, 16)
        got = compiled(z_v, z_l, *parameters)
        named = mutual_attention(z_v, z_l, *parameters, impl="triton")
        assert all(torch.equal(*pair) for pair in zip(got, named, strict=True))


@pytest.mark.interpreter
@pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
def test_the_kernels_run_with_the_block_sizes_that_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    run = InterpretedFunction.run

    def recorded(self: Any, *given: Any, **more: Any) -> Any:
        rows.extend([more["BLOCK_V"]] if "BLOCK_V" in more else [])
        return run(self, *given, **more)

    monkeypatch.setattr(InterpretedFunction, "run", recorded)
    leaf, parameters = torch.randn(1, 20, 16, requires_grad=True), [torch.ones(16)] * 4
    z_l = torch.randn(1, 5, 16)

    def launched(impl: str) -> list[int]:
        rows.clear()
        f_lav, f_val = mutual_attention(leaf, z_l, *parameters, impl=impl)
        (f_lav.sum() + f_val.sum()).backward()
        return list(rows)

    cut = "triton:128/4/1/0/4+16/4/1/16/4"
    kind = MutualKind("float32", 16, 16, 64, False, False, True)
    found = {"mutual_attention": {text(kind): {"chosen": cut, "results": {cut: {"ms": 1.0}}}}}
    of_device(CPU).take(found, {"mutual_attention": MUTUAL.sources_hash()})
    assert launched("auto") == [128, 16]
    assert launched("triton") == [32, 64]  # the table's


@pytest.mark.process
def test_a_child_on_a_gpu_without_a_number_keeps_the_one_it_begins_on(tmp_path: Path) -> None:
    """As `kernels prove` asks for it; to select a GPU without a number is an error of PyTorch's."""
    (tmp_path / "asked").write_text("[]")
    command = [sys.executable, "-m", "maris_fast.kernels.choice.trial", "asked", "answers", "cuda"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(os.getpid())], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "answers").read_text() == ""
