"""PyTorch's scaled_dot_product_attention: with the backend it picks itself, or with one forced."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@lru_cache
def why_unsupported(
    impl: str, device: torch.device, dtype: torch.dtype, head_dim: int, masked: bool
) -> str | None:
    """Why PyTorch's own backend rejects such inputs, in its words; None when it accepts them.

    Only PyTorch knows (it depends on the GPU, the build and cuDNN), so a small input is tried once.
    """
    with unset_fake_temporarily(), torch.enable_grad(), torch.inference_mode(False):
        q = torch.zeros(2, 1, 16, head_dim, device=device, dtype=dtype, requires_grad=True)
        key_mask = torch.ones(2, 1, 1, 16, device=device, dtype=torch.bool) if masked else None
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                with sdpa_kernel(BACKENDS[impl]):
                    F.scaled_dot_product_attention(q, q, q, attn_mask=key_mask).sum().backward()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                said = "; ".join(dict.fromkeys(_short(str(note.message)) for note in told))
                return (
                    f"{impl} refuses {dtype} on {device}, head dim {head_dim}, "
                    f"{'with' if masked else 'without'} a mask: {said or _short(str(error))}"
                )
    return None


def _short(message: str) -> str:
    """The first line of a message, without the location in PyTorch's sources."""
    return message.split(" (Triggered internally")[0].splitlines()[0].strip()


def multihead_attention_sdpa(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Shapes as in the reference."""
    mask = None if key_mask is None else key_mask[:, None, None, :]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)


def multihead_attention_flash(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """FlashAttention-2 as PyTorch ships it; on a GPU it takes no mask. Shapes as in the reference."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return multihead_attention_sdpa(q, k, v, key_mask)


def multihead_attention_cudnn(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """cuDNN's fused attention. Shapes as in the reference."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return multihead_attention_sdpa(q, k, v, key_mask)


def multihead_attention_efficient(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """The memory-efficient kernels that PyTorch took over from xformers. Shapes as in the reference."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return multihead_attention_sdpa(q, k, v, key_mask)
