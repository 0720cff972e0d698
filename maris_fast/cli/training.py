"""``train``: a simpler command line for the launcher."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.launching import Ranks, launch
from maris_fast.cli.options import Overrides
from maris_fast.system.terminal import say


def train(
    config: Annotated[
        list[Path],
        typer.Option(
            help="YAML file of training settings, or the name of a shipped one, such as refcoco; may be "
            "repeated, later files win"
        ),
    ],
    overrides: Overrides = None,
    ranks: Ranks = 1,
) -> None:
    """Train: as `deepspeed --num_gpus RANKS train/main.py --config CONFIG [KEY=VALUE]...` does.

    One rank is started without the launcher. Further options of train/main.py:
    --resume never|auto|restart, the same as run.resume=..., and --dry-run, which
    prints the settings and DeepSpeed's configuration, and exits.
    """
    names = ", ".join(str(file) for file in config)
    say(f"{names} on {ranks} rank{'s' if ranks > 1 else ''}: checking the settings and the cache", err=True)
    from maris_fast import train as package
    from maris_fast.train.main import check

    entry = Path(package.__file__).with_name("main.py")
    files = [part for file in config for part in ("--config", str(file))]
    # Checked here, so that an error is not lost in the launcher's output.
    check([*files, *(overrides or ())])
    sys.exit(launch(ranks, str(entry), *files, *(overrides or ())))
