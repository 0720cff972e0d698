"""``ablate``: the rows of the paper's Tables 2-5, trained and scored in turn."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maris_fast.cli import launching, quickstart
from maris_fast.cli.options import Overrides
from maris_fast.cli.scores import scoring_command
from maris_fast.system.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from maris_fast.ablation.record import Record
    from maris_fast.ablation.runner import Command
    from maris_fast.ablation.runs import Ablation, AblationRun

QUICK_DATA = "data"
QUICK_IMAGE_SIZE = 160
"""Longest side for the image encoder: 100 tokens an image."""
WIDTH = 132
QUICK_ROWS_OF_SEVERAL_SEEDS = ("ours", "without_ma", "sdf", "without_mask", "sums", "as_printed")


def ablate(
    cache: Annotated[
        str | None,
        typer.Argument(
            help="folder that `maris-fast cache` wrote, or its address; none with --quick and --list"
        ),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="folder for all runs: a new one, or one to resume")] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            help="rows by the paper's number or by name, such as 2,5,without_mask, or your own as YAML files "
            "or a folder of them; default: all rows of the paper"
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="seeds of each row, such as 0,1,2; default: 0, with --quick three for some rows"),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="YAML file with the settings of all rows, or the name of a shipped one; may be repeated, "
            "later files win; default: refcoco"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="split of the cache to score on")] = "val",
    ranks: launching.Ranks = 1,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs at a time; default: 1, with --quick one for each core")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="use synthetic scenes, which takes minutes on two cores")
    ] = False,
    train_images: Annotated[int, typer.Option(min=1, help="with --quick: number of training scenes")] = 1200,
    val_images: Annotated[int, typer.Option(min=1, help="with --quick: number of validation scenes")] = 120,
    listed: Annotated[
        bool, typer.Option("--list", help="print the rows with their parameters and settings files, and exit")
    ] = False,
) -> None:
    """Train and score the paper's ablations, and print the paper's tables with our scores beside its own.

    If interrupted, the same command resumes. Exit status 1 if a row failed.
    """
    from maris_fast.config import is_override
    from maris_fast.errors import ConfigError

    if cache is not None and (quick or is_override(cache)):
        overrides = [cache, *(overrides or ())]
        cache = None
    ablation = _ablation(cache, out, overrides or (), rows, seeds, config, split, quick)
    if listed:
        _list(ablation, has_cache=cache is not None)
        return
    if cache is None and not quick:
        raise ConfigError("CACHE is missing: name a folder that `maris-fast cache` wrote, or say --quick")
    places = jobs or (max(1, _cores() // ranks) if quick else 1)
    try:
        record = _work(ablation, ranks, places, (train_images, val_images) if quick else None)
    except KeyboardInterrupt:
        say("stopped; the same command resumes", err=True)
        raise typer.Exit(130) from None
    _show(record, ablation.folder)
    failed = {
        name: why for name, why in record.failed().items() if name in {run.name for run in ablation.runs}
    }
    for name, why in failed.items():
        say(f"failed: {name}: {why}", err=True)
    if failed:
        say(f"{len(failed)} of {len(ablation.runs)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(1)


def _ablation(
    cache: str | None,
    out: Path | None,
    overrides: Sequence[str],
    rows: str | None,
    seeds: str | None,
    config: Sequence[Path] | None,
    split: str,
    quick: bool,
) -> Ablation:
    from maris_fast import train
    from maris_fast.ablation.runs import Ablation, choose, every
    from maris_fast.config import cache_place

    configs = Path(train.__file__).with_name("configs")
    folder = out or Path("runs/ablate_quick" if quick else "runs/ablate")
    variants = choose(rows)
    if quick and seeds is None:
        runs = every(variants, [0])
        several = [each for each in variants if each.name in QUICK_ROWS_OF_SEVERAL_SEEDS]
        runs += every(several, [1, 2])
    else:
        runs = every(variants, _seeds(seeds or "0"))
    return Ablation(
        folder=folder,
        cache=folder / QUICK_DATA / "cache" if cache is None else cache_place(cache),
        base=tuple(config or [configs / ("ablate_quick.yaml" if quick else "refcoco.yaml")]),
        overrides=tuple(overrides),
        split=split,
        runs=runs,
    )


def _seeds(text: str) -> list[int]:
    from maris_fast.errors import ConfigError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words):
        raise ConfigError(f"--seeds {text!r} are not whole numbers with commas between, such as 0,1,2")
    return list(dict.fromkeys(int(word) for word in words))


def _work(ablation: Ablation, ranks: int, jobs: int, quick: tuple[int, int] | None) -> Record:
    """Execute all runs that are not done yet; return the record afterwards."""
    from maris_fast.ablation.record import ABLATION, Record, alone_in
    from maris_fast.ablation.runner import Runner
    from maris_fast.data_shards.cache import read_manifest
    from maris_fast.system.progress import Runs

    steps = _Steps(ablation, ranks, jobs)
    with alone_in(ablation.folder, beside=[QUICK_DATA]):
        if quick:
            _prepare(ablation.folder / QUICK_DATA, *quick)
        record = Record.of(ablation, read_manifest(ablation.cache))
        if (ablation.folder / ABLATION).is_file():
            record = record.went_on_from(Record.read(ablation.folder))
        record.save(ablation.folder)
        done = sum(record.is_done(run) for run in ablation.runs)
        with Runs(len(ablation.runs), done) as progress:
            runner = Runner(ablation.folder, record, steps, steps.collect, progress, jobs=jobs)
            runner.work(ablation.runs)
    return record


def _prepare(folder: Path, train_images: int, val_images: int) -> None:
    """Create scenes and their features, or reuse those of an earlier start if their numbers match."""
    from maris_fast.data_shards.records import ImportedDataset
    from maris_fast.errors import ConfigError

    settings = [f"encoders.sam.image_size={QUICK_IMAGE_SIZE}"]
    quickstart.prepare(
        folder,
        quickstart.Stopwatch(),
        train_images=train_images,
        val_images=val_images,
        cache_settings=settings,
    )
    wanted = {"train": train_images, "val": val_images}
    found = {name: counts.images for name, counts in ImportedDataset(folder / "dataset").info.splits.items()}
    if found != wanted:
        raise ConfigError(
            f"{folder} holds {found['train']} scenes to train on and {found['val']} to score on, asked for "
            f"are {train_images} and {val_images}; ask for as many, or name a new folder with --out"
        )


class _Steps:
    """The commands of a run: train, then score at the images' original size."""

    def __init__(self, ablation: Ablation, ranks: int, jobs: int) -> None:
        self._ablation, self._ranks = ablation, ranks
        self._device = ablation.settings(None).engine.device
        self._gpus = [] if self._device == "cpu" else _gpus(ranks * jobs)
        self._threads = max(1, _cores() // (ranks * jobs)) if jobs > 1 else None

    def __call__(self, run: AblationRun, place: int) -> list[Command]:
        from maris_fast import train
        from maris_fast.weight_files import BEST

        ablation = self._ablation
        folder = ablation.run_folder(run)
        files = [part for file in ablation.configs(run.variant) for part in ("--config", str(file))]
        entry = str(Path(train.__file__).with_name("main.py"))
        scoring = scoring_command(folder / BEST, ablation.cache, split=ablation.split, out=folder)
        return [
            self._command(place, entry, *files, *ablation.run_overrides(run)),
            self._command(place, *scoring, "--device", self._device),
        ]

    def _command(self, place: int, *words: str) -> Command:
        from maris_fast.ablation.runner import Command

        gpus = self._gpus[place * self._ranks : (place + 1) * self._ranks]
        command, environment = launching.launched(self._ranks, *words, devices=gpus)
        if self._threads and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        return Command(command, environment)

    def collect(self, run: AblationRun) -> tuple[dict[str, Any], dict[str, Any]]:
        """Scores and training statistics of a finished run, and its environment."""
        from maris_fast.data_shards.cache import read_manifest
        from maris_fast.evaluation.scores_file import DataSplit, headline, read_scores
        from maris_fast.reports.run_data import RunData
        from maris_fast.train.run_files import ENVIRONMENT

        folder = self._ablation.run_folder(run)
        trained = RunData.read(folder)
        dataset = read_manifest(self._ablation.cache).dataset
        where = DataSplit(dataset.name, dataset.split_by, self._ablation.split)
        measured = {
            "steps": trained.step,
            "train_seconds": round(trained.seconds or 0, 1),
            "best_step": trained.best["step"] if trained.best else None,
            "scores": headline(read_scores(folder)[where]),
        }
        return measured, json.loads((folder / ENVIRONMENT).read_text())


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _gpus(needed: int) -> list[str]:
    """The GPUs that runs are spread over; empty on a machine without GPUs."""
    import torch

    from maris_fast.errors import ConfigError

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if needed > len(gpus):
        raise ConfigError(
            f"--ranks times --jobs is {needed}, and there are {len(gpus)} GPUs; lower one of them, or set "
            "engine.device=cpu"
        )
    return gpus


def _list(ablation: Ablation, has_cache: bool) -> None:
    from maris_fast.ablation.paper import ABLATION_TABLES
    from maris_fast.data_shards.cache import read_manifest
    from maris_fast.model.parameters import parameter_counts
    from maris_fast.system.terminal import Table

    manifest = read_manifest(ablation.cache) if has_cache else None
    features = "this cache" if manifest else "ViT-H and CLIP ViT-L/14"
    widths = (manifest.channels, manifest.text_channels) if manifest else ()
    table = Table(title=f"rows; parameters on the features of {features}", title_justify="left")
    for column in ("#", "name", "in the paper", "tables", "parameters", "fragment"):
        table.add_column(column, justify="right" if column in ("#", "parameters") else "left")
    for variant in ablation.variants:
        tables = [str(number) for number, names in ABLATION_TABLES.items() if variant.name in names]
        count = parameter_counts(ablation.settings(variant).model, *widths).total
        table.add_row(
            str(variant.number or ""),
            variant.name,
            variant.title,
            ", ".join(tables),
            f"{count:,}",
            str(variant.file or variant.fragment.relative_to(variant.fragment.parents[2])),
        )
    _console().print(table)


def _show(record: Record, folder: Path) -> None:
    from maris_fast.ablation.comparison import HEAD, conditions_told, sections, verdicts
    from maris_fast.ablation.ranking import CAPTION, CHANGES, has_own_rows, ranking
    from maris_fast.ablation.record import ABLATION
    from maris_fast.system.terminal import Table

    found = sections({name: record.scores(name) for name in record.variants})
    tables: list[tuple[str, Sequence[str], list[tuple[str, ...]]]] = [
        (section.title, HEAD, section.cells()) for section in found
    ]
    if has_own_rows(record):
        rows = ranking(record)
        tables.append((CAPTION, rows.head, rows.cells()))
    console = _console()
    for title, head, lines in tables:
        table = Table(title=title, title_justify="left")
        long = (CHANGES, head[-1]) if CHANGES in head else ()
        for number, column in enumerate(head):
            table.add_column(column, justify="left" if number < 2 else "right", no_wrap=column not in long)
        for cells in lines:
            table.add_row(*cells)
        console.print(table)
    say("\n".join([*verdicts(record), *conditions_told(record)]))
    say(f"all of it: {folder / ABLATION}; a page: maris-fast report {folder}")


def _console() -> Console:
    """A console, as wide as the tables if it is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)
