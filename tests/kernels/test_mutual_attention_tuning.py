"""The tuner's choice, its file, and which block sizes a call then gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maris_fast.kernels import UnsupportedError, interpreted_bf16, triton_here
from maris_fast.kernels.mutual_attention import in_use, operator
from maris_fast.kernels.mutual_attention.blocks import Blocks, Walk, blocks
from maris_fast.kernels.mutual_attention.measured import Case, Measured, Problem, read
from maris_fast.kernels.mutual_attention.operator import INTERPRETED
from maris_fast.kernels.mutual_attention.parity import Case as ParityCase
from maris_fast.kernels.mutual_attention.parity import parity
from maris_fast.kernels.mutual_attention.tuning import KernelTrial, Part, Space, search, tune

SPACE = Space((16, 32), (4, 8), (1, 2), (0, 64), (64,), (264, 528))
# As the table's might be, and among what is tried.
OWN = Blocks(32, Walk(32, 8, 2, 0, 264), Walk(32, 8, 2, 64, 264))
PROBLEM = Problem("bfloat16", 4096, 32, 256, 32, 1)


class FakeTrial:
    """A machine whose times, wrong results and failures are known."""

    def __init__(self, part: Part, times: dict[Walk, float], usual: float = 5.0) -> None:
        self.part, self.times, self.usual = part, times, usual
        self.wrong: set[Walk] = set()
        self.broken: set[Walk] = set()
        self.proven: list[Walk] = []
        self.timed: list[Walk] = []

    def failures(self, sizes: Blocks) -> list[str]:
        walk: Walk = getattr(sizes, self.part)
        if walk in self.broken:
            raise RuntimeError("out of resource: shared memory\nmore of it")
        self.proven.append(walk)
        return ["f_lav: error 1.0e+00, allowed 1.0e-02"] if walk in self.wrong else []

    def milliseconds(self, part: Part, sizes: Blocks) -> float:
        walk: Walk = getattr(sizes, part)
        assert self.proven[-1] == walk, "timed before it was proven"
        self.timed.append(walk)
        return self.times.get(walk, self.usual)


def found(trial: FakeTrial) -> Any:
    return search(trial.part, OWN, SPACE, 256, trial, lambda *_: None)


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_the_fastest_is_chosen_and_compared_with_the_tables_own(part: Part) -> None:
    best = Walk(16, 8, 1, 64, 264)
    table: Walk = getattr(OWN, part)
    choice = found(FakeTrial(part, {best: 1.0, table: 2.0}))
    assert (choice.chosen.walk, choice.chosen.ms) == (best, 1.0)
    assert choice.own is not None
    assert (choice.own.walk, choice.own.ms) == (table, 2.0)
    assert [timed.ms for timed in choice.best] == [1.0, 2.0, 5.0, 5.0, 5.0]


def test_the_number_of_programs_is_tried_for_the_fastest_alone() -> None:
    good = Walk(16, 8, 1, 64, 264)
    trial = FakeTrial("backward", {good: 2.0, replace(good, programs=528): 1.0})
    assert found(trial).chosen.walk == replace(good, programs=528)
    assert sum(walk.programs == 528 for walk in trial.timed) == 3


def test_a_wrong_candidate_is_never_timed_nor_chosen_and_is_named() -> None:
    fast_and_wrong = Walk(16, 8, 1, 64, 264)
    trial = FakeTrial("forward", {fast_and_wrong: 0.1})
    trial.wrong = {fast_and_wrong}
    choice = found(trial)
    assert choice.chosen.walk != fast_and_wrong
    assert fast_and_wrong not in trial.timed
    assert choice.wrong == {str(fast_and_wrong): "f_lav: error 1.0e+00, allowed 1.0e-02"}


def test_a_candidate_that_fails_is_passed_over_and_named() -> None:
    trial = FakeTrial("forward", {})
    trial.broken = {OWN.forward, Walk(16, 4, 1, 0, 264)}
    choice = found(trial)
    assert choice.own is None
    assert choice.failed == {str(w): "RuntimeError: out of resource: shared memory" for w in trial.broken}
    assert choice.tried == len(trial.timed) + 2


def test_nothing_right_is_an_error_that_gives_the_first_reason() -> None:
    trial = FakeTrial("forward", {})
    trial.wrong = {OWN.forward, *SPACE.walks("forward", 256, 264)}
    with pytest.raises(UnsupportedError, match=r"none of 16 candidates .* f_lav: error 1\.0e\+00"):
        found(trial)


def test_a_forward_too_wide_for_registers_is_only_tried_in_chunks() -> None:
    assert {walk.chunk for walk in SPACE.walks("forward", 1024, 264)} == {64}
    assert {walk.chunk for walk in SPACE.walks("forward", 32, 264)} == {0}


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A file as the tuner writes it, of this machine's architecture."""
    forward = search("forward", OWN, SPACE, 256, FakeTrial("forward", {}), lambda *_: None)
    backward = search("backward", OWN, SPACE, 256, FakeTrial("backward", {}), lambda *_: None)
    here = triton_here.architecture(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    whole = Measured(
        "a device", here, None, {"torch": "2"}, None, "today", [Case(PROBLEM, forward, backward)]
    )
    whole.save(tmp_path / "blocks.json")
    return tmp_path / "blocks.json"


@pytest.fixture(autouse=True)
def the_table_again() -> Iterator[None]:
    yield
    in_use.use_measured(None)


def changed(file: Path, change: Any) -> Path:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return file


def test_a_file_takes_the_tables_place_where_it_has_the_call(measured: Path) -> None:
    def other(document: Any) -> None:
        document["cases"][0]["forward"]["chosen"]["walk"]["rows"] = 128

    architecture = read(measured).architecture
    in_use.use_measured(changed(measured, other))
    assert in_use.blocks_of_call(architecture, 2, 20, 256).forward.rows == 128
    for elsewhere in ((4, 20, 256), (2, 40, 256), (2, 20, 128)):
        assert in_use.blocks_of_call(architecture, *elsewhere) == blocks(architecture, *elsewhere)


def test_the_variable_is_read_at_the_first_call_and_once(
    measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_use, "_in_use", in_use._InUse())
    monkeypatch.setenv(in_use.VARIABLE, str(measured))
    architecture = read(measured).architecture
    expected = read(measured).table()[2, 32, 256]
    assert in_use.blocks_of_call(architecture, 2, 32, 256) == expected
    measured.unlink()
    assert in_use.blocks_of_call(architecture, 2, 32, 256) == expected


def test_a_file_of_another_architecture_is_refused(measured: Path) -> None:
    in_use.use_measured(
        changed(measured, lambda document: document.update(architecture=triton_here.INTERPRETER))
    )
    with pytest.raises(UnsupportedError, match=r"of Triton's interpreter .* this is compute capability 9\.0"):
        in_use.blocks_of_call(90, 2, 32, 256)


def walk_of(document: Any, part: str) -> Any:
    return document["cases"][0][part]["chosen"]["walk"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(colour="red"), "the file has 'colour'; known are device"),
        (lambda d: d.pop("architecture"), "the file lacks architecture"),
        (lambda d: d.update(architecture="90"), 'the file.architecture is "90"; needed is int'),
        (lambda d: d.update(cases={}), r"the file.cases is \{\}; needed is list"),
        (lambda d: d["cases"].append(d["cases"][0]), "two cases for 2-byte elements, up to 32 words"),
        (lambda d: d["cases"][0]["problem"].update(dtype="int8"), "dtype 'int8'; known are float16"),
        (lambda d: d["cases"][0]["problem"].update(L_t=200), r"cases\[0\]: L_t = 200 words"),
        (lambda d: walk_of(d, "forward").update(rows=24), r"cases\[0\], forward: 24 rows.*powers of 2"),
        (lambda d: walk_of(d, "forward").update(stages=0), "at least one stage"),
        (lambda d: walk_of(d, "backward").update(chunk=0), r"cases\[0\], backward: .*needed are chunks"),
        (lambda d: walk_of(d, "backward").update(wraps=4), r"chosen.walk has 'wraps'; known are rows"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(measured: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        in_use.use_measured(changed(measured, change))
    assert str(measured) in str(refused.value)


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        in_use.use_measured(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"device": ')
    with pytest.raises(ValueError, match=r"cut\.json can't be used"):
        in_use.use_measured(tmp_path / "cut.json")


def test_walks_that_differ_forward_and_backward_still_agree_with_the_reference() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = ParityCase(L_v=100, L_t=7, C=64, counts=(2, 0, 1), padded=True)
    with in_use.forced(Blocks(16, Walk(16, 4, 1, 32, 8), Walk(32, 4, 1, 16, 2))):
        assert parity(case, device).failures() == []


def test_the_trial_of_the_kernels_notices_a_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trial = KernelTrial(Problem("float32", 32, 5, 32, 1, 1), device, lambda function: 0.0)
    sizes = blocks(triton_here.architecture(device), 4, 5, 32)
    right = operator._splits
    # A split too few: the last tiles are nobody's.
    monkeypatch.setattr(operator, "_splits", lambda *a: (right(*a)[0], max(1, right(*a)[1] - 1)))
    assert trial.failures(replace(sizes, forward=replace(sizes.forward, rows=16, programs=12)))


@pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")
def test_tuning_says_what_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreted_bf16, "interpreter_computes_bf16", lambda: False)
    with pytest.raises(UnsupportedError, match=r"nothing can be tuned here: .* multiplies bfloat16 wrongly"):
        tune(PROBLEM, torch.device("cpu"))
