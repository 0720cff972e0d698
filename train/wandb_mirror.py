"""Records and pictures sent to Weights & Biases too, if asked for; the package does not depend on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from maris_fast.config import PRIVATE, TrainingSettings
from maris_fast.errors import ConfigError
from maris_fast.train.by_products import ByProduct
from maris_fast.train.run_files import WANDB_ID


def require_wandb(project: str | None) -> None:
    """Refuses a run that could not be mirrored, before it starts.

    Raises:
        ConfigError: a project is named and wandb is not installed.
    """
    if project is not None and find_spec("wandb") is None:
        raise ConfigError(
            f"run.wandb_project = {project} needs wandb, which is not installed: pip install wandb, or set "
            "run.wandb_project=null; metrics.jsonl and TensorBoard have the same numbers"
        )


class WandbMirror:
    """One W&B run, continued when the training is resumed; ``WANDB_MODE=offline`` works as usual.

    A failure (no login, no network) switches the mirror off with a warning; the training goes on.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self._run: Any = None
        self._mirror = ByProduct("W&B", "it is off from here on; training continues")
        self._do(lambda: self._start(settings))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._do(lambda: self._run.log(values, step=step))

    def picture(self, step: int, picture: Image.Image) -> None:
        def send() -> None:
            import wandb

            self._run.log({"samples": wandb.Image(picture)}, step=step)

        self._do(send)

    def close(self) -> None:
        self._do(lambda: self._run.finish())

    def _start(self, settings: TrainingSettings) -> None:
        import wandb

        section, key = PRIVATE
        self._run = wandb.init(
            project=settings.run.wandb_project,
            name=settings.run.folder.name,
            dir=str(settings.run.folder),
            id=_id(settings.run.folder),
            resume="allow",
            config=settings.model_dump(mode="json", exclude={section: {key}}),
        )

    def _do(self, work: Callable[[], None]) -> None:
        if not self._mirror.failures:
            self._mirror.attempt(work)


def _id(folder: Path) -> str:
    """The id of the W&B run that belongs to this run folder."""
    path = folder / WANDB_ID
    if not path.is_file():
        path.write_text(secrets.token_hex(6))
    return path.read_text().strip()
