"""Weights from a file, as data only: no code in a file is ever run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from maris_fast.errors import CheckpointError


def load_tensors(path: Path, *, setting: str, where_to_get_it: str) -> dict[str, torch.Tensor]:
    """Named tensors of a ``.safetensors`` file or of a PyTorch state dict.

    A ``state_dict`` entry around the tensors and a ``module.`` prefix are removed.

    Args:
        path: the file.
        setting: the setting that named it, for error messages.
        where_to_get_it: where users can get the file, for error messages.

    Raises:
        CheckpointError: no such file, not weights, or a file that would run code when loaded.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no weights at {path}; get them from {where_to_get_it} and set {setting} to the file's path, "
            f"or to 'random' for a trial without trained weights"
        )
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            _refuse_torchscript(path, setting)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and would run code when loaded; weights load as data only. "
            f"Save its state dict again with torch.save or safetensors, and set {setting} to that ({error})"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can fail anywhere inside the readers
        raise CheckpointError(f"{path} cannot be read as weights ({setting}): {error}") from error
    return _only_tensors(content, path, setting)


def _refuse_torchscript(path: Path, setting: str) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("constants.pkl") for name in archive.namelist()):
            raise CheckpointError(
                f"{path} is a TorchScript archive, which is a program, and weights load as data only "
                f"(OpenAI publishes CLIP so). Set {setting} to open_clip's tag, such as 'openai', or to a "
                "file with the state dict alone"
            )


def _only_tensors(content: object, path: Path, setting: str) -> dict[str, torch.Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors ({setting})")
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors ({setting})")
    return tensors
