"""``train`` and ``eval``: the launcher's command line, made easier to type."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from maris_fast.system import process_table
from maris_fast.system.launchers import alone, free_port
from maris_fast.system.terminal import say

SECONDS_TO_STOP = 120.0
"""For a step and a checkpoint."""
PR_SET_CHILD_SUBREAPER = 36

Ranks = Annotated[int, typer.Option(min=1, help="processes on this machine")]


def train(
    config: Annotated[
        list[Path],
        typer.Option(
            help="YAML file of training settings, or the name of a shipped one, such as refcoco; may be "
            "repeated, later files win"
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings that override the files'")
    ] = None,
    ranks: Ranks = 1,
) -> None:
    """Train: as `deepspeed --num_gpus RANKS train/main.py --config CONFIG [KEY=VALUE]...` does.

    One rank is started without the launcher.
    """
    names = ", ".join(str(file) for file in config)
    say(f"{names} on {ranks} rank{'s' if ranks > 1 else ''}: checking the settings and the cache", err=True)
    from maris_fast import train as package
    from maris_fast.train.main import check

    entry = Path(package.__file__).with_name("main.py")
    files = [part for file in config for part in ("--config", str(file))]
    # Told here, not between the launcher's lines.
    check([*files, *(overrides or ())])
    sys.exit(launch(ranks, str(entry), *files, *(overrides or ())))


def evaluate(
    weights: Annotated[Path, typer.Argument(help="a run's folder, or a weights file")],
    cache: Annotated[Path, typer.Argument(help="folder that `maris-fast cache` wrote")],
    split: Annotated[str, typer.Option(help="split of the cache")] = "val",
    swapped: Annotated[
        bool,
        typer.Option(help="also score with each expression replaced by one of another object of the image"),
    ] = False,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="scoring rules: maris, lavt, cris, cris-val, rela, lisa, vlt, phrasecut or all; may be "
            "repeated, or separated by commas"
        ),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="resamples of images for 95% intervals; 0: no intervals")
    ] = 1000,
    breakdown: Annotated[
        bool, typer.Option(help="print scores by category, size, length and words; always in the JSON")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON file for the scores, or a folder for a file named by data set and split; "
            "`maris-fast report` reads those in a run's folder"
        ),
    ] = None,
    per_expression: Annotated[
        Path | None,
        typer.Option(
            help="JSON lines file for ids, sentence, IoU and predicted mask of each expression; "
            "`maris-fast compare` reads two such files"
        ),
    ] = None,
    ranks: Ranks = 1,
) -> None:
    """Score weights on a split: oIoU, mIoU and Pr@X at the original size, also by other papers' rules."""
    from maris_fast.weight_files import find_weights

    weights = find_weights(weights)
    say(f"scoring {weights} on {split} of {cache}", err=True)
    from maris_fast.train.cache_splits import require_split

    # Told here, not between the launcher's lines.
    require_split(cache, split)
    command = scoring_command(weights, cache, split=split, swapped=swapped, out=out)
    command += [argument for name in protocol or () for argument in ("--protocol", name)]
    command += ["--bootstrap", str(bootstrap), *(["--breakdown"] if breakdown else [])]
    command += ["--per-expression", str(per_expression)] if per_expression is not None else []
    if status := _score_here(command[2:]) if ranks == 1 else launch(ranks, *command):
        sys.exit(status)


def _score_here(arguments: Sequence[str]) -> int:
    """One rank needs no launcher, whose start takes seconds."""
    from maris_fast.evaluation.evaluate import main

    return main(arguments, alone=True)


def scoring_command(
    weights: Path, cache: Path, *, split: str, swapped: bool = False, out: Path | None = None
) -> list[str]:
    """What the launcher is given to score ``weights`` on a split of ``cache``."""
    command = ["--module", "maris_fast.evaluation", str(weights), str(cache), "--split", split]
    if swapped:
        command.append("--swapped")
    if out is not None:
        command += ["--out", str(out)]
    return command


def launch(ranks: int, *command: str) -> int:
    """Runs ``command`` on so many ranks; its exit status.

    Raises:
        KeyboardInterrupt: asked to end, and the ranks have ended: a training with a checkpoint.
    """
    _adopt_orphans()
    words, variables = launched(ranks, *command)
    with subprocess.Popen(words, env={**os.environ, **variables}) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            _end_ranks()
            raise
        if status < 0:  # by a signal that we were not sent
            _end_ranks()
    return status


def _adopt_orphans() -> None:
    """What the launcher leaves becomes our child, where the system can do that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_ranks() -> None:
    """Asks all ranks to end, and waits for them, since a batch system kills those that we leave.

    The launcher does not do that: it dies at once, or waits.
    """
    until = time.monotonic() + SECONDS_TO_STOP
    asked: set[int] = set()
    with suppress(ChildProcessError):
        while time.monotonic() < until:
            for pid in set(_ranks()) - asked:
                asked.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.2)


def _ranks() -> Iterator[int]:
    """Processes below us that the launcher has given a number, without those that they have started."""
    own = os.getpid()
    numbered = {
        pid for pid in process_table.descendants(own) if "RANK" in (process_table.environment(pid) or {})
    }
    return (pid for pid in numbered if process_table.parent(pid) not in numbered)


def launched(ranks: int, *command: str, devices: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """The words and variables that start ``command`` on so many ranks, by DeepSpeed's launcher where needed.

    One rank needs no launcher, whose start takes longer than that of the rank.

    Args:
        devices: a GPU for each rank; the first ones by default.
    """
    if ranks == 1:
        words = ["-m", *command[1:]] if command[0] == "--module" else command
        visible = {"CUDA_VISIBLE_DEVICES": devices[0]} if devices else {}
        return [sys.executable, "-u", *words], {**alone(), **visible}
    launcher = Path(sys.executable).with_name("deepspeed")
    # Of this very environment, whatever else is first on PATH.
    variables = {"PATH": f"{launcher.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    where = ["--include", f"localhost:{','.join(devices)}"]
    if not devices:
        where = ["--num_gpus", str(ranks)]
        # Ranks set their own; without one the launcher warns twice of a machine without a GPU.
        variables["DS_ACCELERATOR"] = os.environ.get("DS_ACCELERATOR", "cpu")
    # The launcher's own choice is one fixed port, and two runs on a machine would meet there.
    port = ["--master_port", str(free_port())]
    # What it does all the time would stand before what the command has to say.
    quiet = ["--log_level", "error"]
    return [sys.executable, str(launcher), *quiet, *where, *port, *command], variables
