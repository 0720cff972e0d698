"""The steps of the first minutes on a GPU, each in a process of its own (first_on_gpu.py runs them).

A step writes each fact as soon as it is known, and exits with status 1 if something was wrong. With
``--rehearse`` the same code runs on a CPU: small sizes, the kernels in Triton's interpreter, in fp16.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
# The parity tests to run: those in bf16 on a GPU, and in a rehearsal a few in fp16 in the interpreter.
PARITY = ("mutual_attention_triton", "cross_attention_triton", "multihead_attention")
PARITY_KEYWORD = "(parity and (in_bf16 or bfloat16)) or on_a_gpu_values"
REHEARSED_KEYWORD = "test_parity and (L_v:37-L_t:1- or L_q:1-L_k:1-)"


class Tell(Protocol):
    """Records a fact."""

    def __call__(self, fact: str, **values: Any) -> None: ...


@dataclass(frozen=True)
class Scale:
    """All sizes: those of a training step on a GPU, or seconds of work for the interpreter in a rehearsal."""

    device: torch.device
    dtype: torch.dtype
    tokens: int
    words: tuple[int, int]
    """Words in a batch of short sentences, and of the longest."""
    channels: int
    images: int
    each: int
    """Expressions per image."""
    batch: int
    """Expressions in a call without groups."""
    batch_tokens: int
    repetitions: int
    host_calls: int
    step_size: str
    step_rounds: int


FULL = Scale(torch.device("cuda"), torch.bfloat16, 3072, (12, 32), 256, 8, 7, 32, 4096, 50, 40, "full", 2)
REHEARSED = Scale(CPU, torch.float16, 20, (3, 5), 16, 2, 2, 2, 20, 2, 1, "tiny", 1)


def once(scale: Scale, tell: Tell) -> bool:
    """One forward and backward of mutual-aware attention with groups: it runs, is correct, and repeatable."""
    from maris_fast.kernels.mutual_attention.parity import Case, draw, parity, run

    counts = (scale.each,) * scale.images
    case = Case(scale.tokens, scale.words[1], scale.channels, scale.dtype, counts=counts, padded=True)
    drawn = draw(case, scale.device)
    begun = time.perf_counter()
    first = run(drawn, "triton")
    _wait(scale)
    finite = all(bool(t.isfinite().all()) for t in first)
    tell("runs", seconds=round(time.perf_counter() - begun, 2), finite=finite, case=str(case))
    report = parity(case, scale.device)
    errors = {name: [float(f"{number:.3e}") for number in pair] for name, pair in report.errors.items()}
    tell("right", failures=report.failures(), wrong_pairs=report.wrong_pairs, error_and_allowed=errors)
    differing = sum(
        not all(torch.equal(*pair) for pair in zip(run(drawn, "triton"), first, strict=True))
        for _ in range(scale.repetitions)
    )
    tell("repetitions", runs=scale.repetitions, differing=differing)
    return finite and not report.failures() and not differing


class _Share:
    """A pytest plugin that keeps every n-th test, and reports failures and the number of tests passed."""

    def __init__(self, place: int, shares: int, tell: Tell) -> None:
        self.place, self.shares, self.tell = place, shares, tell
        self.outcomes: dict[str, int] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = items[self.place :: self.shares]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self.outcomes[report.outcome] = self.outcomes.get(report.outcome, 0) + 1
        if report.outcome == "failed":
            self.tell("failed", test=report.nodeid, said=str(report.longrepr)[-1500:])


def parity(scale: Scale, tell: Tell, share: tuple[int, int] = (0, 1)) -> bool:
    """Run this process's share (index, number of shares) of the parity tests of all operations."""
    import pytest

    plugin = _Share(*share, tell)
    files = [str(ROOT / "tests" / "kernels" / f"test_{name}.py") for name in PARITY]
    keyword = PARITY_KEYWORD if scale is FULL else REHEARSED_KEYWORD
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    status = pytest.main([*options, "-k", keyword, *files], plugins=[plugin])
    tell("tests", share=list(share), **plugin.outcomes)
    return status == pytest.ExitCode.OK and plugin.outcomes.get("passed", 0) > 0


