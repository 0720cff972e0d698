"""Checkpoints a run resumes from: whole tensors by name, whatever ZeRO stage and number of ranks wrote them.

::

    <run>/checkpoints/step-00001234/state.safetensors    model.<name>, optimiser.<moment>.<name>; fp32
    <run>/checkpoints/step-00001234/state.json           the run's state, and the tensors' checksum
    <run>/latest-checkpoint                              the newest one's name, outside of ``checkpoints/``

A checkpoint is written under another name, flushed to disk, then renamed; only then are older ones removed.
So the last good one is never lost, and what a crash leaves behind is recognised by its name or checksum.
Folders of other names belong to the user: never read, never removed.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from maris_fast.errors import CheckpointError
from maris_fast.system.files import flush, replace_text, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
FOLDER, TENSORS, STATE = "checkpoints", "state.safetensors", "state.json"
LATEST = "latest-checkpoint"
_LEFT_OVER = re.compile(r"\.step-\d{8,}\.(partial|removed)")

log = logging.getLogger(__name__)


class Best(BaseModel):
    """The best evaluation so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    score: float = Field(description="oIoU on data.val_split")


class RunState(BaseModel):
    """The state of a run after ``step`` steps; with the tensors, all that resuming needs."""

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


WAYS_OUT = (
    "Nothing was changed. Repair the newest checkpoint or copy it back, or move unusable ones out of "
    "checkpoints/ to resume from an older one; train into a new run.folder; or start again in this one with "
    "run.resume=restart, which first moves the earlier run's files into a folder of their own"
)


@dataclass(frozen=True)
class Unusable:
    """A checkpoint that cannot be resumed from.

    ``damaged``: it is incomplete or damaged, so that an older one takes its place and it may be
    overwritten. One that merely cannot be read now, or by this version, may hold days of training.
    """

    why: str
    damaged: bool


def save(run: Path, state: RunState, tensors: Mapping[str, Tensor], keep: int) -> Path:
    """Writes a checkpoint of ``run`` and then removes all but the newest ``keep``; called by one process.

    Raises:
        CheckpointError: it could not be written; the checkpoints before it are untouched.
    """
    from safetensors.torch import save_file

    folder = run / FOLDER
    final = folder / _name(state.step)
    partial = folder / f".{final.name}.partial"
    there = _look(final)
    if isinstance(there, RunState):
        return final  # resumed from there and stopped at once
    if not there.damaged:
        raise CheckpointError(f"checkpoint {final} is not written again: it is there, but {there.why}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.iterdir():
            if _LEFT_OVER.fullmatch(left_over.name):
                shutil.rmtree(left_over)
        partial.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / TENSORS
        )
        (partial / TENSORS).chmod(0o644)  # safetensors makes it readable for the owner only
        state = state.model_copy(update={"sha256": sha256_of(partial / TENSORS)})
        (partial / STATE).write_text(state.model_dump_json(indent=1))
        for file in (partial / TENSORS, partial / STATE, partial):
            flush(file)
        _discard(final)  # a damaged one
        partial.rename(final)
        flush(folder)
    except (OSError, SafetensorError) as error:  # safetensors raises its own for a full disk
        with suppress(OSError):
            shutil.rmtree(partial)
        raise CheckpointError(
            f"checkpoint {final} could not be written: {error}; earlier ones are untouched. Make room on "
            "that disk, or set run.folder to another, then resume with run.resume=auto"
        ) from error
    try:
        older = [other for other in _newest_first(run) if (_step(other) or 0) < state.step]
        for old in older[keep - 1 :]:
            _discard(old)
        replace_text(run / LATEST, [final.name, "\n"])
    except OSError as error:
        log.warning("checkpoint %s is written; cleaning up after it failed: %s", final, error)
    return final


def newest(run: Path) -> tuple[Path, RunState] | None:
    """The newest complete checkpoint of ``run``, None if there is none; damaged ones are skipped.

    Raises:
        CheckpointError: all are damaged, or an undamaged one cannot be used; says what is in each.
    """
    seen: dict[Path, RunState | Unusable] = {}
    for folder in _newest_first(run):
        seen[folder] = found = _look(folder)
        passed = {other: one for other, one in seen.items() if isinstance(one, Unusable)}
        if isinstance(found, RunState) and all(one.damaged for one in passed.values()):
            for other, one in passed.items():
                log.warning("checkpoint %s is incomplete or damaged and skipped: it %s", other, one.why)
            return folder, found
    if not seen:
        return None
    told = [
        f"{folder.name} {one.why if isinstance(one, Unusable) else 'is whole'}"
        for folder, one in seen.items()
    ]
    raise cannot_go_on(run, "; ".join(told))


def cannot_go_on(run: Path, found: str) -> CheckpointError:
    return CheckpointError(f"run.folder {run} holds a run that cannot be resumed: {found}. {WAYS_OUT}")


def check_shapes(folder: Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Compares the checkpoint's tensors with the names and shapes that the model of this run needs.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape (names the first); no such file.
    """
    with _opened(folder / TENSORS) as file:
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
    """All tensors of a checkpoint, on the CPU.

    Raises:
        CheckpointError: they cannot be read.
    """
    with _opened(folder / TENSORS) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def absence(run: Path) -> str:
    """Why a run that has saved weights has no checkpoint, as far as its folder shows."""
    folder = run / FOLDER
    if not folder.is_dir():
        return f"it has no folder {FOLDER}"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not names:
        return f"its folder {FOLDER} is empty"
    return f"nothing in its folder {FOLDER} has a checkpoint's name such as {_name(1)}: {', '.join(names)}"


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(folder: Path) -> int | None:
    """The step in a checkpoint's name exactly as ``save`` writes it; None for any other name."""
    digits = folder.name.removeprefix("step-")
    if not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits) if _name(int(digits)) == folder.name else None


def _newest_first(run: Path) -> list[Path]:
    folder = run / FOLDER
    paths = list(folder.iterdir()) if folder.is_dir() else []
    steps = {step: path for path in paths if (step := _step(path)) is not None}
    return [steps[step] for step in sorted(steps, reverse=True)]


def _look(folder: Path) -> RunState | Unusable:
    """The state of the run, or why the checkpoint cannot be used."""
    path = folder / STATE
    try:
        values = json.loads(path.read_text())
        version = values["format_version"]
        if version != FORMAT_VERSION:
            return Unusable(
                f"has format version {version}, this program reads {FORMAT_VERSION}: another version of "
                "the program wrote it",
                damaged=False,
            )
        state = RunState.model_validate(values)
        path = folder / TENSORS
        digest = sha256_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return Unusable(f"has no {path.name}", damaged=True)
    except PermissionError as error:
        return Unusable(f"has a {path.name} that this user has no right to read ({error})", damaged=False)
    except OSError as error:
        return Unusable(f"has a {path.name} that cannot be read ({error})", damaged=False)
    except (ValidationError, KeyError, TypeError) as error:
        return Unusable(f"has a {STATE} of another version of the program ({error!r})", damaged=False)
    except (ValueError, RecursionError):
        return Unusable(f"has a {STATE} that is truncated or damaged", damaged=True)
    if digest != state.sha256:
        return Unusable(f"has a {TENSORS} that is truncated or damaged (SHA-256)", damaged=True)
    return state


def _discard(folder: Path) -> None:
    if folder.exists():
        # A half-removed checkpoint must not look like a checkpoint.
        gone = folder.with_name(f".{folder.name}.removed")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)
