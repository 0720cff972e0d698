"""What each stored type loses and costs, on real photographs through the ViT-B architecture.

    python bench/stored_types.py PHOTOGRAPHS... [--count 24] [--image-size 512]

PHOTOGRAPHS are folders with .jpg files; evenly spaced ones are taken. The weights are random, so there are
none of the outlying channels of a trained SAM: with its checkpoint, name it with --weights. Writes
bench/results/<device>/stored_types.json, and the table of data_shards/cache/README.md from it; with --draw
and no folder only the latter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maris_fast.bench.drawing.markdown import replace_block
from maris_fast.bench.results import ROOT, device_folder
from maris_fast.config import SamSettings
from maris_fast.data_shards.cache.features import STORED, as_tensor, from_stored, to_stored
from maris_fast.encoders import SamEncoder, place
from maris_fast.images import load_image
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

RESULTS = ROOT / "bench" / "results"
WHOLE = "int8, one scale a channel for the whole data set"


def measure(photographs: Sequence[Path], settings: SamSettings) -> dict[str, dict[str, Any]]:
    """Per stored type: bytes an image, and the relative RMS error of each level, mean and largest."""
    encoder = SamEncoder(settings, place("auto", "auto")[0])
    features = [encoder.encode([load_image(path)])[0] for path in photographs]
    whole = [torch.stack([each[n].abs().amax((0, 1)) for each in features]).amax(0) / 127 for n in range(3)]
    rows: dict[str, dict[str, Any]] = {}
    for name in (*STORED, WHOLE):
        errors, sizes = [], []
        for levels in features:
            kept = [
                whole_scale(level, scale) if name == WHOLE else round_trip(level, name)
                for level, scale in zip(levels, whole, strict=True)
            ]
            errors.append([relative(one, level) for (one, _), level in zip(kept, levels, strict=True)])
            sizes.append(sum(size for _, size in kept))
        table = torch.tensor(errors)  # [images, 3]
        rows[name] = {
            "bytes_an_image": sum(sizes) / len(sizes),
            "rms_error_mean": table.mean(0).tolist(),
            "rms_error_largest": table.amax(0).tolist(),
        }
    return rows


def round_trip(level: Tensor, dtype: Any) -> tuple[Tensor, int]:
    """The level as a reader gets it, and its bytes in the shard with its scales."""
    q, scale = to_stored(level, dtype)
    out = torch.empty_like(level, device="cpu")
    from_stored(as_tensor(q, dtype), None if scale is None else torch.from_numpy(scale), out)
    return out.to(level.device), q.nbytes + (0 if scale is None else scale.nbytes)


def whole_scale(level: Tensor, scale: Tensor) -> tuple[Tensor, int]:
    """The same with a scale that all images share, which costs nothing an image."""
    return (level / scale).round().clamp(-127, 127) * scale, level.numel()


def relative(kept: Tensor, level: Tensor) -> float:
    return float((kept - level).square().mean().sqrt() / level.square().mean().sqrt())


def table(result: dict[str, Any]) -> str:
    """Markdown for the cache's README."""
    lines = [
        "| stored | MB an image | RMS error, levels 1, 2, 3 | largest of an image |",
        "|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        mean = ", ".join(f"{100 * error:.2f}%" for error in row["rms_error_mean"])
        largest = 100 * max(row["rms_error_largest"])
        lines.append(f"| {name} | {row['bytes_an_image'] / 1e6:.2f} | {mean} | {largest:.2f}% |")
    place, commit = result["conditions"], str(result["conditions"]["commit"])[:12]
    lines += [
        "",
        f"({result['images']} photographs at {result['image_size']} px, ViT-B with {result['weights']} "
        f"weights; {place['device']}, torch {place['packages']['torch']}, commit {commit}, "
        f"{result['date']}.)",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path, nargs="*")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    if not options.draw:
        keep(parser, options)
    result = json.loads((RESULTS / "cpu" / "stored_types.json").read_text())
    replace_block(ROOT / "data_shards" / "cache" / "README.md", "stored-types", table(result))


def keep(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    found = sorted(path for folder in options.photographs for path in folder.rglob("*.jpg"))
    if not found:
        parser.error(f"no .jpg below {', '.join(map(str, options.photographs))}")
    chosen = found[:: max(1, len(found) // options.count)][: options.count]
    conditions = environment(Ranks(place("auto", "auto")[0]))
    settings = SamSettings(arch="vit_b", weights=options.weights, image_size=options.image_size)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "conditions": conditions,
        "images": len(chosen),
        "image_size": options.image_size,
        "weights": Path(options.weights).name,
        "rows": measure(chosen, settings),
    }
    out = RESULTS / device_folder(conditions) / "stored_types.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"kept in {out}")


if __name__ == "__main__":
    main()
