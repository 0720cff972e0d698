"""``scenes``, ``pretrain``, ``import``, ``mix``, ``cache``, ``verify``: annotations to verified shards."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from maris_fast.cli.options import Overrides, Splits, options_of
from maris_fast.system.terminal import say, with_options

if TYPE_CHECKING:
    from maris_fast.data_shards.cache.manifest import CacheManifest
    from maris_fast.data_shards.cache.ray_crew import RayJob
    from maris_fast.data_shards.cache.write import CacheJob, Outlook


def scenes(
    root: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="the same as --out")] = None,
    train_images: Annotated[int, typer.Option(min=1)] = 1200,
    val_images: Annotated[int, typer.Option(min=1)] = 160,
    image_size: Annotated[int, typer.Option(min=64, help="pixels, square")] = 256,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="new folder, in RefCOCO's layout")] = None,
) -> None:
    """Render synthetic scenes with expressions, in RefCOCO's file layout."""
    from maris_fast.data_shards.synthetic import generate_scenes
    from maris_fast.system.progress import counted

    root = Path(_named(out, root))
    with counted("scenes") as progress:
        generate_scenes(
            root,
            train_images=train_images,
            val_images=val_images,
            image_size=image_size,
            seed=seed,
            progress=progress,
        )
    say(f"wrote {train_images} train and {val_images} val scenes to {root}")
    say(f"next: maris-fast import {root} scenes --split-by synthetic --out DATASET")


def pretrain(
    out: Annotated[Path, typer.Option(help="new folder for the two files of weights")],
    image_steps: Annotated[int, typer.Option(min=1, help="steps of the image encoder")] = 1500,
    text_steps: Annotated[int, typer.Option(min=1, help="steps of the text encoder")] = 1000,
    seed: int = 0,
) -> None:
    """Train tiny SAM and CLIP encoders on scenes of their own, to cache scenes of any split with.

    It takes about 20 minutes of one CPU core. `maris-fast scenes` renders others, whatever the seed.
    """
    from maris_fast.config import as_override
    from maris_fast.data_shards.synthetic.pretraining import pretrain_encoders
    from maris_fast.system.progress import all_counted

    with all_counted("image encoder", "text encoder") as (image, text):
        made = pretrain_encoders(
            out,
            image_steps=image_steps,
            text_steps=text_steps,
            seed=seed,
            image_progress=image,
            text_progress=text,
        )
    say(f"masks of points on scenes never seen: mean IoU {made.point_iou:.3f}")
    say(f"colour and shape of one object, zero-shot accuracy: {made.zero_shot:.3f}")
    weights = {"encoders.sam.weights": made.sam, "encoders.text.weights": made.text}
    words = shlex.join(as_override(key, file) for key, file in weights.items())
    say(f"next: maris-fast cache DATASET --config quickstart --out CACHE {words}")


def _named(option: Path | str | None, argument: Path | str | None) -> Path | str:
    """The output folder or address, from ``--out`` or from the argument that commands had before it."""
    from maris_fast.errors import ConfigError

    if option is None and argument is None:
        raise ConfigError("no folder to write to; name one with --out")
    return option or argument or ""


