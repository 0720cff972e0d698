"""``info``: what a file or folder of this project is, and what this machine would run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from maris_fast.config import StoreAddress


def info(
    path: Annotated[
        str | None, typer.Argument(help="weights, an imported data set or a cache, which may be an address")
    ] = None,
) -> None:
    """Describe weights, a data set or a cache; without a path, this machine and its implementations."""
    from rich.console import Console

    from maris_fast.config import cache_place
    from maris_fast.system.terminal import Table

    place = None if path is None else cache_place(path)
    rows = machine() if place is None else describe(place)
    table = Table(show_header=False, title="this machine" if place is None else str(place))
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console().print(table)


def describe(path: Path | StoreAddress) -> dict[str, Any]:
    """Names and values of the metadata of ``path``, or of the cache at an address.

    Raises:
        InputError: not a file or folder of this project.
    """
    from maris_fast.data_shards.cache import read_manifest
    from maris_fast.data_shards.cache.manifest import MANIFEST
    from maris_fast.data_shards.records import HEAD, ImportedDataset
    from maris_fast.errors import CheckpointError, InputError
    from maris_fast.weight_files import find_weights

    if not isinstance(path, Path) or (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        return _with(manifest.model_dump(mode="json"), manifest.dataset.incomplete(manifest.splits))
    if (path / HEAD).is_file():
        head = ImportedDataset(path).info
        return _with(head.model_dump(mode="json"), head.incomplete())
    try:
        weights = find_weights(path)
    except CheckpointError as error:
        raise InputError(
            f"{path} is not a weights file, imported data set, cache or run folder of this project"
        ) from error
    from maris_fast.weights import load_weights

    tensors, meta = load_weights(weights)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return {"tensors": f"{len(tensors)}, {parameters:,} numbers", **meta.model_dump(mode="json")}


def _with(rows: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    return {**rows, "not complete": "\n".join(warnings)} if warnings else rows


def machine() -> dict[str, Any]:
    """Versions, devices, and what ``impl="auto"`` selects on each."""
    import os
    import platform

    import torch

    from maris_fast import __version__
    from maris_fast.kernels.choice.table import summary, version_of
    from maris_fast.kernels.cross_attention import candidates as cross
    from maris_fast.kernels.multihead_attention import candidates as multihead
    from maris_fast.kernels.multihead_attention.memory_efficient import why_not_built
    from maris_fast.kernels.mutual_attention import candidates as mutual

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows: dict[str, Any] = {
        "python": platform.python_version(),
        "maris-fast": __version__,
        **{
            name: version_of(name) or "not installed" for name in ("torch", "triton", "xformers", "deepspeed")
        },
        "cpu cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    for name in devices:
        device = torch.device(name)
        dtype = torch.bfloat16 if name == "cuda" else torch.float32
        rows[f"mutual_attention on {name}"] = summary(mutual.OPERATION, device, mutual.REFERENCE)
        order = cross.PROJECTED if name == "cuda" else f"{cross.FOLDED} where it has fewer products"
        rows[f"cross_attention on {name}"] = summary(cross.OPERATION, device, order)
        plain = multihead.Kind(str(dtype).removeprefix("torch."), 8, 32, 4096, 4096, False, True)
        usual = multihead.usual(plain, device)
        rows[f"multihead_attention on {name}"] = summary(multihead.OPERATION, device, usual)
        if name == "cuda":
            rows["xformers' attention"] = why_not_built() or "runs here"
    return rows
