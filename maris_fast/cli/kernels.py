"""``kernels``: prove the implementations on this machine, and show which ones calls use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.system.terminal import Table, say

kernels = typer.Typer(
    no_args_is_help=True, help="Prove implementations of the operations on this machine, and show the choice."
)


@kernels.command("prove")
def prove(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="YAML file of a run, for the calls of its model; may be repeated; default: the paper's model"
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="also prove what already has a certificate")] = False,
) -> None:
    """Check and time each implementation on this machine; `auto` takes the fastest correct one."""
    import torch

    from maris_fast.config import ModelSettings, TrainingSettings, load_settings
    from maris_fast.kernels.choice import prove as prove_kinds
    from maris_fast.model.kinds import of_model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = load_settings(TrainingSettings, config, []) if config else None
    bf16 = device.type == "cuda" and (settings is None or settings.engine.precision == "bf16")
    model = settings.model if settings else ModelSettings()
    wanted = of_model(model, torch.bfloat16 if bf16 else torch.float32)
    known = prove_kinds(wanted, device, say, again=again)
    say(f"{len(set(wanted))} kinds of calls are proven on {known.machine['device']}")


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
