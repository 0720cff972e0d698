"""A rehearsal of the first quarter of an hour on a GPU: the same steps on a CPU, at small sizes."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maris_fast.bench import first_on_gpu, first_steps
from maris_fast.bench.first_on_gpu import FACTS, Step, read
from maris_fast.bench.results import load
from maris_fast.kernels import triton_here
from maris_fast.kernels.mutual_attention import parity
from maris_fast.kernels.mutual_attention.blocks import Walk
from maris_fast.kernels.mutual_attention.configurations import configurations
from maris_fast.kernels.triton_here import ARCHITECTURES, KNOWN

Facts = list[dict[str, Any]]


@pytest.fixture
def told() -> tuple[Facts, first_steps.Tell]:
    """The facts that a step in this process reports, and the function that records them."""
    facts: Facts = []

    def tell(fact: str, **values: Any) -> None:
        json.dumps(values)
        facts.append({"fact": fact, **values})

    return facts, tell


@pytest.mark.interpreter
def test_one_call_with_groups_is_right_and_repeats(told: tuple[Facts, first_steps.Tell]) -> None:
    facts, tell = told
    assert first_steps.once(first_steps.REHEARSED, tell)
    runs, right, repetitions = facts
    assert (runs["fact"], runs["finite"]) == ("runs", True)
    assert (right["failures"], right["wrong_pairs"]) == ([], 0)
    assert all(0 <= error <= allowed for error, allowed in right["error_and_allowed"].values())
    assert (repetitions["runs"], repetitions["differing"]) == (2, 0)


@pytest.mark.interpreter
def test_a_call_that_is_wrong_ends_its_step_as_wrong(
    told: tuple[Facts, first_steps.Tell], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, tell = told
    real = parity.mutual_attention_fwd

    def halved(*arguments: Any) -> Any:
        f_lav, *others = real(*arguments)
        return (f_lav / 2, *others)

    monkeypatch.setattr(parity, "mutual_attention_fwd", halved)
    assert not first_steps.once(first_steps.REHEARSED, tell)
    assert any(said.startswith("f_lav: error") for said in facts[1]["failures"])


@pytest.mark.interpreter
def test_each_column_is_timed_at_each_shape_forward_and_both(told: tuple[Facts, first_steps.Tell]) -> None:
    facts, tell = told
    assert first_steps.times(first_steps.REHEARSED, tell)
    copy, *rows = facts
    assert copy["GBps"] > 0
    assert [(row["impl"], row["shape"], row["part"]) for row in rows] == [
        (impl, shape, part)
        for impl in ("triton", "eager-autocast", "eager")
        for shape in ("training", "groups of 2, 5 words", "groups of 2, 3 words")
        for part in ("forward", "both")
    ]
    # 2 images of 20 tokens in, their 4 results out, at 2 bytes per number.
    (grouped,) = [r["must_move"] for r in rows[:4] if (r["shape"][:3], r["part"]) == ("gro", "forward")]
    assert grouped == 6 * 20 * 16 * 2
    assert all(row["host_us"] > 0 and row["ms"]["0.5"] > 0 for row in rows)


def test_attention_tells_a_time_or_a_reason_of_every_implementation(
    told: tuple[Facts, first_steps.Tell],
) -> None:
    facts, tell = told
    assert first_steps.attention(first_steps.REHEARSED, tell)
    assert len(facts) == 3 * 8
    timed = {fact["impl"] for fact in facts if fact["fact"] == "row"}
    assert timed == {"sdpa", "sdpa-flash", "reference"}
    assert all("reason" in fact for fact in facts if fact["impl"] == "xformers")


@pytest.mark.interpreter
def test_the_walks_to_profile_run_and_differ(told: tuple[Facts, first_steps.Tell]) -> None:
    facts, tell = told
    assert first_steps.walks(first_steps.REHEARSED, tell)
    assert len({(fact["forward"], fact["backward"]) for fact in facts}) == len(facts) == 4


# Whether forward and backward are by TMA.
WALKS_OF_HOPPER = {
    "table": (True, False),
    "forward, half the programs": (True, False),
    "forward by pointers": (False, False),
    "backward, half the rows": (True, False),
    "backward by TMA": (True, True),
}


def test_on_hopper_each_walk_to_profile_is_named_for_what_runs(
    told: tuple[Facts, first_steps.Tell], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, tell = told
    ran: list[str] = []
    monkeypatch.setattr(triton_here, "limits", lambda device: KNOWN[90])
    monkeypatch.setattr(parity, "run", lambda drawn, impl, cut: ran.append(cut))
    assert first_steps.walks(replace(first_steps.REHEARSED, channels=256), tell)
    walks = [(Walk.read(fact["forward"]), Walk.read(fact["backward"])) for fact in facts]
    by_tma = [(forward.by_tma, backward.by_tma) for forward, backward in walks]
    assert dict(zip((fact["name"] for fact in facts), by_tma, strict=True)) == WALKS_OF_HOPPER
    assert ran == [f"{forward}+{backward}" for forward, backward in walks]


def test_the_profile_keeps_all_kernels_that_walk_and_no_others() -> None:
    kept = re.compile(first_on_gpu.KERNELS.removeprefix("regex:"))
    known = {one.kernel.__name__ for at in ARCHITECTURES for one in configurations(at)}
    assert {name.removeprefix("mutual_attention_") for name in known if not kept.search(name)} == {
        "fwd_words_kernel",
        "bwd_words_kernel",
        "bwd_gram_kernel",
        "bwd_sum_kernel",
        "bwd_finish_kernel",
    }


@pytest.mark.process
@pytest.mark.timeout(300)
def test_the_rest_runs_as_a_person_runs_it_and_leaves_facts_and_suites(tmp_path: Path) -> None:
    command = ["--rehearse", "--out", str(tmp_path), "--commit", "c0ffee"]
    status = first_on_gpu.main([*command, "--only", "parity", "--only", "training-8"])
    facts = list(read(tmp_path / FACTS))
    assert status == 0, (facts, (tmp_path / "first_processes.log").read_text()[-3000:])
    assert facts[0]["fact"] == "machine"
    assert facts[0]["packages"]["torch"]
    assert sum(fact.get("passed", 0) for fact in facts) >= 3
    step = load(tmp_path / "cpu" / "step.json")
    assert [row["name"] for row in step.rows] == ["bf16"]
    assert all(rate > 0 for rate in step.rows[0]["expressions_per_s"])
    assert [(f["step"], f["how"]) for f in facts if f["fact"] == "ended"] == [
        ("machine", ["well"]),
        ("parity", ["well", "well"]),
        ("training-8", ["well"]),
    ]


def test_suites_keep_the_waterfalls_order_and_replace_no_complete_run(tmp_path: Path) -> None:
    machine = {"fact": "machine", "device": "NVIDIA H100", "commit": "c0ffee", "dirty": False}
    timed = [{"fact": "row", "suite": "step", "number": number} for number in (8, 5)]
    file = tmp_path / "nvidia-h100" / "step.json"
    for known in ([machine, *timed[:1]], [machine, *timed]):
        assert first_on_gpu.save_suites(tmp_path, known) == [file]
    partial = load(file)
    assert [row["number"] for row in partial.rows] == [5, 8]
    replace(partial, rows=[], complete=True).save(tmp_path)
    assert first_on_gpu.save_suites(tmp_path, [machine, *timed]) == []
    assert load(file).rows == []


CHILD = """
import os, signal, sys, time
name, facts = sys.argv[1], sys.argv[sys.argv.index("--facts") + 1]
fact = "machine" if name == "machine" else "begun"
open(facts, "a").write('{"step": "%s", "fact": "%s"}\\n' % (name, fact))
if name == "crashes":
    os.kill(os.getpid(), signal.SIGABRT)
