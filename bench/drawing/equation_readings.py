"""The study of the readings of eqs. 3-5 as tables and a plot."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from maris_fast.bench.drawing.markdown import commits_told, table
from maris_fast.bench.results import Row, Suite

WORDS = {
    "language_norm": {"columns": "column means"},
    "empty_rows": {"all": "no empty rows"},
    "score_scale": {"channels": "S / √C"},
    "visual_center": {"pixels": "centered"},
}
GATES = {"relevant": "gate", "all": "no gate", "irrelevant": "gate of eq. 4 as printed"}
AS_READ = "gate, as printed"
"""The row that all others are compared with: eqs. 3-5 as printed, with the gate that the text describes."""
HEAD = ("", "oIoU", "minus gate as printed", "seeds", "pairs kept", "pixels with none", "cosine of words")


def readings_block(suite: Suite) -> str:
    """A table for each part of the study, its rows sorted by mean oIoU, and the conditions."""
    parts: dict[str, list[Row]] = {}
    for row in suite.rows:
        parts.setdefault(row["part"], []).append(row)
    lines = []
    for name, rows in parts.items():
        lines += [f"**{_title(name, rows)}**", "", *table(HEAD, _cells(rows)), ""]
    made = suite.environment
    told = [f"{made['device']}, {made['processor_cores']} cores", f"torch {made['packages']['torch']}"]
    told += [commits_told(row["commit"] for row in suite.rows), suite.date[:10]]
    return "\n".join([*lines, f"({'; '.join(told)}.)"])


def named(row: Row) -> str:
    """A row's name by its settings: ``gate, column means, S / √C``; if not eqs. 3-5, the paper's name."""
    reading = row["reading"]
    if reading["ma_blocks"] == 0:
        return "without MA"
    if reading["fusion"] != "mutual":
        return "SDF (VLT)" if reading["fusion"] == "spatial_dynamic" else str(reading["fusion"])
    # Rows from before a setting existed have what it does by default.
    said = [words[reading[name]] for name, words in WORDS.items() if reading.get(name) in words]
    return ", ".join([GATES[reading["keep"]], *(said or ["as printed"])])


def by_row(rows: list[Row]) -> dict[str, list[Row]]:
    """The runs of each row by its name, the row with the highest mean oIoU first."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(named(row), []).append(row)
    return dict(sorted(grouped.items(), key=lambda item: -mean(run["scores"]["oIoU"] for run in item[1])))


def plot(suite: Suite, file: Path) -> None:
    """Plot the loss over steps at the smallest grid and, with several grids, oIoU over their tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sized = [row for row in suite.rows if "-" not in row["part"]]  # parts that differ only in the grid
    tokens = sorted({row["tokens"] for row in sized})
    several = len(tokens) > 1
    figure = Figure(figsize=(14 if several else 9, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    for place, (label, runs) in enumerate(by_row(sized).items()):
        look = {"color": f"C{place % 10}", "linestyle": "-" if place < 10 else "--"}
        curves = [{step: loss for step, loss in run["loss"]} for run in runs if run["tokens"] == tokens[0]]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        losses = [mean(curve[step] for curve in curves) for step in steps]
        panels[0].plot(steps, losses, label=label, **look)
        if several:
            scores = [[run["scores"]["oIoU"] for run in runs if run["tokens"] == size] for size in tokens]
            seen = [(size, values) for size, values in zip(tokens, scores, strict=True) if values]
            panels[1].errorbar(
                [size for size, _ in seen],
                [mean(values) for _, values in seen],
                yerr=[stdev(values) if len(values) > 1 else 0.0 for _, values in seen],
                marker="o",
                capsize=2,
                **look,
            )
    panels[0].set(xlabel="step", ylabel="training loss, mean over seeds", title=f"{tokens[0]} visual tokens")
    figure.legend(fontsize=8, loc="outside right upper")
    if several:
        panels[1].set(
            xscale="log", xlabel="visual tokens (L_v)", ylabel="oIoU, mean and deviation over seeds"
        )
        panels[1].set_xticks(tokens, map(str, tokens))
        panels[1].minorticks_off()
    for panel in panels:
        panel.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    # No date in the picture: the same results give the same file.
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _title(name: str, rows: list[Row]) -> str:
    steps = sorted({row["steps"] for row in rows})
    return f"{name}: {rows[0]['tokens']:,} tokens, {rows[0]['encoders']} encoders, {steps[-1]:,} steps"


def _cells(rows: list[Row]) -> list[tuple[str, ...]]:
    base = {row["seed"]: row["scores"]["oIoU"] for row in rows if named(row) == AS_READ}
    cells = []
    for name, runs in by_row(rows).items():
        differences = [run["scores"]["oIoU"] - base[run["seed"]] for run in runs if run["seed"] in base]
        away = "–" if name == AS_READ else _shown(differences, signed=True)
        cells.append(
            (
                name,
                _shown([run["scores"]["oIoU"] for run in runs]),
                away,
                str(len(runs)),
                *(_blocks(runs, key) for key in ("kept_pairs", "empty_pixels", "cosine_after")),
            )
        )
    return cells


def _shown(values: list[float], signed: bool = False) -> str:
    """Mean and sample standard deviation in percentage points; a dash if there are no values."""
    if not values:
        return "–"
    middle = f"{100 * mean(values):{'+' if signed else ''}.1f}"
    return middle if len(values) < 2 else f"{middle} ± {100 * stdev(values):.1f}"


def _blocks(runs: list[Row], key: str) -> str:
    """Mean over runs for each block of mutual-aware attention at the end of training."""
    logged: list[list[dict[str, Any]]] = [run["attention"] for run in runs if run["attention"]]
    if not logged:
        return "–"
    return " / ".join(f"{mean(run[block][key] for run in logged):.2f}" for block in range(len(logged[0])))
