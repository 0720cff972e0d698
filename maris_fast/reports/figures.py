"""Curves of runs as SVG to embed in a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from maris_fast.reports.run_data import LogRecord, RunData

COLOURS = ("#2563eb", "#db2777", "#059669", "#d97706", "#7c3aed", "#475569")
MOST_POINTS = 240
"""Most points of a curve; a longer one is drawn as means, with the range of values behind."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of runs are plain text
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#64748b",
    "ytick.color": "#64748b",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}


@dataclass(frozen=True)
class Curve:
    """A value in a run's records; ``of`` says which records."""

    name: str
    label: str
    scale: float = 1.0
    of: Literal["steps", "evaluations", "attention"] = "steps"


@dataclass(frozen=True)
class Chart:
    """One small figure: all curves of a single run, or the first curve of each of several."""

    title: str
    curves: tuple[Curve, ...]
    log: bool = False
    """Whether the axis is logarithmic; else it begins at 0."""


LEARNING = (
    Chart("Loss", (Curve("loss", "total"), Curve("dice", "dice"), Curve("focal", "focal"))),
    Chart("oIoU", (Curve("oIoU", "validation", of="evaluations"), Curve("oIoU", "training"))),
    Chart("Gradient norm before clipping", (Curve("gradient_norm", "norm"),), log=True),
    Chart("Learning rate", (Curve("lr", "lr"),)),
)
SPEED = (
    Chart("Expressions a second", (Curve("expressions_per_s", "expressions"),)),
    Chart("Waiting for data, % of the time", (Curve("data_wait_share", "wait", 100),)),
    Chart("Peak memory, GiB", (Curve("memory_mb", "memory", 1 / 1024),)),
    Chart("MFU, % of the peak", (Curve("mfu", "MFU", 100),)),
)


def _of_blocks(name: str, scale: float = 1.0) -> tuple[Curve, ...]:
    return tuple(
        Curve(f"block_{place}/{name}", f"block {place}", scale, of="attention")
        for place in range(1, len(COLOURS) + 1)
    )


ATTENTION = (
    Chart("Pairs that eq. 4 keeps, %", _of_blocks("kept_pairs", 100)),
    Chart("Pixels that keep no word, %", _of_blocks("empty_pixels", 100)),
    Chart("Words that no pixel keeps, %", _of_blocks("empty_words", 100)),
    Chart("Mean |S|", _of_blocks("score")),
    Chart("Length of what words gather, over Z_l's", _of_blocks("gathered"), log=True),
    Chart("Cosine between different words, before a block", _of_blocks("cosine_before")),
    Chart("Cosine between different words, after a block", _of_blocks("cosine_after")),
)


def draw(panel: Chart, runs: Sequence[RunData]) -> str | None:
    """The panel as ``<svg>``; None where no run has a value for it."""
    # With the salt, ids of markers and clip paths, which must be unique in a page, differ between figures.
    with rc_context({**STYLE, "svg.hashsalt": panel.title}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        lines = (
            [(runs[0], curve, curve.label) for curve in panel.curves]
            if len(runs) == 1
            else [(run, panel.curves[0], run.name) for run in runs]
        )
        drawn = [
            _draw_curve(axes, run, curve, label, COLOURS[place % len(COLOURS)])
            for place, (run, curve, label) in enumerate(lines)
        ]
        if not any(drawn):
            return None
        _dress(axes, panel)
        return _svg(figure)


def _draw_curve(axes: Axes, run: RunData, curve: Curve, label: str, colour: str) -> bool:
    """Draw the curve; False if the run has no such value."""
    points = _points(getattr(run, curve.of), curve)
    if not len(points):
        return False
    steps, low, mean, high = _thinned(points)
    axes.plot(
        steps,
        mean,
        color=colour,
        marker="o" if curve.of == "evaluations" or len(steps) == 1 else None,
        markersize=3.5,
        label=label,
    )
    if len(points) > MOST_POINTS:
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    return True


def _points(records: Sequence[LogRecord], curve: Curve) -> NDArray[np.float64]:
    """[n, 2], steps and values."""
    found = [(one["step"], curve.scale * one[curve.name]) for one in records if curve.name in one]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _thinned(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Steps, and lowest, mean and highest value, of at most ``MOST_POINTS`` groups of neighbours."""
    groups = np.array_split(points, min(len(points), MOST_POINTS))
    rows = [(g[:, 0].mean(), g[:, 1].min(), g[:, 1].mean(), g[:, 1].max()) for g in groups]
    return tuple(np.array(rows).T)


def _dress(axes: Axes, panel: Chart) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color="#0f172a")
    axes.set_xlabel("step")
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, max(1.08 * axes.dataLim.ymax, 0) or 1)
    if len(axes.lines) > 1:
        axes.legend(fontsize=8, labelcolor="#334155")


def _svg(figure: Figure) -> str:
    """The SVG without what only a separate file needs: prologue, metadata, namespace declarations."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    # Only ids of markers and clip paths are referenced; the others are the same in all figures.
    text = re.sub(
        r' id="(?:figure|axes|matplotlib|patch|text|line2d|xtick|ytick|legend|Fill)[^"]*"', "", text
    )
    return text
