"""Checkpoints a run resumes from: whole tensors by name, whatever ZeRO stage and number of ranks wrote them.

::

    <run>/checkpoints/step-00001234/state.safetensors    model.<name>, optimiser.<moment>.<name>; fp32
    <run>/checkpoints/step-00001234/state.json           where the run stood, and the tensors' checksum

A checkpoint is written under another name, flushed to disk and then renamed; older ones go only after that.
So the last good one is never lost, and what a crash leaves behind is recognised by its name or checksum.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maris_fast.errors import CheckpointError
from maris_fast.files import flush, sha256_of

FORMAT_VERSION = 1
FOLDER, TENSORS, STATE = "checkpoints", "state.safetensors", "state.json"

log = logging.getLogger(__name__)


class Best(BaseModel):
    """The best evaluation so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    score: float = Field(description="oIoU on data.val_split")


class RunState(BaseModel):
    """Where a run stands after ``step`` steps; with the tensors, all that resuming needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    step: int = Field(description="optimiser steps done")
    epoch: int = Field(description="of the next step, from 0")
    step_in_epoch: int = Field(description="of the next step, from 0")
    seed: int
    evaluated: int | None = Field(description="step of the last evaluation")
    best: Best | None
    data: str = Field(description="fingerprint of the cache; another one has another order")
    settings: dict[str, Any]
    sha256: str = Field("", description="of state.safetensors")


def save(run: Path, state: RunState, tensors: Mapping[str, Tensor], keep: int) -> Path:
    """Writes a checkpoint of ``run`` and then removes all but the newest ``keep``; called by one process.

    Raises:
        CheckpointError: it could not be written; the checkpoints before it are untouched.
    """
    folder = run / FOLDER
    final = folder / f"step-{state.step:08d}"
    partial = folder / f".{final.name}.partial"
    if _complete(final) is not None:
        return final  # resumed from there and stopped at once
    try:
        _discard(partial)
        partial.mkdir(parents=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / TENSORS
        )
        (partial / TENSORS).chmod(0o644)  # safetensors writes for the owner alone
        state = state.model_copy(update={"sha256": sha256_of(partial / TENSORS)})
        (partial / STATE).write_text(state.model_dump_json(indent=1))
        for file in (partial / TENSORS, partial / STATE, partial):
            flush(file)
        _discard(final)  # a torn one
        partial.rename(final)
        flush(folder)
    except OSError as error:
        with suppress(OSError):
            _discard(partial)
        raise CheckpointError(
            f"checkpoint {final} could not be written: {error}; earlier ones are untouched. Make room on "
            "that disk, or set run.folder to another, then go on with run.resume=auto"
        ) from error
    older = [other for other in _newest_first(run) if other.name < final.name]
    for old in older[keep - 1 :]:
        _discard(old)
    return final


def newest(run: Path) -> tuple[Path, RunState] | None:
    """The newest complete checkpoint of ``run``; torn ones are passed over with a warning.

    Raises:
        CheckpointError: written by another format version.
    """
    for folder in _newest_first(run):
        state = _complete(folder)
        if state is not None:
            return folder, state
        log.warning("checkpoint %s is torn and passed over", folder)
    return None


def check_shapes(folder: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Compares the checkpoint's tensors with the names and shapes that the model of this run needs.

    Raises:
        CheckpointError: the first tensor that is missing, left over or of another shape.
    """
    with safe_open(folder / TENSORS, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{folder} was made for another model: {name} is {found.get(name, 'missing')} there and "
                f"{wanted.get(name, 'missing')} here; set model.* (model.channels first) as the "
                f"settings in its {STATE} say, and data.cache to a cache of the same "
                "encoders, or train into a new run.folder"
            )


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, on the CPU."""
    with safe_open(folder / TENSORS, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _newest_first(run: Path) -> list[Path]:
    return sorted((run / FOLDER).glob("step-*"), reverse=True)


def _complete(folder: Path) -> RunState | None:
    try:
        values = json.loads((folder / STATE).read_text())
        if values["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder} has format version {values['format_version']}, this program reads "
                f"{FORMAT_VERSION}; go on with the program that wrote it, or train into a new run.folder"
            )
        state = RunState.model_validate(values)
        return state if sha256_of(folder / TENSORS) == state.sha256 else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError, SafetensorError):
        return None


def _discard(folder: Path) -> None:
    if folder.exists():
        # A half-removed checkpoint must not look like one.
        gone = folder.with_name(f".{folder.name.lstrip('.')}.removed")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)