def import_annotations(
    root: Annotated[Path, typer.Argument(help="folder with the data set and images/")],
    dataset: Annotated[
        str,
        typer.Argument(
            help="below ROOT, a folder such as refcoco, refcoco+, refcocog, grefcoco, phrasecut, scenes; or "
            "a file such as NAME.jsonl, NAME.json, with {split} in its name for one file a split; "
            "docs/datasets.md lists all forms"
        ),
    ],
    out: Annotated[Path, typer.Option(help="new folder for the imported data set")],
    split_by: Annotated[
        str | None,
        typer.Option(
            help="unc, umd, google or synthetic, for refs(<split-by>).p; needed if there are several"
        ),
    ] = None,
    split: Splits = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="folder of the images, if not in the default place below ROOT; with {split} in it, one for "
            "each split of JSON lines or COCO files"
        ),
    ] = None,
    check_images: Annotated[bool, typer.Option(help="decode every image")] = True,
    orientation: Annotated[
        Literal["stored", "shown"] | None,
        typer.Option(
            help="orientation of the masks, for images with an EXIF orientation whose annotated size fits "
            "both: pixels as stored, or as shown after applying EXIF"
        ),
    ] = None,
    mask_values: Annotated[
        Literal["nonzero", "void", "soft"] | None,
        typer.Option(
            help="values of the object in mask PNGs of more than two values: all but 0 (nonzero), all but 0 "
            "and 255 (void), at least half of white (soft)"
        ),
    ] = None,
    leave_out_bad: Annotated[
        bool,
        typer.Option(
            "--leave-out-bad",
            help="leave out, count and list bad rows; default: they fail the import",
        ),
    ] = False,
    category_sentences: Annotated[
        bool,
        typer.Option(
            "--category-sentences",
            help="objects without a sentence: take the name of their category as the sentence of all of them "
            "in an image",
        ),
    ] = False,
    hold_out: Annotated[
        float | None,
        typer.Option(help="move this share of the train images, such as 0.1, to a new split val"),
    ] = None,
    seed: Annotated[int, typer.Option(help="with --hold-out: seed of the choice of images")] = 0,
) -> None:
    """Read and check annotations and images, write records, and compare counts with the published ones."""
    from rich.console import Console

    from maris_fast.data_shards.importers.formats import import_dataset
    from maris_fast.data_shards.importers.options import ImportOptions
    from maris_fast.system.progress import counted

    with counted("checked") as progress:
        options = ImportOptions(
            splits=split or (),
            images=images,
            check_images=check_images,
            orientation=orientation,
            mask_values=mask_values,
            leave_out_bad=leave_out_bad,
            category_sentences=category_sentences,
            hold_out=hold_out,
            seed=seed,
            progress=progress,
        )
        try:
            report = import_dataset(root, dataset, out, options, split_by=split_by)
        except KeyboardInterrupt:
            say("stopped; nothing was written", err=True)
            raise typer.Exit(130) from None
    for table in (report.table(), report.left_out_table()):
        if table is not None:
            Console().print(table)
    for line in report.warnings():
        say(line)


def mix(
    context: typer.Context,
    datasets: Annotated[list[Path], typer.Argument(help="folders that `maris-fast import` wrote")],
    out: Annotated[Path, typer.Option(help="new folder for the mixed data set")],
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="imported data set to check for leaks without mixing it in; may be repeated"),
    ] = None,
    remove_leaks: Annotated[
        bool,
        typer.Option("--remove-leaks", help="leave out train images that are test images of any data set"),
    ] = False,
    keep_own_leaks: Annotated[
        bool,
        typer.Option(
            "--keep-own-leaks",
            help="keep images that are in train and test splits of the same data set, as in G-Ref google",
        ),
    ] = False,
    compare_content: Annotated[
        bool, typer.Option(help="also compare image contents, to find renamed copies")
    ] = True,
    look_alike: Annotated[
        int, typer.Option(min=0, max=256, help="bits (of 256) in which hashes of similar images may differ")
    ] = 32,
    keep_look_alikes: Annotated[
        bool,
        typer.Option("--keep-look-alikes", help="keep train images that only look similar to a test image"),
    ] = False,
    pairs: Annotated[
        Path | None, typer.Option(help="PNG file to draw all pairs of similar images in")
    ] = None,
    name: Annotated[str, typer.Option(help="name of the mixed data set")] = "mix",
) -> None:
    """Join imported data sets into one for training; reject or remove train images that are test images."""
    from rich.console import Console

    from maris_fast.data_shards.mixing import mix_datasets
    from maris_fast.system.progress import all_counted

    with all_counted("records", "looked at") as (progress, looking):
        try:
            report = mix_datasets(
                datasets,
                out,
                held_out=held_out or (),
                remove_leaks=remove_leaks,
                keep_own_leaks=keep_own_leaks,
                keep_look_alikes=keep_look_alikes,
                compare_content=compare_content,
                look_alike=look_alike,
                pairs=pairs,
                name=name,
                progress=progress,
                looking=looking,
            )
        except KeyboardInterrupt:
            say("stopped; nothing was written", err=True)
            raise typer.Exit(130) from None
    Console().print(report.table())
    for line in report.lines():
        say(with_options(line, options_of(context.command)))


