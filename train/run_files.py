"""The files of a run in its folder: how a run is recognised, and how a former one is set aside."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

from maris_fast.train import checkpoints
from maris_fast.weight_files import BEST, LAST

SETTINGS, ENVIRONMENT = "settings.yaml", "environment.json"
METRICS, PICTURES, BOARD, REPORT = "metrics.jsonl", "pictures", "tensorboard", "report.html"
WANDB, WANDB_ID = "wandb", "wandb_id"
SCORES = "scores-*.json"
FORMER = "former-"

_RUN = (SETTINGS, METRICS, BEST, LAST, checkpoints.FOLDER, checkpoints.LATEST)
_ALL = (*_RUN, ENVIRONMENT, PICTURES, BOARD, REPORT, WANDB, WANDB_ID, SCORES)

log = logging.getLogger(__name__)


def is_unused(folder: Path) -> bool:
    """Whether the folder is missing or holds only hidden files, such as a lock, and former runs set aside."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name.startswith((".", FORMER)) for path in folder.iterdir())


def holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in _RUN)


def had_weights(folder: Path) -> bool:
    """Whether the run ever saved weights or a checkpoint, even if its checkpoints are gone now."""
    if any((folder / name).exists() for name in (BEST, LAST, checkpoints.LATEST)):
        return True
    kept = folder / checkpoints.FOLDER
    return kept.is_dir() and any(not path.name.startswith(".") for path in kept.iterdir())


def set_aside(folder: Path) -> None:
    """Moves the files of a former run into ``former-1``, or the next free number."""
    left = sorted({path for name in _ALL for path in folder.glob(name)})
    if not left:
        return
    numbered = (folder / f"{FORMER}{number}" for number in itertools.count(1))
    former = next(path for path in numbered if not path.exists())
    former.mkdir()
    for path in left:
        path.rename(former / path.name)
    log.warning(
        "%s already held a run: this one starts from the beginning, and the earlier one is now in %s",
        folder,
        former,
    )
