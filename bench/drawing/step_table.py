"""The waterfall of a training step as a table and a bar chart."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from maris_fast.bench.drawing.gpu_caption import gpu_told
from maris_fast.bench.drawing.markdown import table
from maris_fast.bench.results import Row, Suite, named


def step_block(suites: list[Suite], pictures: dict[str, str]) -> str:
    """One table per device, with its conditions and picture; ``pictures`` are paths by suite and device."""
    parts: list[str] = []
    for suite in suites:
        device = suite.environment["device"]
        parts += [*step_table(suite), "", f"![{device}]({pictures[named(suite)]})", "", _caption(suite), ""]
        parts += [told, ""] if (told := _image_groups(suite)) else []
    return "\n".join(parts).rstrip()


def step_table(suite: Suite) -> list[str]:
    """Each row's speed, and its ratio to that of the first row and of the row it builds on."""
    head = [f"each on top of the one before ({suite.environment['device']})", "expressions a step"]
    head += ["expressions/s", "of the first", "of the one before", "waits for data"]
    head += ["TFLOP/s", "MFU", "memory"]
    lines = []
    first = before = None
    for row in suite.rows:
        if "left_out" in row:
            lines.append([row["name"], "", f"skipped: {row['left_out']}", *[""] * 6])
            continue
        rate = _rate(row)
        first, before = first or rate, before or rate
        waits = sum(row["waited"]) / sum(row["seconds"])
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f} GiB"
        lines.append(
            [
                row["name"] + ("" if row["carried_on"] else " (not in later rows)"),
                str(row["expressions_per_step"]),
                f"{rate:.1f}" if rate < 100 else f"{rate:.0f}",
                f"{rate / first:.1f}",
                f"{rate / before:.2f}",
                f"{waits:.1%}",
                *_arithmetic(row),
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


def _arithmetic(row: Row) -> tuple[str, str]:
    """TFLOP/s and MFU; empty if an earlier version did not count them, or the peak is not known."""
    if "tflops_per_s" not in row:
        return "", ""
    tflops, peak = float(median(row["tflops_per_s"])), row["peak_tflops"]
    return f"{tflops:.2g}", "" if peak is None else f"{tflops / peak:.0%}"


def _image_groups(suite: Suite) -> str | None:
    """What image groups alone are worth: in the row that adds them, and with everything else enabled."""
    rows = [row for row in suite.rows if "left_out" not in row]
    pairs = [
        (grouped, alone)
        for grouped in rows
        for alone in rows
        if grouped["expressions_per_image"] > 1 == alone["expressions_per_image"]
        and all(grouped[key] == alone[key] for key in ("source", "model", "engine", "expressions_per_step"))
    ]
    if not pairs:
        return None
    told = ", ".join(
        f"{_rate(one) / _rate(alone):.2f} times over {alone['name']!r}{_saved(one, alone)}"
        for one, alone in pairs
    )
    return (
        f"Image groups of {pairs[0][0]['expressions_per_image']}, all else being equal: {told}. Every image "
        "has as many here; where the numbers vary, groups are smaller (docs/scaling.md)."
    )


def _saved(grouped: Row, alone: Row) -> str:
    """How many times as many images, and FLOPs per expression, the ungrouped row actually had.

    Images are unknown in earlier results; FLOPs are the trained model's, so they are omitted for encoders in
    the loop.
    """
    if "images" not in alone:
        return ""
    images = f"{sum(alone['images']) / sum(grouped['images']):.1f} times as many images"
    if alone["source"] == "encoders":
        return f" ({images})"
    flops = [median(row["tflops_per_s"]) / _rate(row) for row in (alone, grouped)]
    return f" ({images}, {flops[0] / flops[1]:.2f} times the FLOPs)"


def _caption(suite: Suite) -> str:
    environment = suite.environment
    told = [f"size {suite.rows[0]['size']}", f"torch {environment['packages']['torch']}"]
    told.append(f"{environment['threads_per_rank']} of {environment['processor_cores']} cores")
    told.append(f"commit {str(suite.commit)[:12]}{', changed' if suite.dirty else ''}")
    told.append(suite.date[:10])
    peak = next((row["peak_tflops"] for row in suite.rows if row.get("peak_tflops")), None)
    told.append("MFU: this device's peak is not known" if peak is None else f"MFU of {peak:g} TFLOP/s")
    told += gpu_told(suite)
    loads = [row["load_average"] for row in suite.rows if row.get("machine_shared")]
    if loads:
        told.append(f"the machine was shared during {len(loads)} of {len(suite.rows)} rows")
    return f"({', '.join(told)}.)"
