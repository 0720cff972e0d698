"""The waterfall of a training step: a table, and bars."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from maris_fast.bench.drawing.markdown import table
from maris_fast.bench.results import Row, Suite


def step_block(suites: list[Suite], pictures: dict[str, str]) -> str:
    """A table a device, with its conditions and picture; ``pictures`` are paths by device."""
    parts: list[str] = []
    for suite in suites:
        device = suite.environment["device"]
        parts += [*step_table(suite), "", f"![{device}]({pictures[device]})", "", _caption(suite), ""]
    return "\n".join(parts).rstrip()


def step_table(suite: Suite) -> list[str]:
    """Each row's speed, and how many times that of the first row and of the one that it stands on."""
    head = [f"each on top of the one before ({suite.environment['device']})", "expressions a step"]
    head += ["expressions/s", "of the first", "of the one before", "waits for data", "memory"]
    lines = []
    first = before = None
    for row in suite.rows:
        if "left_out" in row:
            lines.append([row["name"], "", f"left out: {row['left_out']}", "", "", "", ""])
            continue
        rate = _rate(row)
        first, before = first or rate, before or rate
        waits = sum(row["waited"]) / sum(row["seconds"])
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f} GiB"
        lines.append(
            [
                row["name"] + ("" if row["carried_on"] else " (not carried on)"),
                str(row["expressions_per_step"]),
                f"{rate:.1f}" if rate < 100 else f"{rate:.0f}",
                f"{rate / first:.1f}",
                f"{rate / before:.2f}",
                f"{waits:.1%}",
                memory,
            ]
        )
        before = rate if row["carried_on"] else before
    return table(head, lines)


def plot(suite: Suite, file: Path) -> None:
    """Medians as bars on a log scale, the first row on top; whiskers to the fastest and slowest round."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in suite.rows if "left_out" not in row]
    figure = Figure(figsize=(9, 0.8 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    medians = [_rate(row) for row in rows]
    below = [rate - min(row["expressions_per_s"]) for rate, row in zip(medians, rows, strict=True)]
    above = [max(row["expressions_per_s"]) - rate for rate, row in zip(medians, rows, strict=True)]
    bars = axes.barh(range(len(rows)), medians, xerr=(below, above), capsize=2)
    axes.bar_label(bars, [f" {rate / medians[0]:.1f}×" for rate in medians], padding=8)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("expressions a second, median round; whiskers: slowest and fastest")
    axes.set_title(f"A training step on {suite.environment['device']}, one technique a row")
    axes.grid(axis="x", alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _rate(row: Row) -> float:
    return float(median(row["expressions_per_s"]))


def _caption(suite: Suite) -> str:
    environment = suite.environment
    told = [f"size {suite.rows[0]['size']}", f"torch {environment['packages']['torch']}"]
    told.append(f"{environment['threads_per_rank']} of {environment['processor_cores']} cores")
    told.append(f"commit {str(suite.commit)[:12]}{', changed' if suite.dirty else ''}")
    told.append(suite.date[:10])
    loads = [row["load_average"] for row in suite.rows if row.get("machine_shared")]
    if loads:
        told.append(f"the machine was shared during {len(loads)} of {len(suite.rows)} rows")
    return f"({', '.join(told)}.)"