if name == "hangs":
    if os.fork() == 0:
        open(facts + ".child", "w").write(str(os.getpid()))
    time.sleep(600)
sys.exit(3 if name == "fails" else 0)
"""


@pytest.mark.process
def test_a_step_that_crashes_or_hangs_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(first_on_gpu, "MODULE", [sys.executable, str(tmp_path / "child.py")])
    monkeypatch.setattr(first_on_gpu, "save_suites", lambda *_: [])
    names = ("crashes", "hangs", "fails", "works")
    wanted = [*(Step(name, (name,), 3 if name == "hangs" else 60) for name in names), Step("none", ("x",), 0)]
    assert not first_on_gpu.run(wanted, tmp_path / "out", 60, None, rehearse=True)
    facts = list(read(tmp_path / "out" / FACTS))
    assert {f["step"]: f["how"] for f in facts if f["fact"] == "ended"} == {
        "machine": ["well"],
        "crashes": ["ended by SIGABRT"],
        "hangs": ["stopped after 3 s"],
        "fails": ["failed, status 3"],
        "works": ["well"],
        "none": ["stopped after 0 s"],
    }
    # The facts that it reported before are kept, and its child process is gone.
    assert [f["step"] for f in facts if f["fact"] == "begun"][:4] == list(names)
    child = int((tmp_path / "out" / f"{FACTS}.child").read_text())
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]


def test_no_step_begins_after_the_time_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_on_gpu, "_ends", lambda *_: time.sleep(0.2) or ["well"])
    assert not first_on_gpu.run([Step("late", ("late",), 60)], tmp_path, 0.1, None, rehearse=False)
    assert [fact["how"] for fact in read(tmp_path / FACTS)] == [["well"], ["no time left"]]


def test_a_line_that_was_cut_off_loses_no_other(tmp_path: Path) -> None:
    file = tmp_path / FACTS
    file.write_text('{"fact": 1}\n{"fact": 2, "x')
    assert list(read(file)) == [{"fact": 1}]
