"""``examples``: where models succeed and where they fail, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.options import Device
from maris_fast.system.terminal import say


def examples(
    weights: Annotated[Path, typer.Argument(help="a run's folder, or a weights file")],
    cache: Annotated[str, typer.Argument(help="folder that `maris-fast cache` wrote, or its address")],
    split: Annotated[str, typer.Option(help="split of the cache")] = "val",
    weights_b: Annotated[
        list[Path] | None, typer.Option(help="weights of another model to compare; may be repeated")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="expressions in a picture")] = 4,
    images: Annotated[
        int | None, typer.Option(min=1, help="use only this many images, the first of the split")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("examples"),
    device: Device = "auto",
) -> None:
    """Draw expressions with the best, worst (Fig. 6) and medium IoU (Fig. 2), models side by side.

    Writes successes.png, failures.png, steps.png and examples.json, which has the rule and every IoU shown.
    """
    import json

    import torch

    from maris_fast.data_shards.stream import CacheReader
    from maris_fast.evaluation.evaluate import require_same_encoders
    from maris_fast.pictures.overlays import save_png
    from maris_fast.reports.chosen_examples import RULE, Example, choose, examples_of, examples_sheet
    from maris_fast.system.devices import kind_of
    from maris_fast.system.files import replace_text, writing
    from maris_fast.train.ranks import Ranks
    from maris_fast.weight_files import find_weights
    from maris_fast.weights import load_model

    paths = [find_weights(path) for path in (weights, *(weights_b or ()))]
    ranks = Ranks(torch.device(kind_of(device)))
    with CacheReader(cache, split, device=ranks.device) as reader:
        models = []
        for path in paths:
            model, meta = load_model(path, ranks.device)
            require_same_encoders(meta, reader.manifest.encoders, reader.place)
            models.append(model)
            if told := meta.encoders.caution:
                say(f"note: {told}: {path}", err=True)
        names = names_of(paths)
        found = examples_of(models, reader, ranks, images=images)
        root = Path(reader.manifest.dataset.image_root)
    chosen = choose(found, number)
    record: dict[str, object] = {"split": split, "images": len(found), "rule": RULE, "models": names}
    said: list[str] = []
    chosen_by_name: dict[str, list[Example]] = vars(chosen)
    for name, some in chosen_by_name.items():
        record[name] = [
            {
                "image": one.sample.image,
                "text": one.sample.text,
                "iou": [round(iou, 4) for iou in one.ious],
            }
            for one in some
        ]
        if some:
            sheet = examples_sheet(some, names, root, said.append)
            with writing(out, "--out"):
                out.mkdir(parents=True, exist_ok=True)
                save_png(sheet, out / f"{name}.png")
            ious = ", ".join(f"{one.ious[0]:.2f}" for one in some)
            say(f"{name}: IoU {ious} -> {out / name}.png")
    with writing(out, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / "examples.json", [json.dumps(record, indent=1) + "\n"])
    for sentence in said[:1]:
        say(sentence, err=True)


def names_of(paths: list[Path]) -> list[str]:
    """Names of weights by their run's folder, or by the whole path if two names would be the same."""
    names = [path.resolve().parent.name if path.stem in ("best", "last") else path.stem for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
