"""The building blocks that the paper only names: MLP, CBA, MHSA and MHCA."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from maris_fast.kernels import cross_attention, multihead_attention
from maris_fast.kernels.cross_attention.api import Impl as CrossImpl
from maris_fast.kernels.multihead_attention.api import Impl


class MLP(nn.Sequential):
    """MLP(·): Linear, GELU, Linear over the last dimension, [..., in] -> [..., out]."""

    def __init__(self, channels_in: int, hidden: int, channels_out: int) -> None:
        super().__init__(nn.Linear(channels_in, hidden), nn.GELU(), nn.Linear(hidden, channels_out))

    # Not inherited: torch.compile skips functions of PyTorch's own files, also with fullgraph=True.
    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class CBA(nn.Sequential):
    """CBA(·): 3×3 convolution, BatchNorm, GELU on maps, [N, in, h, w] -> [N, out, h, w]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            # BatchNorm subtracts any constant, so the convolution needs no bias.
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.GELU(),
        )


class MultiHeadAttention(nn.Module):
    """MHCA(query, key, value) with projections; MHSA where all three are the same.

    Shapes: query [B, L_q, C], key and value [B, L_k, C] -> [B, L_q, C]; ``inner`` is the width of all heads
    together, C if None.
    """

    def __init__(self, channels: int, heads: int, impl: Impl, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or channels
        self.heads = heads
        self.impl = impl
        self.query = nn.Linear(channels, inner)
        self.key = nn.Linear(channels, inner)
        self.value = nn.Linear(channels, inner)
        self.out = nn.Linear(inner, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            self.in_heads(self.query, query),
            self.in_heads(self.key, key),
            self.in_heads(self.value, value),
        )
        return self.out(multihead_attention(q, k, v, key_mask, self.impl).flatten(2))

    def in_heads(self, project: nn.Linear, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, heads, d]."""
        projected: Tensor = project(x).unflatten(2, (self.heads, -1))
        return projected


class CrossAttention(MultiHeadAttention):
    """MHCA of many queries to few keys; parameters, shapes and result are those of its base."""

    def __init__(
        self, channels: int, heads: int, impl: Impl, cross_impl: CrossImpl, inner: int | None = None
    ) -> None:
        super().__init__(channels, heads, impl, inner)
        self.cross_impl = cross_impl

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return cross_attention(
            query,
            self.in_heads(self.key, key),
            self.in_heads(self.value, value),
            self.query.weight,
            self.query.bias,
            self.out.weight,
            self.out.bias,
            key_mask,
            impl=self.cross_impl,
            attention_impl=self.impl,
        )


class MapLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [N, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def on_map(module: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """A module on [N, C, h, w] applied to [N, h, w, C]; a view of channels-last memory, no copy."""
    return module(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
