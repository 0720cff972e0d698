"""xformers' memory-efficient attention; CUDA only. Masked-out keys are removed by packing."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily


def why_unsupported(device: torch.device, dtype: torch.dtype, head_dim: int, masked: bool) -> str | None:
    """Why xformers can't take such inputs, forward or backward; None when it can."""
    if device.type != "cuda":
        return f"xformers has no attention for {device.type} tensors; use impl='sdpa' or 'reference'"
    return why_not_built() or _why_refused(device, dtype, head_dim, masked)


def why_not_built() -> str | None:
    """Why the attention of the installed xformers can't run on any GPU; None when it can.

    xformers uses PyTorch's own kernels, but none of them unless its extension loads, which is built for one
    version of PyTorch and of CUDA.
    """
    _load_cuda_12_runtime()
    try:
        import xformers.ops
        from xformers import _cpp_lib
    except ImportError as error:
        return f"xformers can't be imported ({error}); install it, or use impl='sdpa'"
    if _cpp_lib._built_with_cuda:
        return None
    build = getattr(_cpp_lib._cpp_library_load_exception, "build_info", None)
    made_for = f" for PyTorch {build.torch_version}" if build else ""
    return (
        f"xformers {xformers.__version__} can't load its extension, which was built{made_for}, into PyTorch "
        f"{torch.__version__}; install the two that belong together, or use impl='sdpa'"
    )


@lru_cache
def _load_cuda_12_runtime() -> None:
    """Load CUDA 12's libcudart from its wheel, if installed, before xformers is imported.

    xformers 0.0.35 is linked against it, torch 2.11 has CUDA 13's, and xformers rejects every GPU unless its
    extension loads. Nothing else of the extension is used: its attention calls PyTorch's own kernels.
    """
    try:
        package = find_spec("nvidia.cuda_runtime")
    except ModuleNotFoundError:
        return
    for folder in (package and package.submodule_search_locations) or ():
        library = Path(folder, "lib", "libcudart.so.12")
        if library.is_file():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@lru_cache
def _why_refused(device: torch.device, dtype: torch.dtype, head_dim: int, masked: bool) -> str | None:
    """Why xformers' own choice of kernels rejects such inputs; None when it takes them."""
    from xformers.ops.fmha.common import Inputs
    from xformers.ops.fmha.dispatch import _dispatch_bw, _dispatch_fw

    with unset_fake_temporarily():
        q = torch.zeros(2, 8, 1, head_dim, device=device, dtype=dtype)
        bias = None
        if masked:
            key_mask = torch.ones(2, 8, device=device, dtype=torch.bool)
            (q, _, _), bias = packed(q, q, q, key_mask)
        inputs = Inputs(q, q, q, attn_bias=bias)
        try:
            forward = _dispatch_fw(inputs, True)
            _dispatch_bw(inputs, varlen_lse_packed=forward.VARLEN_LSE_PACKED)
        except NotImplementedError as error:
            return f"xformers refuses: {' '.join(str(error).split())}; use impl='sdpa'"
    return None


def multihead_attention_xformers(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Shapes as in the reference."""
    from xformers.ops import memory_efficient_attention

    if key_mask is None:
        return memory_efficient_attention(q.contiguous(), k.contiguous(), v.contiguous())
    (packed_q, packed_k, packed_v), bias = packed(q, k, v, key_mask)
    return memory_efficient_attention(packed_q, packed_k, packed_v, attn_bias=bias).view(q.shape)


def packed(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Any]:
    """All rows as one, q [1, B L_q, heads, d], k and v [1, B L_k, heads, d], and the bias to separate them.

    The keys to attend to come first, row after row, in their order; the others follow the last block, where
    no query attends. So any mask is supported, all sizes are known beforehand, and no value is read from the
    device: a training step never waits. xformers' biases for padded keys would avoid the copy of k and v,
    but have no backward; a dense bias has one, but reads B heads L_q L_k numbers.
    """
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask, _SeqLenInfo

    B, L_q = q.shape[:2]
    L_k = k.shape[1]
    order = key_mask.flatten().to(torch.uint8).argsort(descending=True, stable=True)
    # The kernels write no gradient after the last block; the fill's own gradient, 0, replaces it.
    leave_out = ~key_mask[:, :, None, None]
    k, v = (t.masked_fill(leave_out, 0).flatten(0, 1).index_select(0, order)[None] for t in (k, v))
    queries = torch.arange(B + 1, dtype=torch.int32, device=q.device) * L_q
    keys = F.pad(key_mask.sum(1).cumsum(0), (1, 0)).to(torch.int32)
    # Bounds, not values, on the host. `seqstart_py` is read only for causal masks and by `materialize`; a
    # list of starts would make both sizes constants of a compiled graph.
    bias = BlockDiagonalMask(
        q_seqinfo=_SeqLenInfo(seqstart=queries, max_seqlen=L_q, min_seqlen=L_q, seqstart_py=[]),
        k_seqinfo=_SeqLenInfo(seqstart=keys, max_seqlen=L_k, min_seqlen=1, seqstart_py=[]),
    )
    return (q.flatten(0, 1)[None].contiguous(), k, v), bias
