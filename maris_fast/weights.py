"""Trained weights as one safetensors file: plain names, fp32, loadable without DeepSpeed, data only.

The header's ``maris_fast`` entry is JSON with all that is needed to build the model and to judge it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maris_fast.config import ModelSettings
from maris_fast.errors import CheckpointError
from maris_fast.files import flush, replaced
from maris_fast.model import Maris

FORMAT_VERSION = 1
HEADER = "maris_fast"


class WeightsMeta(BaseModel):
    """What a weights file says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    model: ModelSettings
    visual_channels: int = Field(gt=0, description="C_v of the cached features")
    text_channels: int = Field(gt=0, description="C' of the cached words")
    tau: float = Field(ge=0, lt=1, description="gate threshold when saved; a schedule may not be at its end")
    step: int = Field(ge=0)
    scores: dict[str, Any] | None = Field(description="evaluation of just these weights")
    encoders: dict[str, Any] = Field(description="frozen encoders and their provenance, from the cache")
    random_encoders: tuple[str, ...] = Field(
        description="encoders that ran on random weights; empty for real use"
    )


def save_weights(path: Path, model_state: Mapping[str, Tensor], meta: WeightsMeta) -> None:
    """Writes parameters and buffers, atomically: a reader sees the old file or the new one.

    Raises:
        CheckpointError: the file could not be written; an older one at ``path`` is untouched.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model_state.items()}
    try:
        with replaced(path) as partial:
            save_file(tensors, partial, metadata={HEADER: meta.model_dump_json()})
            partial.chmod(0o644)  # safetensors writes for the owner alone
            flush(partial)
    except (OSError, SafetensorError) as error:  # safetensors raises its own for a full disk
        raise CheckpointError(
            f"weights {path} could not be written: {error}; make room on that disk"
        ) from error


def load_weights(path: Path) -> tuple[dict[str, Tensor], WeightsMeta]:
    """Parameters and buffers on the CPU, and what the file says of them.

    Raises:
        CheckpointError: no such file, not safetensors (a pickle is never opened), or not written by us.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no weights {path}; training writes best.safetensors and last.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({error}); weights load as data only, never from a pickle "
            "such as .pt or .pth: name a best.safetensors or last.safetensors that training wrote"
        ) from error
    if header is None:
        raise CheckpointError(
            f"{path} is a safetensors file, but its header has no {HEADER!r} entry that describes the model; "
            "name a best.safetensors or last.safetensors that training wrote"
        )
    try:
        return tensors, WeightsMeta.model_validate_json(header)
    except ValidationError as error:
        raise CheckpointError(f"the header of {path} cannot be read by this version: {error}") from error


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Maris, WeightsMeta]:
    """The trained model, in evaluation mode on ``device``, and what the file says of it.

    Raises:
        CheckpointError: as ``load_weights``; or tensors that do not fit the model the header describes.
    """
    tensors, meta = load_weights(path)
    model = Maris(meta.model, meta.visual_channels, meta.text_channels)
    for name, wanted in sorted(model.state_dict().items()):
        if name not in tensors or tensors[name].shape != wanted.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise CheckpointError(
                f"{path} does not fit the model its header describes: {name} is {found}, needed is "
                f"{tuple(wanted.shape)}; it was written by another version, train or export it again"
            )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds tensors that the model does not have: {error}") from error
    model.tau = meta.tau
    return model.to(device).eval(), meta
