"""Draws the figures of the README and docs from bench/results/ alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from maris_fast.ablation.record import Record
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
from maris_fast.bench.drawing.suites import plot as plot_suite
from maris_fast.bench.drawing.suites import suite_block
from maris_fast.bench.drawing.variants import variants_block
from maris_fast.bench.keeping import ABLATIONS, OF_SEED, OWN_ROWS, QUICKSTART
from maris_fast.bench.reading_names import BUSY
from maris_fast.bench.results import ROOT, SUITES, Suite, device_folder, load, named, read_json

README, ABLATIONS_PAGE, TRAINING = "README.md", "docs/ablations.md", "docs/training.md"
QUICKSTART_PAGE, SCORING = "docs/quickstart.md", "docs/scoring.md"
CACHE, STREAM = "data_shards/cache/README.md", "data_shards/stream/README.md"
QUICKSTART_VARIANTS, QUICKSTART_BF16 = "quickstart_variants", "quickstart_bf16"
OF_PRESETS = ("quickstart", "eight_heads", "pooled_keys")
"""Rows of ``quickstart_variants`` that show what ``presets/fast.yaml`` costs."""
TABLES: tuple[tuple[str, str, str, Callable[[Suite], str]], ...] = (
    ("step_memory", TRAINING, "step-memory", step_memory_block),
    ("equation_readings", ABLATIONS_PAGE, "readings", readings_block),
    ("reading", STREAM, "reading", reading_block),
    ("far_reading", STREAM, "far-reading", far_reading_block),
    ("many_images", "docs/scaling.md", "many-images", many_images_block),
    ("evaluation", SCORING, "evaluation", evaluation_block),
    ("interval_coverage", SCORING, "interval-coverage", interval_coverage_block),
    ("look_alikes", "docs/datasets.md", "look-alikes", look_alikes_block),
    ("writing", CACHE, "writing", writing_block),
    ("stored_types", CACHE, "stored-types", stored_types_block),
)
"""Suites drawn as a table of one device: suite, document, block, drawing."""


class Block(NamedTuple):
    """A drawn block of a document, whose path is relative to the checkout."""

    document: str
    name: str
    content: str


def draw(root: Path = ROOT) -> list[Path]:
    """Rewrite the blocks of README.md and the documents, and the plots; return the files written.

    Raises:
        InputError: results that can't be read, or a file without the block that should hold them.
    """
    results, docs = root / "bench" / "results", root / "docs"
    plots: list[Path] = []
    # All results are read before a document is written: if one cannot be, the documents stay unchanged.
    blocks = [*_quickstart(results), *_ablations(results), *_tables(results), *_plotted(results, docs, plots)]
    for block in blocks:
        replace_block(root / block.document, block.name, block.content)
    return [*plots, *dict.fromkeys(root / block.document for block in blocks)]


def _quickstart(results: Path) -> Iterator[Block]:
    """The quickstart's scores, and its variants if they were measured."""
    quickstart = read_json(results / "cpu" / QUICKSTART)
    files = (results / "cpu").glob(OF_SEED.format("*"))
    others = {seed: read_json(file) for seed, file in sorted((_seed_of(file), file) for file in files)}
    yield Block(README, "quickstart", quickstart_block(quickstart, others, "docs/quickstart.png"))
    yield Block(QUICKSTART_PAGE, "quickstart", quickstart_block(quickstart, others, "quickstart.png"))
    for file in sorted(results.glob(f"*/{OWN_ROWS.format(QUICKSTART_VARIANTS)}"))[:1]:
        variants = Record.read(file.parent, file.name)
        yield Block(QUICKSTART_PAGE, "quickstart-variants", variants_block(variants))
        yield Block(TRAINING, "presets", variants_block(variants, OF_PRESETS))
        if (file.parent / OWN_ROWS.format(QUICKSTART_BF16)).is_file():
            on_bf16 = Record.read(file.parent, OWN_ROWS.format(QUICKSTART_BF16))
            yield Block(CACHE, "stored-scores", stored_scores_block(variants, on_bf16))


def _ablations(results: Path) -> Iterator[Block]:
    if files := sorted(results.glob(f"*/{ABLATIONS}")):
        records = [Record.read(file.parent, ABLATIONS) for file in files]
        yield Block(ABLATIONS_PAGE, "ablations", ablations_block(records))


def _tables(results: Path) -> Iterator[Block]:
    for name, document, block, drawing in TABLES:
        for suite in measured(results, [name])[:1]:
            yield Block(document, block, drawing(suite))
    for suite in measured(results, ["reading"])[:1]:
        if any(row.get("situation") == BUSY for row in suite.rows):
            yield Block(README, "nearest-peer", nearest_peer_block(suite))


def _plotted(results: Path, docs: Path, plots: list[Path]) -> Iterator[Block]:
    """Blocks with plots, which are written to ``docs`` and added to ``plots``."""

    def pictured(suites: list[Suite], plot: Callable[[Suite, Path], None]) -> dict[str, str]:
        """Draw the suites' plots; return their file names by suite and device."""
        files = [docs / f"{suite.suite}-{device_folder(suite.environment)}.png" for suite in suites]
        for suite, file in zip(suites, files, strict=True):
            plot(suite, file)
        plots.extend(files)
        return {named(suite): file.name for suite, file in zip(suites, files, strict=True)}

    if suites := measured(results):
        yield Block("docs/benchmarks.md", "benchmarks", suite_block(suites, pictured(suites, plot_suite)))
    if steps := measured(results, ["step"]):
        yield Block(TRAINING, "step", step_table.step_block(steps, pictured(steps, step_table.plot)))
    for suite in measured(results, ["equation_readings"])[:1]:
        plots.append(docs / "equation_readings.png")
        plot_readings(suite, plots[-1])


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
