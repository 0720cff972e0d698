"""Resuming a run from its folder: what may differ, and how the tensors reach all ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor, nn

from maris_fast.config import ReadingSettings, RunSettings, TrainingSettings, flat
from maris_fast.errors import CheckpointError, ConfigError
from maris_fast.train import checkpoints, run_files
from maris_fast.train.checkpoints import RunState
from maris_fast.train.optimiser_state import MOMENTS
from maris_fast.train.ranks import Ranks
from maris_fast.train.run_files import SETTINGS

# Another value means another order of the expressions, so the run would not be the one that was stopped.
FIXED = ("run.seed", "data.train_split", "data.expressions_per_step", "data.expressions_per_image")
# Where and how it runs may change freely.
FREE = ("run.", "engine.", "data.cache", *(f"data.{name}" for name in ReadingSettings.model_fields))

log = logging.getLogger(__name__)


def find(run: RunSettings) -> tuple[Path, RunState] | None:
    """The checkpoint to resume from, None for a new run; called on one rank, and changes nothing.

    With ``auto``, a run that was stopped before it had saved any weights is a new run.

    Raises:
        ConfigError: the folder is not empty, and is not to be resumed or holds no run; or it cannot be read.
        CheckpointError: it holds a run that cannot be resumed; says what it holds.
    """
    folder = run.folder
    try:
        if run_files.is_unused(folder):
            return None
        if run.resume == "never":
            raise ConfigError(
                f"run.folder {folder} is not empty; resume from its last checkpoint with run.resume=auto, or "
                "set run.folder to a new one"
            )
        if not run_files.holds_run(folder):
            raise ConfigError(
                f"run.folder {folder} is not empty and holds no run (no {SETTINGS}) that could be resumed; "
                "set run.folder to a new one"
            )
        if run.resume == "restart":
            return None
        found = checkpoints.newest(folder)
        if found is None and run_files.had_weights(folder):
            raise checkpoints.cannot_go_on(folder, checkpoints.absence(folder))
    except OSError as error:
        raise ConfigError(
            f"run.folder {folder} cannot be read: {error}; give this user the right to, or set it to another"
        ) from error
    return found


def check(folder: Path, state: RunState, settings: TrainingSettings, data: str, model: nn.Module) -> None:
    """Checks that the checkpoint can be resumed with these settings, this cache and this model.

    Raises:
        CheckpointError: it cannot; says which setting or tensor differs first.
    """
    before, now = flat(_completed(state.settings)), flat(settings.model_dump(mode="json"))
    for name in FIXED:
        if before.get(name) != now[name]:
            raise CheckpointError(
                f"{folder} was trained with {name} = {before.get(name)}, the settings say {now[name]}; "
                f"set {name}={before.get(name)}, or train into a new run.folder"
            )
    checkpoints.check_shapes(folder, _shapes(model))
    if state.data != data:
        raise CheckpointError(
            f"{folder} was trained on another cache (fingerprint {state.data}) than data.cache now names "
            f"({data}); set data.cache = {before.get('data.cache')}, or train into a new run.folder"
        )
    for name in sorted(now):
        if now[name] != before.get(name) and not name.startswith(FREE):
            log.warning("%s was %s and is %s from step %d on", name, before.get(name), now[name], state.step)


def _completed(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint's settings, with defaults for those that did not exist when it was written."""
    try:
        return TrainingSettings.model_validate(settings).model_dump(mode="json")
    except ValidationError:  # some settings no longer exist: returned unchanged
        return settings


def load(folder: Path, model: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """Fills ``model``, not yet partitioned, on all ranks, and returns Adam's moments, ``<moment>.<name>``.

    Only rank 0 reads, so that machines need not share a disk.
    """
    tensors: dict[str, Tensor] = {}
    ranks.from_rank_zero(lambda: tensors.update(checkpoints.read(folder)))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            _receive(tensor, tensors.get(f"model.{name}"))
    moments: dict[str, Tensor] = {}
    for key in MOMENTS:
        for name, parameter in model.named_parameters():
            moments[f"{key}.{name}"] = moment = torch.empty_like(parameter, requires_grad=False)
            _receive(moment, tensors.get(f"optimiser.{key}.{name}"))
    return moments


def _receive(tensor: Tensor, sent: Tensor | None) -> None:
    if sent is not None:
        tensor.copy_(sent)
    dist.broadcast(tensor, src=0)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes = {f"model.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for key in MOMENTS:
        for name, parameter in model.named_parameters():
            shapes[f"optimiser.{key}.{name}"] = tuple(parameter.shape)
    return shapes
