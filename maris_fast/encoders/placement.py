"""On which device, and in which precision, the encoders run."""

from __future__ import annotations

from typing import Literal

import torch

from maris_fast.errors import ConfigError


def usable(device: torch.device | str) -> torch.device:
    """A device by name, if this machine has it.

    Raises:
        ConfigError: no such device, or not here.
    """
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device = {device}, which is no device; set device to cpu or cuda") from error
    if named.type == "cuda":
        _require_cuda("cpu")
        if (named.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"device = {device}, but the GPUs here end at cuda:{torch.cuda.device_count() - 1}"
            )
    elif named.type != "cpu":
        raise ConfigError(f"device = {device}; set device to cpu or cuda, it runs on no other")
    return named


def place(
    device: Literal["auto", "cpu", "cuda"],
    precision: Literal["auto", "fp32", "bf16"],
    local_rank: int = 0,
) -> tuple[torch.device, torch.dtype]:
    """The device and dtype that the settings mean on this machine.

    Processes of one machine, told apart by ``local_rank``, take its GPUs in turn.

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    if device == "cuda":
        _require_cuda("auto or cpu")
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bf16" if chosen == "cuda" else "fp32"
    placed = torch.device(chosen)
    if chosen == "cuda" and local_rank:
        placed = torch.device(chosen, local_rank % torch.cuda.device_count())
    return placed, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def _require_cuda(others: str) -> None:
    if not torch.cuda.is_available():
        raise ConfigError(f"device = cuda, but PyTorch sees no CUDA device; set device to {others}")
