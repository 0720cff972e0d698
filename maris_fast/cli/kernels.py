"""``kernels``: prove the implementations on this machine, and show which ones calls use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maris_fast.system.terminal import Table, say

if TYPE_CHECKING:
    import torch

    from maris_fast.config import TrainingSettings
    from maris_fast.kernels.choice import Operation

kernels = typer.Typer(
    no_args_is_help=True, help="Prove implementations of the operations on this machine, and show the choice."
)


@kernels.command("prove")
def prove(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="YAML file of a run, for the calls of its model on its cache; may be repeated; default: the "
            "paper's model on a grid of 64 × 48"
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="also prove what already has a certificate")] = False,
) -> None:
    """Check and time each implementation on this machine; `auto` takes the fastest correct one."""
    import torch

    from maris_fast.config import ModelSettings, TrainingSettings, load_settings
    from maris_fast.kernels.choice import prove as prove_kinds
    from maris_fast.kernels.choice import text
    from maris_fast.model.kinds import of_model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = load_settings(TrainingSettings, config, []) if config else None
    bf16 = device.type == "cuda" and (settings is None or settings.engine.precision == "bf16")
    dtype = torch.bfloat16 if bf16 else torch.float32
    wanted = of_model(ModelSettings(), dtype) if settings is None else _of_run(settings, dtype)
    known = prove_kinds(wanted, device, say, again=again)
    found = [known.find(operation.name, text(kind)) for operation, kind in wanted]
    proven = [one for one in found if one is not None and one["chosen"]]
    lacking = f", none of {len(found) - len(proven)} others" if len(proven) < len(found) else ""
    say(f"{len(proven)} kinds of calls are proven on {known.machine['device']}{lacking}")


def _of_run(settings: TrainingSettings, dtype: torch.dtype) -> list[tuple[Operation, Any]]:
    """The calls of a run: on its cache's grids and words, or on the usual ones if there is no cache yet."""
    from maris_fast.data_shards.cache.manifest import MANIFEST
    from maris_fast.data_shards.stream import CacheReader
    from maris_fast.model.kinds import GRIDS, WORDS, of_model
    from maris_fast.train.kernel_choice import kinds_of

    data = settings.data
    if data.shards is None and isinstance(data.cache, Path) and not (data.cache / MANIFEST).is_file():
        (h, w), *_ = GRIDS
        say(
            f"there is no cache at data.cache = {data.cache} yet, so calls are proven for grids of {h} × {w} "
            f"and up to {WORDS} words; a run proves what its cache needs besides"
        )
        return of_model(settings.model, dtype)
    with CacheReader(data.cache, data.train_split, data) as reader:
        return kinds_of(settings, reader, dtype)


@kernels.command("show")
def show() -> None:
    """Show which implementation each proven kind of call uses on this machine, and why not the others."""
    import torch
    from rich.console import Console

    from maris_fast.kernels.choice.table import of_device

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = of_device(device)
    if not known.operations:
        say(
            f"nothing is proven on {known.machine['device']} yet ({known.file} is not there); "
            "`maris-fast kernels prove` does it, and `auto` takes the safe implementations until then"
        )
        return
    table = Table("operation", "kind", "auto takes", "tried", title=str(known.file))
    for operation, kinds in known.operations.items():
        for kind, found in kinds.items():
            tried = [
                f"{name}: {result['ms']:.3g} ms" if "ms" in result else f"{name}: {result['reason']}"
                for name, result in found["results"].items()
            ]
            table.add_row(operation, kind, found["chosen"] or "the safe one", "\n".join(tried))
    Console().print(table)
