"""The tuner: finds, by measurement on the machine at hand, how the kernels are best cut.

For each problem, forward and backward apart: candidates for a walk are proven against the reference first,
and only then timed. Those that do not compile, launch or fit are passed over, those that give a wrong result
are never chosen; both are named in what is written. ``maris-fast bench tune`` runs this; a training step
never does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from typing import Literal, Protocol

import torch
import triton

from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.mutual_attention.blocks import WHOLE_C, Blocks, Walk, blocks
from maris_fast.kernels.mutual_attention.in_use import forced
from maris_fast.kernels.mutual_attention.measured import (
    INTERPRETED_WARNING,
    Choice,
    Measured,
    Problem,
    Timed,
)
from maris_fast.kernels.mutual_attention.measured import Case as MeasuredCase
from maris_fast.kernels.mutual_attention.operator import (
    INTERPRETED,
    mutual_attention_triton,
    why_unsupported,
)
from maris_fast.kernels.mutual_attention.parity import Case, draw, parity
from maris_fast.kernels.triton_here import INTERPRETER, architecture

Part = Literal["forward", "backward"]
Timer = Callable[[Callable[[], object]], float]
# What is told after each candidate: part, walk, how many candidates there are at least, and what came of it.
Told = Callable[[Part, Walk, int, str], None]

BEST = 5
# So many of the fastest are tried with other numbers of programs, which costs no compilation.
REFINED = 3
TAU, EPS = 0.5, 1e-5


@dataclass(frozen=True)
class Space:
    """What is tried. Chunks of 0 are the forward that holds all of C, tried where C is small enough."""

    rows: tuple[int, ...]
    warps: tuple[int, ...]
    stages: tuple[int, ...]
    forward_chunks: tuple[int, ...]
    backward_chunks: tuple[int, ...]
    programs: tuple[int, ...]

    def walks(self, part: Part, C: int, programs: int) -> Iterator[Walk]:
        """Every walk but for its number of programs."""
        chunks = self.forward_chunks if part == "forward" else self.backward_chunks
        for rows, warps, stages, chunk in product(self.rows, self.warps, self.stages, chunks):
            if chunk < C and (chunk or C <= WHOLE_C):
                yield Walk(rows, warps, stages, chunk, programs)


def default_space(device: torch.device) -> Space:
    """What is worth trying on ``device``; warps and stages mean nothing to the interpreter."""
    if INTERPRETED:
        return Space((32, 64), (4,), (1,), (0,), (16,), (2, 4))
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    programs = tuple(processors * each for each in (1, 2, 3, 4))
    return Space((16, 32, 64, 128), (4, 8), (1, 2, 3), (0, 32, 64, 128), (32, 64, 128), programs)


class Trial(Protocol):
    """Runs one problem, with whatever block sizes it is given."""

    def failures(self, sizes: Blocks) -> list[str]:
        """What is wrong with the result, in words; empty when all is well."""

    def milliseconds(self, part: Part, sizes: Blocks) -> float:
        """Median time of one part."""


class KernelTrial:
    """The kernels themselves: on inputs of the problem's size, and on a small ragged case for the proof."""

    def __init__(self, problem: Problem, device: torch.device, timer: Timer) -> None:
        self.device, self.timer = device, timer
        dtype = getattr(torch, problem.dtype)
        groups = (problem.expressions,) * problem.images if problem.expressions > 1 else None
        whole = Case(problem.L_v, problem.L_t, problem.C, dtype, counts=groups, images=problem.images)
        # Groups of 2, 0 and 1, padding, and a last tile that is not full.
        ragged = replace(whole, L_v=100, counts=(2, 0, 1), padded=True)
        self.cases = (ragged, whole)
        drawn = draw(whole, device)
        self.leaves = [leaf.detach().requires_grad_() for leaf in drawn.leaves]
        self.expr_offsets, self.gradients = drawn.expr_offsets, drawn.gradients

    def failures(self, sizes: Blocks) -> list[str]:
        with forced(sizes):
            return [failure for case in self.cases for failure in parity(case, self.device).failures()]

    def milliseconds(self, part: Part, sizes: Blocks) -> float:
        def forward() -> tuple[torch.Tensor, ...]:
            return mutual_attention_triton(
                *self.leaves,
                tau=TAU,
                keep="relevant",
                word_mask=None,
                expr_offsets=self.expr_offsets,
                eps=EPS,
            )

        with forced(sizes):
            if part == "forward":
                with torch.no_grad():
                    return self.timer(forward)
            outputs = forward()
            return self.timer(
                lambda: torch.autograd.grad(outputs, self.leaves, self.gradients, retain_graph=True)
            )


