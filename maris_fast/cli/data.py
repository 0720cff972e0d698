"""``scenes``, ``import`` and ``cache``: from nothing, or annotations, to shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings on top of the file")
]


def scenes(
    root: Annotated[Path, typer.Argument(help="new folder; gets RefCOCO's layout")],
    train_images: Annotated[int, typer.Option(min=1)] = 1200,
    val_images: Annotated[int, typer.Option(min=1)] = 160,
    image_size: Annotated[int, typer.Option(min=64, help="pixels, square")] = 256,
    seed: int = 0,
) -> None:
    """Render synthetic scenes with expressions, in the layout that RefCOCO has on disk."""
    from maris_fast.cli.progress import counted
    from maris_fast.data_shards.synthetic import generate_scenes

    with counted("scenes") as progress:
        generate_scenes(
            root,
            train_images=train_images,
            val_images=val_images,
            image_size=image_size,
            seed=seed,
            progress=progress,
        )
    typer.echo(f"wrote {train_images} train and {val_images} val scenes to {root}")
    typer.echo(f"next: maris-fast import {root} scenes --split-by synthetic --out DATASET")


def import_annotations(
    root: Annotated[Path, typer.Argument(help="folder that holds the data set and images/")],
    dataset: Annotated[str, typer.Argument(help="refcoco, refcoco+, refcocog or scenes")],
    split_by: Annotated[str, typer.Option(help="unc, umd, google or synthetic: refs(<split-by>).p")],
    out: Annotated[Path, typer.Option(help="new folder for the imported data set")],
    split: Annotated[list[str] | None, typer.Option(help="only this split; may be given again")] = None,
    check_images: Annotated[bool, typer.Option(help="decode every image")] = True,
) -> None:
    """Read refs, annotations and images; check them; write records and compare with the published counts."""
    from rich.console import Console

    from maris_fast.cli.progress import counted
    from maris_fast.data_shards.importers.refcoco import import_refcoco

    with counted("images checked") as progress:
        report = import_refcoco(
            root, dataset, split_by, out, splits=split, check_images=check_images, progress=progress
        )
    Console().print(report.table())


def cache(
    dataset: Annotated[Path, typer.Argument(help="folder that `maris-fast import` wrote")],
    out: Annotated[Path, typer.Argument(help="new folder for the shards")],
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="YAML of cache settings")] = None,
    split: Annotated[list[str] | None, typer.Option(help="only this split; may be given again")] = None,
) -> None:
    """Run the frozen encoders over an imported data set and write their features to WebDataset shards."""
    from maris_fast.config import CacheSettings, load_settings
    from maris_fast.data_shards.cache import write_cache

    settings = load_settings(CacheSettings, config, overrides or ())
    manifest = write_cache(dataset, out, settings, splits=split)
    for name, entry in manifest.splits.items():
        typer.echo(
            f"{name}: {entry.images:,} images, {entry.expressions:,} expressions "
            f"({entry.truncated_expressions:,} cut to {settings.encoders.text.max_words} words), "
            f"{entry.bytes / 1e6:,.0f} MB in {len(entry.shards)} shards"
        )
    if manifest.encoders.random:
        typer.echo(f"note: random weights in {' and '.join(manifest.encoders.random)}; for trials only")
