"""Draws the figures of the README and docs from bench/results/ alone, and keeps results there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from maris_fast.ablation.paper import VARIANTS
from maris_fast.ablation.record import ABLATION, Record
from maris_fast.bench.drawing import step_table
from maris_fast.bench.drawing.equation_readings import plot as plot_readings
from maris_fast.bench.drawing.equation_readings import readings_block
from maris_fast.bench.drawing.markdown import replace_block
from maris_fast.bench.drawing.plain_tables import (
    ablations_block,
    evaluation_block,
    far_reading_block,
    interval_coverage_block,
    look_alikes_block,
    many_images_block,
    nearest_peer_block,
    quickstart_block,
    reading_block,
    step_memory_block,
    writing_block,
)
from maris_fast.bench.drawing.stored_types import stored_scores_block, stored_types_block
from maris_fast.bench.drawing.suites import plot, suite_block
from maris_fast.bench.drawing.variants import variants_block
from maris_fast.bench.reading_names import BUSY
from maris_fast.bench.results import ROOT, SUITES, Suite, device_folder, load, named, read_json
from maris_fast.config.plain_yaml import read_yaml
from maris_fast.errors import InputError
from maris_fast.train.run_files import SETTINGS

ABLATIONS = "ablations.json"
"""An ablation with rows of the paper."""
OWN_ROWS = "ablation-{}.json"
"""An ablation with other rows only, by the name of its folder."""
QUICKSTART_VARIANTS, QUICKSTART_BF16 = "quickstart_variants", "quickstart_bf16"
OF_PRESETS = ("quickstart", "eight_heads", "pooled_keys")
"""Rows of ``quickstart_variants`` that show what ``presets/fast.yaml`` costs."""
QUICKSTART, OF_SEED = "quickstart.json", "quickstart-seed-{}.json"
"""The quickstart with seed 0, and with another seed."""


def keep(folder: Path, root: Path = ROOT) -> Path:
    """Copy an ablation, or a finished quickstart's scores and pictures with their environment and date.

    An ablation with rows of the paper replaces the last one; one without is kept next to it, named after its
    folder. A quickstart with a ``run.seed`` other than 0 is kept next to that of seed 0, without pictures.

    Raises:
        InputError: ``folder`` holds neither of them, or an ablation with runs that are not finished.
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
    seed = read_yaml(folder / "training" / SETTINGS)["run"]["seed"]
    out = root / "bench" / "results" / device_folder(environment)
    out /= OF_SEED.format(seed) if seed else QUICKSTART
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    if not seed:
        shutil.copyfile(folder / "predictions.png", root / "docs" / "quickstart.png")
    return out


def _keep_ablation(folder: Path, root: Path) -> Path:
    record = Record.read(folder)
    failed = record.failed()
    if failed or not record.environments:
        raise InputError(
            f"{folder} has {len(failed)} failed and {len(record.runs) - len(failed)} finished runs; all must "
            "be finished: run its command again"
        )
    name = ABLATIONS if record.variants.keys() & VARIANTS.keys() else OWN_ROWS.format(folder.resolve().name)
    out = root / "bench" / "results" / device_folder(record.environments[0]) / name
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / ABLATION, out)
    return out