def cache(
    dataset: Annotated[Path, typer.Argument(help="folder that `maris-fast import` wrote")],
    out: Annotated[
        str | None, typer.Argument(metavar="[OUT]", help="same as --out, unless it is KEY=VALUE")
    ] = None,
    overrides: Overrides = None,
    folder: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="folder for the shards: a new one, or one to resume; or an s3:// or gs:// address",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of cache settings, or the name of a shipped one, such as vit_h"),
    ] = None,
    split: Splits = None,
    leave_out_bad: Annotated[
        bool,
        typer.Option(
            "--leave-out-bad",
            help="leave out, count and list images and expressions that the encoders cannot process; "
            "default: they are errors",
        ),
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="print what would be written, and exit")] = False,
    estimate: Annotated[bool, typer.Option(help="encode a batch to estimate the time")] = True,
    rank: Annotated[
        int | None, typer.Option(min=0, help="number of this process's share, if not started by a launcher")
    ] = None,
    world: Annotated[int | None, typer.Option(min=1, help="number of shares")] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(help="folder for shards on their way to an address; default: in the temporary folder"),
    ] = None,
    on: Annotated[
        Literal["ray"] | None,
        typer.Option(
            help="ray: workers of the Ray cluster at RAY_ADDRESS, else of one that runs on this machine, "
            "else of a new one"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="with --on ray: workers on each node; default: one a GPU, one a node without GPUs"
        ),
    ] = None,
) -> None:
    """Run the frozen encoders over an imported data set and write their features to WebDataset shards.

    If interrupted, the same command resumes. Several processes share the work under torchrun, deepspeed, srun
    or mpirun, or with --rank and --world; --on ray gives each shard to a free worker of a Ray cluster.
    """
    say(f"reading {dataset}; loading the encoders' libraries", err=True)
    from maris_fast.config import CacheSettings, cache_place, is_override, load_settings
    from maris_fast.data_shards.cache.workers import find_worker
    from maris_fast.data_shards.cache.write import CacheJob
    from maris_fast.errors import ConfigError

    if out is not None and (folder is not None or is_override(out)):
        overrides, out = [out, *(overrides or ())], None
    target = cache_place(_named(folder, out))
    settings = load_settings(CacheSettings, config, overrides or ())
    worker = find_worker(rank, world)
    if workers is not None and on is None:
        raise ConfigError(
            "`workers` is for `on` ray; without it, start with torchrun or set `rank` and `world`"
        )
    if on is not None and worker.world > 1:
        raise ConfigError(
            "`on` ray shares the work itself: start it alone, without launcher, `rank` and `world`"
        )
    given: dict[str, Any] = {"splits": split, "leave_out_bad": leave_out_bad, "scratch": scratch}
    job: CacheJob | RayJob | None = None
    with ExitStack() as stack:
        try:
            if on is None:
                job = CacheJob(dataset, target, settings, worker=worker, **given)
            else:
                from maris_fast.data_shards.cache.ray_crew import RayJob

                job = stack.enter_context(RayJob(dataset, target, settings, workers=workers, **given))
            if worker.first:
                _print_plan(job.outlook(estimate=estimate))
            if plan:
                return
            manifest = job.write()
        except KeyboardInterrupt:
            done = f"{job.written()} of {len(job.plan)} shards are written; " if job and job.plan else ""
            say(f"stopped; {done}the same command resumes", err=True)
            raise typer.Exit(130) from None
    if worker.first and manifest is None:
        say(f"this share is complete; {job.written()} of {len(job.plan)} shards of the cache are written")
    if worker.first and manifest is not None:
        _print_written(manifest)


