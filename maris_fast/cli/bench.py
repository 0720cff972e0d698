"""``bench``: run the microbenchmarks, draw and compare their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maris_fast.system.terminal import say

bench = typer.Typer(no_args_is_help=True, help="Run, draw and compare benchmarks.")
Root = Annotated[
    Path | None,
    typer.Option(help="checkout with README.md, docs/ and bench/results/; default: that of this code"),
]


@bench.command("run")
def run(
    suites: Annotated[
        list[str] | None, typer.Argument(help="suites, such as mutual_attention; default: all")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="folder for results, OUT/<device>/<suite>.json; default: bench/results"),
    ] = None,
    keyword: Annotated[
        str | None, typer.Option("-k", help="run cases that match, as pytest's -k; needs --out")
    ] = None,
) -> None:
    """Run benchmark suites and save their results. A suite with a parity error saves none."""
    from maris_fast.bench.results import ROOT
    from maris_fast.bench.suite_runs import run as run_suites
    from maris_fast.errors import ConfigError

    if keyword is not None and out is None:
        raise ConfigError("-k runs part of a suite and must not replace complete results; give --out FOLDER")
    for file in run_suites(suites or (), out or ROOT / "bench" / "results", keyword):
        say(f"wrote {file}")


@bench.command("report")
def report(root: Root = None) -> None:
    """Draw bench/results/ as plots in docs/ and as tables in README.md and docs/."""
    from maris_fast.bench.report import draw
    from maris_fast.bench.results import ROOT

    for file in draw(root or ROOT):
        say(f"wrote {file}")


@bench.command("keep")
def keep(
    folder: Annotated[
        Path, typer.Argument(help="folder of a finished quickstart or `ablate`, such as runs/quickstart")
    ],
    root: Root = None,
) -> None:
    """Save a quickstart's scores and pictures, or an ablation, as results of this device."""
    from maris_fast.bench.keeping import keep as keep_results
    from maris_fast.bench.results import ROOT

    say(f"wrote {keep_results(folder, root or ROOT)}")


@bench.command("compare")
def compare(
    new: Annotated[Path, typer.Argument(help="new results, <device>/<suite>.json")],
    old: Annotated[Path, typer.Argument(help="earlier results, such as bench/results")],
    tolerance: Annotated[float, typer.Option(min=0, help="largest accepted slowdown, as a share")] = 0.15,
) -> None:
    """Compare results of one device with earlier ones, as ratios within each run; exit status 1 if slower."""
    from rich.console import Console

    from maris_fast.bench.comparing import compare as compared
    from maris_fast.system.terminal import Table

    found = compared(new, old)
    for told in found.not_compared:
        say(f"not compared: {told}")
    changes = found.changes
    if not changes:
        say("nothing was compared")
        return
    table = Table("device", "suite", "case", "before", "now", title="speedup over the plain implementation")
    for change in changes:
        row = (change.device, change.suite, change.case, f"{change.before:.2f}", f"{change.now:.2f}")
        table.add_row(*row, style="red" if change.slower(tolerance) else None)
    Console().print(table)
    slower = sum(change.slower(tolerance) for change in changes)
    if slower:
        say(f"{slower} of {len(changes)} cases are more than {tolerance:.0%} slower than before")
        raise typer.Exit(1)


@bench.command("step")
def step(
    size: Annotated[
        str | None,
        typer.Option(
            help="full (ViT-H, the paper's model), small or tiny; default: full on a GPU, else small"
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="timed rounds of each row")] = 5,
    only: Annotated[
        list[int] | None, typer.Option(min=1, help="number of a row to run; may be repeated")
    ] = None,
    endurance_minutes: Annotated[
        float | None,
        typer.Option(min=0, help="minutes to run the last row alone, with a measurement every 10 s"),
    ] = None,
    peak_tflops: Annotated[
        float | None,
        typer.Option(help="dense bf16 peak of the device, for MFU; default: by the device's name"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for results, OUT/<device>/step.json; default: bench/results")
    ] = None,
) -> None:
    """Time a training step from encoders in the loop to the fast preset, one technique for each row."""
    from maris_fast.bench import step as waterfall
    from maris_fast.bench.results import ROOT, Suite
    from maris_fast.config import EngineSettings
    from maris_fast.errors import ConfigError
    from maris_fast.train.environment import environment
    from maris_fast.train.ranks import join, leave

    if only and out is None:
        raise ConfigError("--only runs some rows and must not replace complete results; give --out FOLDER")
    ranks = join(EngineSettings())
    size = size or ("full" if ranks.device.type == "cuda" else "small")
    if size not in waterfall.SIZES:
        raise ConfigError(f"--size {size}; known are {', '.join(waterfall.SIZES)}")
    chosen = waterfall.SIZES[size]
    rows: list[dict[str, Any]] = []
    if endurance_minutes is None:
        name = "step"
        measured = waterfall.measure(chosen, ranks, rounds, say, only or (), peak_tflops)
    else:
        name = "endurance"
        measured = waterfall.endure(chosen, ranks, endurance_minutes, say)
    for row in measured:
        rows.append({"size": size, **row})
        say(waterfall.line(row))
        # Saved after each row, as a later one may fail or be stopped.
        file = Suite.now(name, environment(ranks), rows).save(out or ROOT / "bench" / "results")
    say(f"wrote {file}")
    leave()


@bench.command("memory")
def memory(
    out: Annotated[
        Path | None, typer.Option(help="folder for results, OUT/cpu/step_memory.json; default: bench/results")
    ] = None,
) -> None:
    """Count the memory saved for the backward of a step, by image and expression; needs no GPU."""
    import torch

    from maris_fast.bench.results import ROOT, Suite
    from maris_fast.bench.step_memory import count
    from maris_fast.train.environment import environment
    from maris_fast.train.ranks import Ranks

    here = environment(Ranks(torch.device("cpu")))
    file = Suite.now("step_memory", here, count()).save(out or ROOT / "bench" / "results")
    say(f"wrote {file}")
