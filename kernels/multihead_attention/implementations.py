"""All implementations of the operation, by name, and what each does not support."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from maris_fast.kernels.compiled_constant import constant_when_compiled
from maris_fast.kernels.multihead_attention import memory_efficient, newer_flash, sdpa
from maris_fast.kernels.multihead_attention.reference import multihead_attention_reference

Named = Literal[
    "xformers",
    "sdpa",
    "sdpa-flash",
    "sdpa-cudnn",
    "sdpa-efficient",
    "sdpa-flash3",
    "sdpa-flash4",
    "reference",
]

IMPLEMENTATIONS: dict[Named, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "xformers": memory_efficient.multihead_attention_xformers,
    "sdpa": sdpa.multihead_attention_sdpa,
    "sdpa-flash": sdpa.multihead_attention_flash,
    "sdpa-cudnn": sdpa.multihead_attention_cudnn,
    "sdpa-efficient": sdpa.multihead_attention_efficient,
    "sdpa-flash3": newer_flash.multihead_attention_flash3,
    "sdpa-flash4": newer_flash.multihead_attention_flash4,
    "reference": multihead_attention_reference,
}


# torch.compile can't look into a device's properties, and they don't change.
@constant_when_compiled
def why_unsupported(
    impl: Named, device: torch.device, dtype: torch.dtype, head_dim: int, masked: bool
) -> str | None:
    """Why ``impl`` can't take inputs like these, forward or backward; None when it can."""
    if impl == "xformers":
        return memory_efficient.why_unsupported(device, dtype, head_dim, masked)
    if impl in sdpa.BACKENDS:
        return sdpa.why_unsupported(impl, device, dtype, head_dim, masked)
    if impl in newer_flash.VERSIONS:
        return newer_flash.why_unsupported(impl, device, dtype, head_dim, masked)
    return None