def _print_plan(planned: Outlook) -> None:
    from datetime import timedelta

    from rich.console import Console

    from maris_fast.system.terminal import Table

    head, plan = planned.writing.head, planned.writing.plan
    table = Table(title=f"plan of {planned.out}", title_justify="left")
    for column in ("split", "images", "expressions", "shards", "GB"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in head.written_with.records_sha256:
        shards = [shard for shard in plan if shard.split == split]
        images, expressions = (sum(getattr(s, n) for s in shards) for n in ("images", "expressions"))
        size = sum(shard.bytes + shard.index_bytes for shard in shards) / 1e9
        table.add_row(split, f"{images:,}", f"{expressions:,}", f"{len(shards):,}", f"{size:,.3f}")
    Console().print(table)
    if head.left_out:
        for line in head.dataset.incomplete(head.written_with.records_sha256):
            say(line)
    missing = sum(shard.images for shard in planned.missing)
    written = len(plan) - len(planned.missing)
    say(
        f"to write: {planned.missing_bytes / 1e9:,.3f} GB in {len(planned.missing):,} shards "
        f"({written:,} are written); free: {planned.free_bytes / 1e9:,.1f} GB"
    )
    if not planned.missing:
        say("time: nothing is left to do")
    elif planned.seconds_an_image is None:
        say("time: unknown, no batch was encoded to measure it")
    else:
        workers, seconds = planned.workers, planned.seconds_an_image
        whole = timedelta(seconds=round(missing * seconds / workers))
        say(
            f"time: about {whole}, from one batch at {1 / seconds:.2f} images/s"
            + (f" and {workers} processes that each do so" if workers > 1 else "")
        )


def _print_written(manifest: CacheManifest) -> None:
    for name, entry in manifest.splits.items():
        say(
            f"{name}: {entry.images:,} images, {entry.expressions:,} expressions "
            f"({entry.truncated_expressions:,} cut to {manifest.encoder_settings.text.max_words} words), "
            f"{entry.bytes / 1e6:,.0f} MB in {len(entry.shards)} shards"
        )
    for line in manifest.dataset.incomplete(manifest.splits):
        say(line)
    if manifest.encoders.random:
        say(f"note: random weights in {' and '.join(manifest.encoders.random)}; for trials only")


def verify(
    cache: Annotated[str, typer.Argument(help="folder that `maris-fast cache` wrote, or its address")],
    split: Splits = None,
    jobs: Annotated[int, typer.Option(min=1, help="shards to read at a time")] = 4,
) -> None:
    """Read a whole cache and check all checksums, shapes and counts; exit status 1 if anything is wrong."""
    from rich.console import Console

    from maris_fast.config import cache_place
    from maris_fast.data_shards.cache.verify import verify_cache
    from maris_fast.system.terminal import Table

    place = cache_place(cache)
    report = verify_cache(place, split, jobs=jobs)
    if report.manifest is not None:
        table = Table(title=str(place), title_justify="left")
        for column in ("split", "shards", "images", "expressions", "GB"):
            table.add_column(column, justify="left" if column == "split" else "right")
        for name in report.splits:
            entry = report.manifest.splits[name]
            counts = (len(entry.shards), entry.images, entry.expressions)
            table.add_row(name, *(f"{count:,}" for count in counts), f"{entry.bytes / 1e9:,.3f}")
        Console().print(table)
    for problem in report.problems:
        say(str(problem), err=True)
    if report.problems:
        say(f"{len(report.problems):,} problems", err=True)
        raise typer.Exit(1)
    say("every member is what was written")