def times(scale: Scale, tell: Tell) -> bool:
    """Time mutual-aware attention, each column verified on the inputs it is timed on."""
    from maris_fast.bench.measuring import copy_gbps
    from maris_fast.bench.mutual_attention_columns import Column, Shape, columns

    few, many = scale.words
    grouped = partial(Shape, scale.images, scale.each, scale.tokens, C=scale.channels)
    shapes = {
        "training": Shape(scale.batch, 1, scale.batch_tokens, many, scale.channels),
        f"groups of {scale.each}, {many} words": grouped(L_t=many),
        f"groups of {scale.each}, {few} words": grouped(L_t=few),
    }
    copy = copy_gbps(scale.device)
    tell("copy", GBps=copy)
    # In a rehearsal the interpreter runs it.
    known = {"triton": Column("triton", scale.dtype, scale.dtype), **columns(scale.device)}
    order = [(shape, name) for name in ("triton", "eager-autocast", "eager") for shape in shapes]
    # Compiling takes longest, so only at one shape, and not at all in a rehearsal.
    order += [("training", "compiled")] if scale is FULL else []
    right = True
    for shape, name in order:
        right &= _timed_column(known[name], shape, shapes[shape], scale, copy, tell)
    return right


def _timed_column(column: Any, name: str, shape: Any, scale: Scale, copy: float, tell: Tell) -> bool:
    from maris_fast.bench.measuring import host_us
    from maris_fast.bench.mutual_attention_columns import (
        Part,
        build,
        differentiated,
        failures,
        gradients,
        inputs,
        must_move,
    )
    from maris_fast.kernels.cuda_graph import own_stream

    with own_stream(scale.device):
        leaves, offsets = inputs(shape, scale.device, column.leaves)
        forward = build(column, shape, offsets)
        above = gradients(forward(leaves))
        told: dict[str, Any] = {"suite": "mutual_attention", "shape": name, "impl": column.name}
        told |= {"computes": column.computes, **vars(shape), "dtype": str(column.leaves)[6:]}
        wrong = failures(differentiated(forward, leaves, above), column, shape, scale.device)
        if wrong:
            tell("wrong", **told, failures=wrong)
            return False

        def both() -> object:
            return differentiated(forward, leaves, above)

        def only_forward() -> object:
            with torch.no_grad():
                return forward(leaves)

        parts: tuple[tuple[Part, Callable[[], object]], ...] = (("forward", only_forward), ("both", both))
        for part, function in parts:
            told |= {"part": part, "must_move": must_move(shape, part, scale.dtype.itemsize)}
            row = _row(function, told, scale, copy)
            tell("row", **row, host_us=host_us(function, scale.device, scale.host_calls))
    return True


def _row(function: Callable[[], object], told: dict[str, Any], scale: Scale, copy: float) -> dict[str, Any]:
    from maris_fast.bench.conditions import gpu_conditions
    from maris_fast.bench.measuring import bandwidth, device_row, wall_ms

    if scale.device.type == "cuda":
        with gpu_conditions(scale.device) as of_gpu:
            row = device_row(function, copy, told)
        return row | of_gpu
    begun = time.perf_counter()
    function()
    row = {**told, "timer": "wall", "ms": wall_ms([time.perf_counter() - begun])}
    return row | bandwidth(row, copy)


