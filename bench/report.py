"""Figures of the README and docs, drawn from bench/results/ alone; and results that are kept there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from maris_fast.ablation.record import ABLATION, Record
from maris_fast.bench.drawing import step_table
from maris_fast.bench.drawing.equation_readings import plot as plot_readings
from maris_fast.bench.drawing.equation_readings import readings_block
from maris_fast.bench.drawing.markdown import replace_block
from maris_fast.bench.drawing.plain_tables import (
    ablations_block,
    quickstart_block,
    reading_block,
    step_memory_block,
    writing_block,
)
from maris_fast.bench.drawing.suites import plot, suite_block
from maris_fast.bench.results import ROOT, SUITES, Suite, device_folder, load, read_json
from maris_fast.errors import InputError

ABLATIONS = "ablations.json"


def keep(folder: Path, root: Path = ROOT) -> Path:
    """Copies an ablation, or a finished quickstart's scores and pictures, with where and when they were made.

    Raises:
        InputError: neither of them.
    """
    if (folder / ABLATION).is_file():
        return _keep_ablation(folder, root)
    environment = read_json(folder / "training" / "environment.json")
    seconds, scores = read_json(folder / "seconds.json"), read_json(folder / "scores.json")
    rows = [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment,
        "seconds": seconds,
        "scores": scores,
        "training": [
            {key: row[key] for key in ("step", "loss", "expressions_per_s")}
            for row in rows
            if row["kind"] == "train"
        ],
    }
    out = root / "bench" / "results" / device_folder(environment) / "quickstart.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    shutil.copyfile(folder / "predictions.png", root / "docs" / "quickstart.png")
    return out


def _keep_ablation(folder: Path, root: Path) -> Path:
    record = Record.read(folder)
    failed = record.failed()
    if failed or not record.environments:
        raise InputError(
            f"{folder} has {len(failed)} failed and {len(record.runs) - len(failed)} finished runs; keep an "
            "ablation whose runs are all done: run its command again"
        )
    out = root / "bench" / "results" / device_folder(record.environments[0]) / ABLATIONS
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / ABLATION, out)
    return out


def draw(root: Path = ROOT) -> list[Path]:
    """Rewrites the blocks of README.md and the documents, and the plots; the files written.

    Raises:
        InputError: results that can't be read, or a file without the block that should hold them.
    """
    results, readme = root / "bench" / "results", root / "README.md"
    guide = root / "docs" / "quickstart.md"
    quickstart = read_json(results / "cpu" / "quickstart.json")
    suites = measured(results)
    replace_block(readme, "quickstart", quickstart_block(quickstart, "docs/quickstart.png"))
    replace_block(guide, "quickstart", quickstart_block(quickstart, "quickstart.png"))
    written = [readme, guide]
    if suites:
        benchmarks = root / "docs" / "benchmarks.md"
        pictures = {}
        for suite in suites:
            device = device_folder(suite.environment)
            file = root / "docs" / f"{suite.suite}-{device}.png"
            plot(suite, file)
            pictures[f"{suite.suite} {suite.environment['device']}"] = file.name
            written.append(file)
        replace_block(benchmarks, "benchmarks", suite_block(suites, pictures))
        written.append(benchmarks)
    steps = measured(results, ["step"])
    if steps:
        pictures = {}
        for suite in steps:
            file = root / "docs" / f"step-{device_folder(suite.environment)}.png"
            step_table.plot(suite, file)
            pictures[suite.environment["device"]] = file.name
            written.append(file)
        training = root / "docs" / "training.md"
        replace_block(training, "step", step_table.step_block(steps, pictures))
        written.append(training)
    kept = measured(results, ["step_memory"])
    if kept:
        replace_block(root / "docs" / "training.md", "step-memory", step_memory_block(kept[0]))
        written.append(root / "docs" / "training.md")
    ablations = [file.parent for file in sorted(results.glob(f"*/{ABLATIONS}"))]
    if ablations:
        records = [Record.read(folder, ABLATIONS) for folder in ablations]
        replace_block(root / "docs" / "ablations.md", "ablations", ablations_block(records))
        written.append(root / "docs" / "ablations.md")
    for suite in measured(results, ["equation_readings"])[:1]:
        replace_block(root / "docs" / "ablations.md", "readings", readings_block(suite))
        plot_readings(suite, root / "docs" / "equation_readings.png")
        written += [root / "docs" / "ablations.md", root / "docs" / "equation_readings.png"]
    for suite in measured(results, ["reading"])[:1]:
        replace_block(root / "data_shards" / "stream" / "README.md", "reading", reading_block(suite))
        written.append(root / "data_shards" / "stream" / "README.md")
    for suite in measured(results, ["writing"])[:1]:
        replace_block(root / "data_shards" / "cache" / "README.md", "writing", writing_block(suite))
        written.append(root / "data_shards" / "cache" / "README.md")
    return written


def measured(results: Path, names: Sequence[str] = SUITES) -> list[Suite]:
    """Results of the suites named, GPUs before the CPU."""
    folders = sorted((p for p in results.iterdir() if p.is_dir()), key=lambda p: (p.name == "cpu", p.name))
    return [
        load(folder / f"{suite}.json")
        for folder in folders
        for suite in names
        if (folder / f"{suite}.json").is_file()
    ]