def draw(root: Path = ROOT) -> list[Path]:
    """Rewrite the blocks of README.md and the documents, and the plots; return the files written.

    Raises:
        InputError: results that can't be read, or a file without the block that should hold them.
    """
    results, docs = root / "bench" / "results", root / "docs"
    cache_readme = root / "data_shards" / "cache" / "README.md"
    written: list[Path] = []
    blocks: list[tuple[Path, str, str]] = []

    def put(file: Path, block: str, content: str) -> None:
        blocks.append((file, block, content))

    def pictured(suites: list[Suite], draw_one: Callable[[Suite, Path], None]) -> dict[str, str]:
        """Draw the suites' plots; return their file names by suite and device."""
        names = {}
        for suite in suites:
            file = docs / f"{suite.suite}-{device_folder(suite.environment)}.png"
            draw_one(suite, file)
            written.append(file)
            names[named(suite)] = file.name
        return names

    quickstart = read_json(results / "cpu" / QUICKSTART)
    files = (results / "cpu").glob(OF_SEED.format("*"))
    others = {seed: read_json(file) for seed, file in sorted((_seed_of(file), file) for file in files)}
    put(root / "README.md", "quickstart", quickstart_block(quickstart, others, "docs/quickstart.png"))
    put(docs / "quickstart.md", "quickstart", quickstart_block(quickstart, others, "quickstart.png"))
    if suites := measured(results):
        put(docs / "benchmarks.md", "benchmarks", suite_block(suites, pictured(suites, plot)))
    if steps := measured(results, ["step"]):
        block = step_table.step_block(steps, pictured(steps, step_table.plot))
        put(docs / "training.md", "step", block)
    for suite in measured(results, ["step_memory"])[:1]:
        put(docs / "training.md", "step-memory", step_memory_block(suite))
    if ablations := sorted(results.glob(f"*/{ABLATIONS}")):
        records = [Record.read(file.parent, ABLATIONS) for file in ablations]
        put(docs / "ablations.md", "ablations", ablations_block(records))
    for file in sorted(results.glob(f"*/{OWN_ROWS.format(QUICKSTART_VARIANTS)}"))[:1]:
        variants = Record.read(file.parent, file.name)
        put(docs / "quickstart.md", "quickstart-variants", variants_block(variants))
        put(docs / "training.md", "presets", variants_block(variants, OF_PRESETS))
        if (file.parent / OWN_ROWS.format(QUICKSTART_BF16)).is_file():
            on_bf16 = Record.read(file.parent, OWN_ROWS.format(QUICKSTART_BF16))
            put(cache_readme, "stored-scores", stored_scores_block(variants, on_bf16))
    for suite in measured(results, ["equation_readings"])[:1]:
        put(docs / "ablations.md", "readings", readings_block(suite))
        plot_readings(suite, docs / "equation_readings.png")
        written.append(docs / "equation_readings.png")
    for suite in measured(results, ["reading"])[:1]:
        put(root / "data_shards" / "stream" / "README.md", "reading", reading_block(suite))
        if any(row.get("situation") == BUSY for row in suite.rows):
            put(root / "README.md", "nearest-peer", nearest_peer_block(suite))
    for suite in measured(results, ["far_reading"])[:1]:
        put(root / "data_shards" / "stream" / "README.md", "far-reading", far_reading_block(suite))
    for suite in measured(results, ["many_images"])[:1]:
        put(docs / "scaling.md", "many-images", many_images_block(suite))
    for suite in measured(results, ["evaluation"])[:1]:
        put(docs / "scoring.md", "evaluation", evaluation_block(suite))
    for suite in measured(results, ["interval_coverage"])[:1]:
        put(docs / "scoring.md", "interval-coverage", interval_coverage_block(suite))
    for suite in measured(results, ["look_alikes"])[:1]:
        put(docs / "datasets.md", "look-alikes", look_alikes_block(suite))
    for suite in measured(results, ["writing"])[:1]:
        put(cache_readme, "writing", writing_block(suite))
    for suite in measured(results, ["stored_types"])[:1]:
        put(cache_readme, "stored-types", stored_types_block(suite))
    # Only once all results are read: if one cannot be, the documents stay unchanged.
    for file, block, content in blocks:
        replace_block(file, block, content)
    return [*written, *dict.fromkeys(file for file, _, _ in blocks)]


def _seed_of(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def measured(results: Path, names: Sequence[str] = SUITES) -> list[Suite]:
    """Results of the named suites, GPUs before the CPU."""
    folders = sorted((p for p in results.iterdir() if p.is_dir()), key=lambda p: (p.name == "cpu", p.name))
    return [
        load(folder / f"{suite}.json")
        for folder in folders
        for suite in names
        if (folder / f"{suite}.json").is_file()
    ]
