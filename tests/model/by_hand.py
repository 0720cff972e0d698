"""A small model with its inputs, and its building blocks written out a second time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.model import Maris

C, HEADS, C_V, C_T, GRID, WORDS = 16, 4, 24, 12, (5, 3), 4
ABLATED = (
    "enhancement",
    "fusion",
    "decoder",
    "decoder_self_attention",
    "token_to_image",
    "linguistic_guidance",
    "no_target",
)
"""Settings of the ablations, which older weights and checkpoints do not have."""


def make(**changes: object) -> Maris:
    settings = ModelSettings.model_validate({"channels": C, "heads": HEADS, **changes})
    return Maris(settings, C_V, C_T).double().eval()


def inputs(*expressions_of_images: int) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    images, expressions = len(expressions_of_images), sum(expressions_of_images)
    features = [torch.randn(images, *GRID, C_V, dtype=torch.float64) for _ in range(3)]
    words = torch.randn(expressions, WORDS, C_T, dtype=torch.float64)
    lengths = torch.arange(expressions) % WORDS + 1
    offsets = torch.tensor([0, *expressions_of_images]).cumsum(0).to(torch.int32)
    return features, words, torch.arange(WORDS) < lengths[:, None], offsets


def mlp(module: nn.Sequential, x: Tensor) -> Tensor:
    """Linear, GELU, Linear."""
    hidden = x @ module[0].weight.T + module[0].bias
    return 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))) @ module[2].weight.T + module[2].bias


def vary_norms(module: nn.Module) -> None:
    """Give each LayerNorm random parameters: new ones have weight 1 and bias 0, whichever of them is used."""
    for norm in module.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Each token of [..., C] with mean 0 and variance 1 over its channels, times weight, plus bias."""
    centered = x - x.mean(-1, keepdim=True)
    variance = centered.square().mean(-1, keepdim=True)
    return centered / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def cba(module: nn.Sequential, tokens: Tensor) -> Tensor:
    """3×3 convolution, BatchNorm with running statistics, GELU; [N, h, w, C] in and out."""
    convolved = F.conv2d(tokens.permute(0, 3, 1, 2), module[0].weight, padding=1)
    norm = module[1]
    mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    normalised = (convolved - mean) / (variance + norm.eps).sqrt()
    return F.gelu(normalised * norm.weight[:, None, None] + norm.bias[:, None, None]).permute(0, 2, 3, 1)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax(Q Kᵀ / √d) V, one head and one row at a time."""
    q, k, v = module.query(query), module.key(key), module.value(value)
    d = q.shape[2] // HEADS
    out = torch.zeros_like(q)
    for b in range(len(q)):
        for head in range(HEADS):
            part = slice(head * d, (head + 1) * d)
            keys = torch.arange(k.shape[1]) if mask is None else mask[b].nonzero()[:, 0]
            for row in range(q.shape[1]):
                weights = torch.softmax(k[b, keys, part] @ q[b, row, part] / math.sqrt(d), dim=0)
                out[b, row, part] = weights @ v[b, keys, part]
    return module.out(out)
