"""``export``: a trained model for programs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.options import License, require_license
from maris_fast.cli.predictor import WEIGHTS, SamWeights, TextWeights, load_predictor, named_weights
from maris_fast.errors import ArgumentError
from maris_fast.system.terminal import say


def export(
    weights: Annotated[str, typer.Argument(help=WEIGHTS)],
    onnx: Annotated[bool, typer.Option("--onnx", help="write head.onnx")] = False,
    torch: Annotated[bool, typer.Option("--torch", help="write head.pt2, a program of torch.export")] = False,
    encoders: Annotated[
        bool, typer.Option("--encoders", help="also write image_encoder and text_encoder: SAM's and CLIP's")
    ] = False,
    out: Annotated[Path, typer.Option(help="new folder for the files")] = Path("exported"),
    sam_weights: SamWeights = None,
    text_weights: TextWeights = None,
    license: License = None,
) -> None:
    """Export a trained model to ONNX or torch.export: from features and words to masks of the image's size.

    Images, expressions and words may be of any size and number. Each file is run and compared with the model.
    """
    if not (onnx or torch):
        raise ArgumentError("nothing to export; add --onnx, --torch, or both")
    require_license(license)
    if not encoders and (sam_weights or text_weights):
        raise ArgumentError("`sam_weights` and `text_weights` are of encoders; add --encoders to export them")
    file = named_weights(weights)
    from maris_fast.exporting import (
        ONNX,
        PROGRAM,
        Description,
        export_part,
        head_of,
        image_encoder_of,
        require_onnx,
        text_encoder_of,
    )
    from maris_fast.system.files import writing
    from maris_fast.system.new_folder import new_folder
    from maris_fast.weights import load_model

    if onnx:
        require_onnx()
    formats = [one for wanted, one in ((onnx, ONNX), (torch, PROGRAM)) if wanted]
    if encoders:
        predictor = load_predictor(file, sam_weights, text_weights, "cpu")
        model, meta = predictor.model, predictor.meta
        parts = [head_of(model, meta), image_encoder_of(predictor.sam), text_encoder_of(predictor.text)]
    else:
        model, meta = load_model(file)
        parts = [head_of(model, meta)]
        if meta.encoders.caution:
            say(f"note: {meta.encoders.caution}", err=True)
    with writing(out, "--out"), new_folder(out) as folder:
        for part in parts:
            say(f"exporting {part.name}", err=True)
            found = export_part(part, formats, Description.of(part, meta, license), folder)
            for name, difference in found.items():
                say(f"{out / name}: within {difference:.1e} of the model")
