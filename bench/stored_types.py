"""Error and size of each stored type of a feature map, on photographs through SAM's image encoder.

    python -m maris_fast.bench.stored_types PHOTOGRAPHS --arch vit_h --image-size 1024 --weights sam_vit_h.pth

Each type goes through the functions that the cache's writer and reader use. ``--weights random`` says little
about a trained SAM, some of whose channels are far larger than the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import typer
from torch import Tensor

from maris_fast.bench.program import run_program
from maris_fast.bench.results import BENCH, Row, Suite
from maris_fast.config import MOST_PIXELS_A_SIDE, FeatureDtype, SamSettings
from maris_fast.data_shards.cache.features import as_tensor, from_stored, to_stored
from maris_fast.encoders import SamEncoder
from maris_fast.images import load_image
from maris_fast.system.devices import place
from maris_fast.system.terminal import say
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

ONE_SCALE = "int8, one scale a channel for the whole data set"
LARGEST_INT8 = torch.iinfo(torch.int8).max


def main(
    photographs: Annotated[Path, typer.Argument(help="a folder; its .jpg files, at any depth")],
    count: Annotated[int, typer.Option(min=1, help="of them, evenly spaced")] = 24,
    arch: Annotated[
        Literal["vit_h", "vit_l", "vit_b", "vit_tiny"], typer.Option(help="SAM's image encoder")
    ] = "vit_b",
    image_size: Annotated[
        int, typer.Option(min=1, max=MOST_PIXELS_A_SIDE, help="longest side, pixels")
    ] = 512,
    weights: Annotated[str, typer.Option(help="a checkpoint of SAM, or random")] = "random",
    out: Annotated[Path, typer.Option(help="where <device>/stored_types.json goes")] = BENCH / "results",
) -> None:
    """Measure bytes and error of each stored type; ``maris-fast bench report`` draws the table."""
    found = sorted(photographs.rglob("*.jpg"))
    if not found:
        raise typer.BadParameter(f"no .jpg file below {photographs}")
    settings = SamSettings(arch=arch, weights=weights, image_size=image_size)
    device, precision = place("auto", "auto")
    encoder = SamEncoder(settings, device, precision)
    chosen = found[:: max(1, len(found) // count)][:count]
    features = [encoder.encode([load_image(path)])[0] for path in chosen]
    conditions = {
        "images": len(chosen),
        "arch": arch,
        "image_size": image_size,
        "weights": Path(weights).name,
    }
    rows = [conditions | row for row in measured(features)]
    say(f"wrote {Suite.now('stored_types', environment(Ranks(device)), rows).save(out)}")


def measured(features: Sequence[Sequence[Tensor]]) -> Iterator[Row]:
    """Bytes per image, and for each level RMS error over RMS of the features: mean and largest over images.

    Args:
        features: levels of each image, float [h, w, C_v].
    """
    levels = range(len(features[0]))
    scales = [
        torch.stack([image[n].abs().amax((0, 1)) for image in features]).amax(0) / LARGEST_INT8
        for n in levels
    ]
    for name in (*get_args(FeatureDtype), ONE_SCALE):
        errors, sizes = [], []
        for image in features:
            kept = [
                _with_scale(level, scale) if name == ONE_SCALE else _round_trip(level, name)
                for level, scale in zip(image, scales, strict=True)
            ]
            errors.append([_relative(back, level) for (back, _), level in zip(kept, image, strict=True)])
            sizes.append(sum(size for _, size in kept))
        table = torch.tensor(errors)  # [images, levels]
        yield {
            "stored": name,
            "bytes_an_image": sum(sizes) / len(sizes),
            "rms_error_mean": table.mean(0).tolist(),
            "rms_error_largest": table.amax(0).tolist(),
        }


def _round_trip(level: Tensor, dtype: FeatureDtype) -> tuple[Tensor, int]:
    """The level as a reader returns it, and its bytes in the shard including its scales."""
    q, scale = to_stored(level, dtype)
    back = torch.empty_like(level, device="cpu", dtype=torch.float32)
    from_stored(as_tensor(q, dtype), None if scale is None else torch.from_numpy(scale), back)
    return back, q.nbytes + (0 if scale is None else scale.nbytes)


def _with_scale(level: Tensor, scale: Tensor) -> tuple[Tensor, int]:
    """The same in int8 with a scale shared by all images, which no image has to store."""
    q = (level / scale).round().clamp(-LARGEST_INT8, LARGEST_INT8)
    return (q * scale).float().cpu(), level.numel()


def _relative(back: Tensor, level: Tensor) -> float:
    level = level.float().cpu()
    return float((back - level).square().mean().sqrt() / level.square().mean().sqrt())


if __name__ == "__main__":
    run_program(main)
