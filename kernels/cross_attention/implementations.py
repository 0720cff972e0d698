"""All implementations of the operation, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from maris_fast.kernels.cross_attention.folded import cross_attention_folded
from maris_fast.kernels.cross_attention.projected import cross_attention_projected
from maris_fast.kernels.errors import UnsupportedError

Named = Literal["projected", "folded", "triton"]


def _triton(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    W_q: Tensor,
    b_q: Tensor,
    W_o: Tensor,
    b_o: Tensor,
    key_mask: Tensor | None,
) -> Tensor:
    """Arguments and result as in ``cross_attention``; ``UnsupportedError`` for inputs it can't take here."""
    try:
        from maris_fast.kernels.cross_attention import operator
    except ImportError as error:
        reason: str | None = f"triton can't be imported ({error})"
    else:
        reason = operator.why_unsupported(k.device, k.dtype, k.shape[1], x.shape[2])
    if reason is not None:
        raise UnsupportedError(f"{reason}; use impl='folded', 'projected' or 'auto'")
    return operator.cross_attention_triton(x, k, v, W_q, b_q, W_o, b_o, key_mask)


# "projected" also takes an attention_impl.
IMPLEMENTATIONS: dict[Named, Callable[..., Tensor]] = {
    "projected": cross_attention_projected,
    "folded": cross_attention_folded,
    "triton": _triton,
}