def attention(scale: Scale, tell: Tell) -> bool:
    """Verify and time each implementation of multi-head attention at three shapes of the decoder."""
    from maris_fast.kernels.cuda_graph import own_stream
    from maris_fast.kernels.multihead_attention import IMPLEMENTATIONS
    from maris_fast.kernels.multihead_attention.implementations import why_unsupported
    from maris_fast.kernels.multihead_attention.parity import Shape, draw, failures, provable, run

    tokens, keys, channels = scale.tokens, scale.words[0] + 1, scale.channels
    shapes = {
        "self, 8 heads": Shape(scale.images, tokens, tokens, 8, channels // 8, masked=False),
        "self, 2 heads": Shape(scale.images, tokens, tokens, 2, channels // 2, masked=False),
        "to words, 8 heads": Shape(scale.images * scale.each, tokens, keys, 8, channels // 8, masked=True),
    }
    right = True
    for name, shape in shapes.items():
        for impl in IMPLEMENTATIONS:
            told: dict[str, Any] = {"suite": "multihead_attention", "shape": name, "impl": impl}
            told |= {**vars(shape), "part": "both", "dtype": str(scale.dtype)[6:]}
            reason = why_unsupported(impl, scale.device, scale.dtype, shape.head_dim, shape.masked)
            if reason is not None:
                tell("left out", **told, reason=reason)
                continue
            try:
                with own_stream(scale.device):
                    wrong = failures(impl, provable(shape), scale.device, scale.dtype)
                    if wrong:
                        right = False
                        tell("wrong", **told, failures=wrong)
                        continue
                    drawn = draw(shape, scale.device, scale.dtype)
                    tell("row", **_row(partial(run, impl, drawn), told, scale, 1.0))
            except torch.OutOfMemoryError as error:
                tell("left out", **told, reason=f"out of memory: {str(error).splitlines()[0]}")
    return right


def training(scale: Scale, tell: Tell, row: int = 1, caches: Path | None = None) -> bool:
    """Time one row of the training step's waterfall, numbered as in ``maris-fast bench step --only``."""
    from maris_fast.bench import step as waterfall
    from maris_fast.config import EngineSettings
    from maris_fast.train.ranks import join, leave

    ranks = join(EngineSettings())
    size = waterfall.SIZES[scale.step_size]
    say = partial(print, flush=True)
    for found in waterfall.measure(size, ranks, scale.step_rounds, say, [row], folder=caches):
        tell("row", suite="step", number=row, size=scale.step_size, **found)
    leave()
    return True


def walks(scale: Scale, tell: Tell) -> bool:
    """A forward and a backward for each pair of walks, to be profiled: they launch in the recorded order."""
    from maris_fast.kernels.mutual_attention.blocks import alternatives, blocks
    from maris_fast.kernels.mutual_attention.parity import Case, draw, run
    from maris_fast.kernels.triton_here import limits

    words, channels = scale.words[1], scale.channels
    call = (limits(scale.device), scale.dtype.itemsize, words, channels)
    own = blocks(*call)
    fewer = replace(own.forward, programs=own.forward.programs // 2)
    walked = {"table": own, "forward, half the programs": replace(own, forward=fewer), **alternatives(*call)}
    counts = (scale.each,) * scale.images
    drawn = draw(Case(scale.tokens, words, channels, scale.dtype, counts=counts), scale.device)
    for name, sizes in walked.items():
        tell("walk", name=name, forward=str(sizes.forward), backward=str(sizes.backward))
        run(drawn, "triton", sizes.cut)
    _wait(scale)
    return True


def _wait(scale: Scale) -> None:
    if scale.device.type == "cuda":
        torch.cuda.synchronize()


def machine(scale: Scale, commit: str | None) -> dict[str, Any]:
    """Device, versions and commit, which apply to all later facts."""
    from maris_fast.bench.results import commit_and_dirty
    from maris_fast.train.environment import environment
    from maris_fast.train.ranks import Ranks

    here = environment(Ranks(scale.device))
    if scale.device.type == "cuda":
        properties = torch.cuda.get_device_properties(scale.device)
        here |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "cudnn": torch.backends.cudnn.version(),
        }
    own, dirty = commit_and_dirty(here)
    return here | {"commit": own or commit, "dirty": dirty, "rehearsal": scale is REHEARSED}


def teller(file: Path, step: str, begun: float) -> Tell:
    """A ``Tell`` that appends one line per fact to ``file``, in one write so that processes don't mix."""

    def tell(fact: str, **values: Any) -> None:
        line = json.dumps({"step": step, "at_s": round(time.time() - begun, 1), "fact": fact, **values})
        with file.open("a") as facts:
            facts.write(line + "\n")
            facts.flush()
            os.fsync(facts.fileno())

    return tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step, given as ``name``, ``name:number`` (a row) or ``name:place/shares``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step")
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--begun", type=float, default=time.time())
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--commit")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args(arguments)
    scale = REHEARSED if options.rehearse else FULL
    tell = teller(options.facts, options.step, options.begun)
    try:
        return 0 if _run(options, scale, tell) else 1
    # Any exception from a kernel, the driver or a library is a fact as well.
    except Exception as error:
        tell("error", said=f"{type(error).__name__}: {error}"[:1500])
        traceback.print_exc()
        return 1


def _run(options: argparse.Namespace, scale: Scale, tell: Tell) -> bool:
    name, _, which = options.step.partition(":")
    if name == "machine":
        tell("machine", **machine(scale, options.commit))
        return True
    if name == "parity":
        place, shares = map(int, which.split("/"))
        return parity(scale, tell, (place, shares))
    if name == "training":
        return training(scale, tell, int(which), options.scratch / "caches")
    return {"once": once, "times": times, "attention": attention, "walks": walks}[name](scale, tell)


if __name__ == "__main__":
    sys.exit(main())