def search(part: Part, own: Blocks, space: Space, C: int, trial: Trial, told: Told) -> Choice:
    """The fastest right walk of one part; ``own`` are the table's block sizes, tried first.

    Raises:
        UnsupportedError: no candidate ran and was right.
    """
    times: dict[Walk, float] = {}
    wrong: dict[str, str] = {}
    failed: dict[str, str] = {}
    table: Walk = getattr(own, part)
    candidates = list(dict.fromkeys([table, *space.walks(part, C, table.programs)]))

    def judge(walk: Walk) -> None:
        sizes = Blocks(own.words, walk, own.backward) if part == "forward" else replace(own, backward=walk)
        # Whatever the compiler, the driver or the launch throws, the next candidate may be fine.
        try:
            failures = trial.failures(sizes)
            if failures:
                wrong[str(walk)] = "; ".join(failures)
                outcome = "wrong"
            else:
                times[walk] = round(trial.milliseconds(part, sizes), 5)
                outcome = f"{times[walk]:.3f} ms"
        except Exception as error:
            failed[str(walk)] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            outcome = "failed"
        told(part, walk, len(candidates), outcome)

    for walk in candidates:
        judge(walk)
    for walk in sorted(times, key=times.__getitem__)[:REFINED]:
        for programs in space.programs:
            if programs != walk.programs:
                judge(replace(walk, programs=programs))
    if not times:
        reasons = {**wrong, **failed}
        first = next(iter(reasons.items()))
        raise UnsupportedError(
            f"none of {len(reasons)} candidates for the {part} ran and was right; "
            f"the first, {first[0]}: {first[1]}"
        )
    fastest = [Timed(walk, times[walk]) for walk in sorted(times, key=times.__getitem__)]
    return Choice(
        chosen=fastest[0],
        own=Timed(table, times[table]) if table in times else None,
        best=fastest[:BEST],
        tried=len(times) + len(wrong) + len(failed),
        wrong=wrong,
        failed=failed,
    )


def tune(
    problem: Problem,
    device: torch.device,
    *,
    space: Space | None = None,
    timer: Timer | None = None,
    told: Told = lambda *_: None,
) -> MeasuredCase:
    """Both parts of one problem, on ``device`` (the CPU under the interpreter).

    Raises:
        UnsupportedError: the kernels can't run such inputs here, or no candidate was right.
    """
    reason = why_unsupported(device, getattr(torch, problem.dtype), problem.L_t, problem.C)
    if reason is not None:
        raise UnsupportedError(f"nothing can be tuned here: {reason}")
    element_bytes, words, C = problem.key
    own = blocks(architecture(device), element_bytes, words, C)
    trial = KernelTrial(problem, device, timer or default_timer())
    space = space or default_space(device)
    forward, backward = (search(part, own, space, C, trial, told) for part in ("forward", "backward"))
    return MeasuredCase(problem, forward, backward)


def default_timer() -> Timer:
    """Median milliseconds: on a GPU of its own clock, with a cold L2 cache before each run."""
    if not INTERPRETED:
        return lambda function: float(triton.testing.do_bench(function, return_mode="median"))

    def once(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)

    return once


def measured(cases: list[MeasuredCase], device: torch.device, commit: str | None) -> Measured:
    """The cases with where, when and with what they were measured."""
    here = architecture(device)
    interpreted = here == INTERPRETER
    return Measured(
        device="cpu, in Triton's interpreter" if interpreted else torch.cuda.get_device_name(device),
        architecture=here,
        warning=INTERPRETED_WARNING if interpreted else None,
        versions={"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda},
        commit=commit,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cases=cases,
    )
