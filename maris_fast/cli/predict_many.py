"""``predict-many``: masks for folders or JSON lines of images, as PNG, COCO or labelme files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from maris_fast.cli.predictor import WEIGHTS, Device, SamWeights, TextWeights, load_predictor, named_weights
from maris_fast.system.terminal import say


def predict_many(
    source: Annotated[
        Path,
        typer.Argument(
            help='folder of images; or JSON lines: {"image": "kitchen/1.jpg", "sentences": ["the red mug"]}'
        ),
    ],
    weights: Annotated[str, typer.Option(help=WEIGHTS)],
    out: Annotated[Path, typer.Option(help="new folder for the predictions, or one to resume")],
    expressions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPRESSION]...", help="of a folder: what to segment in each of its images"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="folder that the lines' image paths start from; default: that of their file"),
    ] = None,
    file_format: Annotated[
        Literal["masks", "coco", "labelme"],
        typer.Option(
            "--format",
            help="beside predictions.jsonl: PNGs in masks/, predictions.coco.json, or JSON files in labelme/",
        ),
    ] = "masks",
    leave_out_bad: Annotated[
        bool,
        typer.Option(
            "--leave-out-bad",
            help="leave out, count and list bad lines and images; default: nothing is predicted",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the predictions that are in the folder")
    ] = False,
    sam_weights: SamWeights = None,
    text_weights: TextWeights = None,
    device: Device = "auto",
) -> None:
    """Segment what sentences refer to in many images; each image is encoded once.

    Writes predictions.jsonl: image, sentence, score and run lengths of each mask. If interrupted, the same
    command resumes. `maris-fast import` reads the results.
    """
    from maris_fast.predicting.record import holds_predictions
    from maris_fast.predicting.requests import read_requests

    requests = read_requests(source, expressions or (), images, out)
    holds_predictions(out)  # before imports and files that take seconds
    file = named_weights(weights, device)
    from maris_fast.predicting.predict_many import predict_many as predict_all
    from maris_fast.predicting.record import LEFT_OUT
    from maris_fast.system.files import sha256_of
    from maris_fast.system.progress import counting

    try:
        outcome = predict_all(
            lambda: load_predictor(file, sam_weights, text_weights, device),
            sha256_of(file),
            requests,
            out,
            file_format,
            counting,
            leave_out_bad=leave_out_bad,
            overwrite=overwrite,
        )
    except KeyboardInterrupt:
        say("stopped before the first image; nothing was written", err=True)
        raise typer.Exit(130) from None
    say(f"{outcome.images:,} of {outcome.of:,} images, {outcome.masks:,} masks -> {out}")
    if outcome.empty and file_format != "masks":
        say(f"{outcome.empty:,} empty masks are in predictions.jsonl alone; {file_format} has no such masks")
    if outcome.faults:
        say(f"{len(outcome.faults):,} bad lines, sentences and images are left out; see {out / LEFT_OUT}")
    if outcome.stopped:
        say("stopped; the same command resumes", err=True)
        raise typer.Exit(130)
