"""On which device, and in which precision, the encoders run."""

from __future__ import annotations

from typing import Literal

import torch

from maris_fast.errors import ConfigError


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
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda, but PyTorch sees no CUDA device; set device to auto or cpu")
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bf16" if chosen == "cuda" else "fp32"
    placed = torch.device(chosen)
    if chosen == "cuda" and local_rank:
        placed = torch.device(chosen, local_rank % torch.cuda.device_count())
    return placed, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
