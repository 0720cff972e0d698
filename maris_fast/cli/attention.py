"""``attention``: what words and image make of each other in a trained model, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.predictor import WEIGHTS, Device, SamWeights, TextWeights, load_predictor, named_weights
from maris_fast.system.terminal import say


def attention(
    image: Annotated[Path, typer.Argument(help="a photograph or scene")],
    expression: Annotated[str, typer.Argument(help="what to segment")],
    weights: Annotated[str, typer.Option(help=WEIGHTS)],
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("attention"),
    pixel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y",
            help="pixel of the image; may be repeated; default: a pixel inside the predicted mask",
        ),
    ] = None,
    block: Annotated[
        int | None, typer.Option(min=1, help="number of a mutual-aware attention block, from 1; default: all")
    ] = None,
    sam_weights: SamWeights = None,
    text_weights: TextWeights = None,
    device: Device = "auto",
) -> None:
    """Draw a pixel's attention to words and each word's attention to the image (the paper's Figs. 1 and 5).

    Writes <image>-words.png and, for each block, <image>-regions-block<N>.png.
    """
    chosen = [_pixel(one) for one in pixel or ()]
    file = named_weights(weights, device)
    from maris_fast.errors import ConfigError
    from maris_fast.images import load_image
    from maris_fast.system.files import writing

    picture = load_image(image)
    predictor = load_predictor(file, sam_weights, text_weights, device)
    from maris_fast.pictures.attention_maps import regions_picture, words_picture
    from maris_fast.pictures.attention_weights import pixel_of
    from maris_fast.pictures.overlays import save_png

    say(f"encoding {image}", err=True)
    mask, found = predictor.attention(picture, expression)
    if block is not None and block > len(found.blocks):
        raise ConfigError(
            f"--block {block}, but the model has {len(found.blocks)} (model.ma_blocks); name one of them"
        )
    blocks = range(len(found.blocks)) if block is None else [block - 1]
    pixels = chosen or [pixel_of(mask)]
    drawn = {f"{image.stem}-words.png": words_picture(picture, mask, found, pixels, blocks)}
    for one in blocks:
        drawn[f"{image.stem}-regions-block{one + 1}.png"] = regions_picture(picture, mask, found, one)
    with writing(out, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        for name, sheet in drawn.items():
            save_png(sheet, out / name)
    for x, y in pixels:
        for one in blocks:
            row = found.words_at(x, y)[one]
            words = ", ".join(
                f"{found.tokens[place]} {row[place]:.2f}" for place in (-row).argsort(kind="stable")
            )
            say(f"pixel {x},{y}, block {one + 1}: {words}")
    say(f"{expression!r}: {mask.mean():.1%} of the image -> {', '.join(str(out / name) for name in drawn)}")


def _pixel(text: str) -> tuple[int, int]:
    from maris_fast.errors import InputError

    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--pixel {text!r}; expected two whole numbers, x from the left and y from the top, "
            "as --pixel 120,80"
        ) from error
    return x, y
