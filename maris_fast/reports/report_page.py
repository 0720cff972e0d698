"""The page itself: one self-contained file that loads nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from maris_fast.ablation.ranking import CAPTION, base_of, has_own_rows, ranking
from maris_fast.ablation.record import ABLATION, DONE, Record
from maris_fast.errors import InputError
from maris_fast.reports import figures, paper_tables, run_tables
from maris_fast.reports.chosen_examples import RULE
from maris_fast.reports.data_uris import png_uri
from maris_fast.reports.model_pictures import Drawing, ModelPictures, draw_models
from maris_fast.reports.run_data import RunData, read_runs
from maris_fast.reports.run_tables import RunTable
from maris_fast.system.files import replace_text

SHEETS = 3
"""Most sample sheets per run: the first, one in the middle and the last."""


def write_report(folders: Sequence[Path], out: Path, drawing: Drawing | None = None) -> None:
    """Write a report of the runs in ``folders``, side by side, to ``out``; a folder may be an ablation's.

    Args:
        folders: of the runs.
        out: path of the page.
        drawing: how to run the models for attention and examples; None: skip these, which is quick.

    Raises:
        InputError: a folder is not a run's, or an ablation has no finished run.
        ConfigError: the caches do not fit the runs.
        OSError: ``out`` cannot be written.
    """
    shown, counted, ranked = _shown_counted_ranked(folders)
    runs = read_runs(shown)
    seen = None if drawing is None else draw_models(runs, drawing)
    page = render(runs, read_runs(counted), seen, ranked)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, [page])


def _shown_counted_ranked(
    folders: Sequence[Path],
) -> tuple[list[Path], list[Path], list[tuple[str, RunTable]]]:
    """Run folders to show, and all to count: for an ablation, one run is shown for all.

    Also, by name, a table of each ablation that has rows for which the paper's tables have no place.

    Raises:
        InputError: an ablation of which no run is finished.
    """
    shown: list[Path] = []
    counted: list[Path] = []
    ranked: list[tuple[str, RunTable]] = []
    for folder in folders:
        if not (folder / ABLATION).is_file():
            shown.append(folder)
            counted.append(folder)
            continue
        record = Record.read(folder)
        runs, base = record.runs, base_of(record)
        if base is None:
            raise InputError(
                f"{folder} is an ablation of which no run is finished; run the same command again"
            )
        done = [name for name, run in runs.items() if run["state"] == DONE]
        shown.append(folder / next(name for name in done if runs[name]["row"] == base))
        counted += [folder / name for name in done]
        if has_own_rows(record):
            rows = ranking(record)
            ranked.append((folder.resolve().name, RunTable(rows.head, tuple(rows.cells()))))
    return shown, counted, ranked


def render(
    runs: Sequence[RunData],
    counted: Sequence[RunData],
    seen: ModelPictures | None = None,
    ranked: Sequence[tuple[str, RunTable]] = (),
) -> str:
    """The HTML of the runs' report.

    Runs in ``counted`` fill the paper's tables; ``seen`` has the pictures of the runs' models; ``ranked`` are
    tables of whole ablations, by name.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        runs=runs,
        title=" and ".join(run.name for run in runs),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        learning=_figures(figures.LEARNING, runs),
        speed=_figures(figures.SPEED, runs),
        health=_figures(figures.ATTENTION, runs),
        scores=run_tables.scores(runs),
        ranked=ranked,
        ranked_caption=CAPTION,
        kinds=[(run, table) for run in runs if (table := run_tables.kinds(run)) is not None],
        speeds=run_tables.speed(runs),
        duration=run_tables.duration,
        differing=run_tables.differing_settings(runs),
        settings=run_tables.settings(runs),
        environment=run_tables.environment(runs),
        sheets=[(run, _sheets(run)) for run in runs if run.pictures],
        colours=figures.COLOURS,
        counted=counted,
        paper_tables=[table for table in paper_tables.paper_tables(counted) if table.filled],
        placing=paper_tables.placing(counted),
        seen=seen,
        rule=RULE,
    )


def _figures(panels: Sequence[figures.Chart], runs: Sequence[RunData]) -> list[dict[str, str]]:
    drawn = ((panel.title, figures.draw(panel, runs)) for panel in panels)
    return [{"title": title, "svg": svg} for title, svg in drawn if svg is not None]


def _sheets(run: RunData) -> list[dict[str, Any]]:
    """The sample sheets to show, the latest first, as it is the most informative."""
    last = len(run.pictures) - 1
    places = sorted({round(last * i / (SHEETS - 1)) for i in range(SHEETS)}, reverse=True)
    return [
        {
            "step": int(run.pictures[place].stem.removeprefix("step-")),
            "uri": png_uri(run.pictures[place].read_bytes()),
        }
        for place in places
    ]
