"""``predict``: one image, one or more sentences, a mask and a picture for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.predictor import WEIGHTS, Device, SamWeights, TextWeights, load_predictor, named_weights
from maris_fast.system.terminal import say


def predict(
    image: Annotated[Path, typer.Argument(help="a photograph or scene")],
    expressions: Annotated[list[str], typer.Argument(metavar="EXPRESSION...", help="what to segment")],
    weights: Annotated[str, typer.Option(help=WEIGHTS)],
    out: Annotated[Path, typer.Option(help="folder for the masks and overlays")] = Path("predictions"),
    sam_weights: SamWeights = None,
    text_weights: TextWeights = None,
    device: Device = "auto",
) -> None:
    """Segment what a sentence refers to; writes <image>-<n>-mask.png and <image>-<n>-overlay.png.

    For many images see `maris-fast predict-many`.
    """
    from maris_fast.errors import InputError

    if image.is_dir():
        raise InputError(f"{image} is a folder; `maris-fast predict-many` takes folders of images")
    file = named_weights(weights, device)
    from PIL import Image

    from maris_fast.images import load_image
    from maris_fast.system.files import writing

    picture = load_image(image)
    predictor = load_predictor(file, sam_weights, text_weights, device)
    from maris_fast.pictures.overlays import Panel, overlay, save_png

    say(f"encoding {image}", err=True)
    masks = predictor.masks(picture, expressions)
    for number, (expression, mask) in enumerate(zip(expressions, masks, strict=True), start=1):
        stem = f"{image.stem}-{number}"
        with writing(out, "--out"):
            out.mkdir(parents=True, exist_ok=True)
            save_png(Image.fromarray(mask), out / f"{stem}-mask.png")
            save_png(overlay(Panel(picture, mask, expression)), out / f"{stem}-overlay.png")
        share = mask.mean()
        say(f"{expression!r}: {share:.1%} of the image -> {out / stem}-mask.png, {out / stem}-overlay.png")
