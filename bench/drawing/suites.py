"""The microbenchmarks as tables and plots: one row per shape and part, one column per implementation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maris_fast.bench.drawing.gpu_caption import gpu_told
from maris_fast.bench.drawing.markdown import table
from maris_fast.bench.results import Row, Suite, named

# The column of our kernels, and what they are compared with in the same run, by operation.
OURS = "triton"
AGAINST = {"mutual_attention": ("eager-autocast", "compiled"), "cross_attention": ("projected", "folded")}
MEDIAN = "0.5"
UNTIMED = (
    "The Triton kernels have been compiled ahead of time for sm_80 and sm_90 and interpreted on a CPU; "
    "**they have not been timed**."
)


def suite_block(suites: list[Suite], pictures: dict[str, str]) -> str:
    """One table per suite, its conditions and a link to its plot; ``pictures``: paths by suite and device."""
    parts = []
    for suite in suites:
        parts += [*suite_table(suite), "", _caption(suite, pictures[named(suite)]), ""]
    fused = [suite for suite in suites if suite.suite in AGAINST]
    if fused and not any(row["impl"] == OURS for suite in fused for row in suite.rows):
        parts.append(UNTIMED)
    return "\n".join(parts).rstrip()


def suite_table(suite: Suite) -> list[str]:
    """Median times; if ours was timed, its bandwidth, its share of a copy's and the ratios to others."""
    impls = list(dict.fromkeys(row["impl"] for row in suite.rows))
    cases = cases_of(suite)
    timed = OURS in impls
    rows = []
    for (shape, part), case in cases.items():
        line = [_case(shape, part), *(_ms(case.get(impl)) for impl in impls)]
        rows.append(line + (_ours(case, AGAINST[suite.suite]) if timed else []))
    title = f"{suite.suite}, {suite.environment['device']}, ms"
    more = (
        ["GB/s", "of a copy", *(f"{name} / {OURS}" for name in AGAINST[suite.suite]), "peak memory"]
        if timed
        else []
    )
    lines = table([title, *(_column(suite, impl) for impl in impls), *more], rows)
    saved = {
        shape: {impl: row for impl, row in case.items() if "saved_bytes_a_pair" in row}
        for (shape, part), case in cases.items()
        if part == "both"
    }
    if not any(saved.values()):
        return lines
    keeping = [impl for impl in impls if any(impl in case for case in saved.values())]
    kept = [[shape, *(_saved(case.get(impl)) for impl in keeping)] for shape, case in saved.items()]
    return [*lines, "", *table(["saved for the backward, MiB a pair", *keeping], kept)]


def cases_of(suite: Suite) -> dict[tuple[str, str], dict[str, Row]]:
    """{(shape, part): {implementation: row}}, in the order measured; a suite need not have parts."""
    cases: dict[tuple[str, str], dict[str, Row]] = {}
    for shape in dict.fromkeys(row["shape"] for row in suite.rows):
        for row in suite.rows:
            if row["shape"] == shape:
                cases.setdefault((shape, row.get("part", "")), {})[row["impl"]] = row
    return cases


def plot(suite: Suite, file: Path) -> None:
    """Plot median times as bars with their outer quantiles, one group per shape and part."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases = cases_of(suite)
    impls = list(dict.fromkeys(row["impl"] for row in suite.rows))
    figure = Figure(figsize=(10, 1.2 + 0.16 * len(cases) * (len(impls) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, impl in enumerate(impls):
        places, medians, below, above = [], [], [], []
        for group, case in enumerate(cases.values()):
            if impl not in case:
                continue
            ms = case[impl]["ms"]
            places.append(group * (len(impls) + 1) + number)
            medians.append(ms[MEDIAN])
            below.append(ms[MEDIAN] - ms.get("0.1", ms["0.25"]))
            above.append(ms.get("0.9", ms["0.75"]) - ms[MEDIAN])
        axes.barh(places, medians, xerr=(below, above), label=_column(suite, impl), height=0.9, capsize=2)
    middle = (len(impls) - 1) / 2
    ticks = [group * (len(impls) + 1) + middle for group in range(len(cases))]
    axes.set_yticks(ticks, [_case(shape, part) for shape, part in cases])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms, median; whiskers to the outermost quantiles measured")
    axes.set_title(f"{suite.suite} on {suite.environment['device']}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    # No date in the picture: the same results give the same file.
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _case(shape: str, part: str) -> str:
    return f"{shape}: {part}" if part else shape


def _column(suite: Suite, impl: str) -> str:
    """The implementation, and what it computes if that is not the whole operation."""
    computes = {row["computes"] for row in suite.rows if row["impl"] == impl and "computes" in row}
    partial = [what for what in computes if what.endswith("only")]
    return f"{impl} ({partial[0]})" if partial else impl


def _ms(row: Row | None) -> str:
    return "" if row is None else f"{row['ms'][MEDIAN]:.3g}"


def _saved(row: Row | None) -> str:
    return "" if row is None else f"{row['saved_bytes_a_pair'] / 2**20:.2f}"


def _ours(case: dict[str, Row], against: Sequence[str]) -> list[str]:
    ours = case.get(OURS)
    if ours is None:
        return [""] * (3 + len(against))
    own = ours["ms"][MEDIAN]
    ratios = [f"{case[name]['ms'][MEDIAN] / own:.2f}" if name in case else "" for name in against]
    peak = ours.get("peak_bytes_over_inputs")
    memory = "" if peak is None else f"{peak / 2**20:.0f} MiB"
    return [f"{ours['GBps']:.0f}", f"{ours['share_of_copy']:.0%}", *ratios, memory]


def _caption(suite: Suite, picture: str) -> str:
    environment = suite.environment
    packages = {name: environment["packages"].get(name) for name in ("torch", "triton", "xformers")}
    told = [f"{name} {version}" for name, version in packages.items() if version]
    told.append(f"commit {str(suite.commit)[:12]}{', changed' if suite.dirty else ''}")
    told.append(suite.date[:10])
    if any("timer" in row and row["timer"] == "wall" for row in suite.rows):
        told.append(
            f"{environment['threads_per_rank']} of {environment['processor_cores']} cores, wall clock"
        )
    told += gpu_told(suite)
    shared = [row["load_average"] for row in suite.rows if row.get("machine_shared")]
    if shared:
        told.append(
            f"the machine was shared during {len(shared)} of {len(suite.rows)} rows "
            f"(load average up to {max(shared):.1f})"
        )
    return f"([Plot]({picture}); {', '.join(told)}.)"
