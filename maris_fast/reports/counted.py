"""Which runs a page shows one by one, and which it only counts in the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maris_fast.ablation.paper import OURS
from maris_fast.ablation.record import ABLATION, DONE, Record
from maris_fast.errors import InputError


def shown_and_counted(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Run folders to show, and all to count: of an ablation, one run stands for the others.

    Raises:
        InputError: an ablation of which no run is finished.
    """
    shown: list[Path] = []
    counted: list[Path] = []
    for folder in folders:
        if not (folder / ABLATION).is_file():
            shown.append(folder)
            counted.append(folder)
            continue
        runs = Record.read(folder).runs
        done = [name for name, run in runs.items() if run["state"] == DONE]
        if not done:
            raise InputError(
                f"{folder} is an ablation of which no run is finished; run the same command again"
            )
        first = next((name for name in done if runs[name]["row"] == OURS), done[0])
        shown.append(folder / first)
        counted += [folder / name for name in done]
    return shown, counted
