"""Trained weights as one safetensors file: plain names, fp32, loadable without DeepSpeed, data only.

The header's ``maris_fast`` entry is JSON with everything needed to build and judge the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maris_fast.config import MOST_CHANNELS, ModelSettings
from maris_fast.encoders import EncodersProvenance
from maris_fast.errors import CheckpointError, first_of
from maris_fast.model import Maris
from maris_fast.system.files import flush, replaced
from maris_fast.weight_files import find_weights

FORMAT_VERSION = 1
HEADER = "maris_fast"


class WeightsMeta(BaseModel):
    """Metadata of a weights file, from its header."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    model: ModelSettings
    visual_channels: int = Field(gt=0, le=MOST_CHANNELS, description="C_v of the cached features")
    text_channels: int = Field(gt=0, le=MOST_CHANNELS, description="C' of the cached words")
    tau: float = Field(ge=0, lt=1, description="gate threshold when saved; a schedule may not be at its end")
    step: int = Field(ge=0)
    scores: dict[str, Any] | None = Field(description="evaluation of just these weights")
    encoders: EncodersProvenance = Field(description="what made the features, from the cache")
    random_encoders: tuple[str, ...] = Field(
        default_factory=lambda said: tuple(said["encoders"].random),
        description="those of random weights, for other readers of the file",
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
            partial.chmod(0o644)  # safetensors lets only the owner read it
            flush(partial)
    except (OSError, SafetensorError) as error:  # safetensors raises its own error if the disk is full
        raise CheckpointError(
            f"weights {path} could not be written: {error}; make room on that disk"
        ) from error


def load_weights(path: str | PathLike[str]) -> tuple[dict[str, Tensor], WeightsMeta]:
    """Parameters and buffers on the CPU, and the metadata of the file (see ``find_weights``).

    Raises:
        CheckpointError: the file does not exist, is not safetensors (a pickle is never opened), was not
            written by maris-fast, or has values that are not finite.
    """
    path = find_weights(path)
    with _opened(path) as (file, meta):
        return _tensors(path, file), meta


def read_meta(path: str | PathLike[str]) -> WeightsMeta:
    """The file's metadata, without reading its tensors.

    Raises:
        CheckpointError: as ``load_weights``, except for the tensors' values.
    """
    with _opened(find_weights(path)) as (_, meta):
        return meta


def load_model(path: str | PathLike[str], device: torch.device | str = "cpu") -> tuple[Maris, WeightsMeta]:
    """The trained model, in evaluation mode on ``device``, and the file's metadata.

    Args:
        path: a weights file or a run's folder, see ``find_weights``.

    Raises:
        CheckpointError: as ``load_weights``; or tensors that do not fit the model the header describes.
    """
    path = find_weights(path)
    with _opened(path) as (file, meta):
        _require_fit(path, file, meta)
        tensors = _tensors(path, file)
    model = Maris(meta.model, meta.visual_channels, meta.text_channels)
    model.load_state_dict(tensors)
    model.tau = meta.tau
    return model.to(device).eval(), meta


@contextmanager
def _opened(path: Path) -> Iterator[tuple[safe_open, WeightsMeta]]:
    try:
        with path.open("rb"):  # safetensors reports any failure as a missing file
            pass
        with safe_open(path, framework="pt") as file:
            yield file, _meta(path, (file.metadata() or {}).get(HEADER))
    except OSError as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({error}); weights load as data only, never from a pickle "
            "such as .pt or .pth: name a best.safetensors or last.safetensors that training wrote"
        ) from error


def _meta(path: Path, header: str | None) -> WeightsMeta:
    if header is None:
        raise CheckpointError(
            f"{path} is a safetensors file, but its header has no {HEADER!r} entry that describes the model; "
            "name a best.safetensors or last.safetensors that training wrote"
        )
    try:
        return WeightsMeta.model_validate_json(header)
    except ValidationError as error:
        raise CheckpointError(
            f"the header of {path} cannot be read by this version: {first_of(error)}"
        ) from error


def _require_fit(path: Path, file: safe_open, meta: WeightsMeta) -> None:
    """Check the tensors' shapes before memory is allocated for the model that the header describes."""
    found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    with torch.device("meta"):
        model = Maris(meta.model, meta.visual_channels, meta.text_channels)
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in sorted(needed.items()):
        if found.get(name) != shape:
            raise CheckpointError(
                f"{path} does not fit the model its header describes: {name} is "
                f"{found.get(name, 'missing')}, expected {shape}; it was written by another version, train "
                "or export it again"
            )
    if more := sorted(found.keys() - needed.keys()):
        raise CheckpointError(f"{path} holds tensors that the model does not have: {', '.join(more[:5])}")


def _tensors(path: Path, file: safe_open) -> dict[str, Tensor]:
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        if wrong := int((~tensor.isfinite()).sum()):
            raise CheckpointError(
                f"{path} cannot be used: {wrong:,} of the {tensor.numel():,} numbers of {name} are not "
                "finite; the run that wrote it diverged, or the file is damaged. Name other weights"
            )
    return tensors
