"""FLOPs of training on RefCOCO, for our model and its peers, by formula; docs/training.md has the tables.

    python -m maris_fast.bench.training_cost

Matrix products and convolutions, 2 FLOPs per multiply-add, forward and backward, as ``model/flops.py`` counts
them. The peers' are derived from the architectures in their public code (DerrickWang005/CRIS.pytorch,
kkakkkka/ETRIS, yz93/LAVT-RIS), each at the input size and number of words of its own configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

from maris_fast.bench.drawing.markdown import table
from maris_fast.config import TrainingSettings, load_settings
from maris_fast.config.loading import PACKAGE
from maris_fast.data_shards.scaling import assumed_expressions, reads_per_image
from maris_fast.model.flops import training_flops
from maris_fast.model.parameters import CLIP_L_CHANNELS, VIT_H_CHANNELS

# RefCOCO (unc), train: CRIS, ETRIS and LAVT draw one sentence of each ref per epoch, we train on all.
REFS, SENTENCES, IMAGES = 42_404, 120_624, 16_994
# The cache has the images and sentences of all splits.
ALL_IMAGES, ALL_SENTENCES = 19_994, 142_210
GRID, WORDS = (64, 48), 10
# Passes of a product: one forward and two backward; only one backward if its weights are frozen or nothing
# below it is trained; none without gradients.
TRAINED, FROZEN, FORWARD = 3, 2, 1
CLIP_RESNET_SIDE = 416
"""Side in pixels of the images that CRIS and ETRIS encode."""


@dataclass(frozen=True)
class Peer:
    """FLOPs per expression of an image encoder, a text encoder, and all that fuses and decodes them."""

    image: int
    text: int
    rest: int
    epochs: int

    @property
    def expression(self) -> int:
        return self.image + self.text + self.rest


def _conv(side: int, kernel: int, channels_in: int, channels_out: int, passes: int = TRAINED) -> int:
    """A convolution with side² output pixels; a linear layer if the kernel is 1."""
    return 2 * side**2 * kernel**2 * channels_in * channels_out * passes


def _linear(rows: int, channels_in: int, channels_out: int, passes: int = TRAINED) -> int:
    return 2 * rows * channels_in * channels_out * passes


def _attention(L_q: int, L_k: int, C: int, passes: int = TRAINED, out: int | None = None) -> int:
    """Four projections; with any gradient, both factors of the two products need theirs."""
    products = 2 * 2 * L_q * L_k * C * (1 if passes == FORWARD else TRAINED)
    return _linear(L_q, C, C + (out or C), passes) + _linear(L_k, C, 2 * C, passes) + products


def _layers(count: int, L: int, C: int, hidden: int, passes: int = TRAINED) -> int:
    """Transformer layers."""
    return count * (_attention(L, L, C, passes) + 2 * _linear(L, C, hidden, passes))


def _clip_resnet(blocks: tuple[int, ...], channels_out: int, passes: tuple[int, ...]) -> int:
    """CLIP's ResNet: stem, four stages of bottlenecks that pool after their 3×3, attention pooling.

    ``passes``: those of the stem, the stages and the pooling.
    """
    side, before = CLIP_RESNET_SIDE // 2, 64
    flops = _conv(side, 3, 3 + 32, 32, passes[0]) + _conv(side, 3, 32, 64, passes[0])
    side //= 2
    for stage, count in enumerate(blocks):
        C, p = 64 * 2**stage, passes[1 + stage]
        coming, side = side, side // (2 if stage else 1)
        first = (
            _conv(coming, 1, before, C, p) + _conv(coming, 3, C, C, p) + _conv(side, 1, C + before, 4 * C, p)
        )
        other = 2 * _conv(side, 1, C, 4 * C, p) + _conv(side, 3, C, C, p)
        flops, before = flops + first + (count - 1) * other, 4 * C
    pooling = _attention(side**2, side**2, before, passes[-1], channels_out)
    return flops + pooling + _conv(side, 1, before, channels_out, passes[-1])


def _projector(words: int) -> int:
    """Projector of CRIS and ETRIS: 26² to 104² pixels, and the sentence as the weights of a convolution."""
    vision = _conv(52, 3, 512, 512) + _conv(104, 3, 512, 256) + _conv(104, 1, 256, 256)
    return vision + _linear(1, words, 256 * 9 + 1) + _conv(104, 3, 256, 1)


def _coordinates() -> int:
    """Last fusion of three maps at 26² in CRIS and ETRIS."""
    return _conv(26, 1, 3 * 512, 512) + _conv(26, 3, 514, 512) + _conv(26, 3, 512, 512)


def _text_decoder(hidden: int) -> int:
    """Three layers of CRIS and ETRIS in which pixels attend to pixels and to 17 words."""
    return _layers(3, 26**2, 512, hidden) + 3 * _attention(26**2, 17, 512)


def _cris(blocks: tuple[int, ...], channels: int) -> Peer:
    """``channels``: width of CLIP's joint space. Everything is trained."""
    neck = _linear(1, channels, 1024) + _conv(13, 1, channels, 1024)
    neck += _conv(26, 3, 1024, 512) + _conv(26, 1, 1024 + 512, 512)
    neck += _conv(52, 3, 512, 256) + _conv(26, 1, 256 + 512, 512)
    neck += _conv(13, 3, 1024, 512) + 2 * _conv(26, 3, 512, 512) + _coordinates()
    text = _layers(12, 17, 512, 2048) + _linear(1, 512, channels)
    rest = neck + _text_decoder(2048) + _projector(channels)
    return Peer(_clip_resnet(blocks, channels, (TRAINED,) * 6), text, rest, 50)


def _etris_neck(widths: tuple[int, int, int], kernels: tuple[int, int, int]) -> int:
    """Three maps to 512 channels at 26²; each attends to the sentence."""
    first, second, third = widths
    maps = _conv(26, kernels[0], first, 512) + _conv(26, kernels[1], second, 512)
    maps += _conv(26 // kernels[2], kernels[2], third, 512)
    return maps + _linear(1, 512, 512) + 3 * _attention(26**2, 1, 512) + _coordinates()


def _etris_vit() -> Peer:
    """ViT-B/16. CLIP is frozen except for its position embeddings, so gradients pass through all of it."""
    L = 26**2
    image = (
        _linear(L, 768, 768, FORWARD) + _layers(12, L + 1, 768, 3072, FROZEN) + _linear(L, 768, 512, FROZEN)
    )
    text = _layers(12, 17, 512, 2048, FROZEN) + _linear(1, 512, 512, FROZEN)
    bridges = 3 * (2 * _linear(L, 768, 64) + 2 * _linear(17, 512, 64))
    bridges += 3 * (_attention(L + 1, 17, 64) + _attention(17, L + 1, 64))
    rest = bridges + _etris_neck((768, 768, 512), (1, 1, 1)) + _text_decoder(512) + _projector(512)
    return Peer(image, text, rest, 50)


def _etris_resnet() -> Peer:
    """ResNet-101. CLIP is frozen except for its position embeddings; no gradients below the first bridge."""
    L = 26**2
    image = _clip_resnet((3, 4, 23, 3), 512, (FORWARD, FORWARD, FORWARD, FROZEN, FROZEN, FROZEN))
    text = _layers(12, 17, 512, 2048, FROZEN) + _linear(1, 512, 512, FROZEN)
    bridges = 2 * (_conv(26, 2, 512, 64) + _conv(26, 1, 1024, 64) + _conv(13, 2, 2048, 64))
    bridges += 3 * (2 * _linear(17, 512, 64) + _layers(1, L, 64, 128) + _layers(1, 17, 64, 128))
    bridges += 3 * (_attention(L, 17, 64) + _attention(17, L, 64))
    rest = bridges + _etris_neck((512, 1024, 512), (2, 1, 2)) + _text_decoder(512) + _projector(512)
    return Peer(image, text, rest, 50)


def _lavt() -> Peer:
    """Swin-B in windows of 12, BERT on 20 words, both trained; the gates between them, three pairs of 3×3."""
    words, image, rest = 20, _linear(120**2, 48, 128, FROZEN), 0
    for stage, depth in enumerate((2, 2, 18, 2)):
        C, side = 128 * 2**stage, 120 // 2**stage
        padded = 12 * -(-side // 12)
        attention = _linear(padded**2, C, 4 * C) + 2 * _linear(padded**2, 12**2, C)
        image += depth * (attention + 2 * _linear(side**2, C, 4 * C))
        image += _linear((side // 2) ** 2, 4 * C, 2 * C) if stage < 3 else 0
        rest += _linear(side**2, C, 6 * C) + 2 * _linear(words, 768, C) + 2 * _linear(side**2, words, C)
    for side, joined in ((30, 1024 + 512), (60, 512 + 256), (120, 512 + 128)):
        rest += _conv(side, 3, joined, 512) + _conv(side, 3, 512, 512)
    return Peer(image, _layers(12, words, 768, 3072), rest + _conv(120, 1, 512, 2), 40)


PEERS = {
    "CRIS, ResNet-50": _cris((3, 4, 6, 3), 1024),
    "CRIS, ResNet-101": _cris((3, 4, 23, 3), 512),
    "ETRIS, ViT-B/16": _etris_vit(),
    "ETRIS, ResNet-101": _etris_resnet(),
    "LAVT, Swin-B": _lavt(),
}


def sam_vit_h() -> int:
    """SAM's image encoder, forward: windows of 14 except in four blocks, relative positions of each query."""
    L, C, heads_d = 64**2, 1280, 80
    flops = (
        _linear(L, 3 * 16**2, C, FORWARD) + _conv(64, 1, C, 256, FORWARD) + _conv(64, 3, 256, 256, FORWARD)
    )
    for blocks, tokens, side in ((28, 70**2, 14), (4, L, 64)):
        attention = _linear(tokens, C, 4 * C, FORWARD) + 2 * _linear(tokens, side**2, C, FORWARD)
        relative = _linear(tokens * (C // heads_d), heads_d, 2 * side, FORWARD)
        flops += blocks * (attention + relative + 2 * _linear(L, C, 4 * C, FORWARD))
    return flops


def caching() -> int:
    """SAM and CLIP, whose text tower has 77 positions, once for everything that is cached."""
    return ALL_IMAGES * sam_vit_h() + ALL_SENTENCES * _layers(12, 77, 768, 3072, FORWARD)


def reads(settings: TrainingSettings) -> float:
    """How often an epoch reads, and computes, each image, with assumed numbers of expressions per image."""
    data = settings.data
    expressions = assumed_expressions(SENTENCES / IMAGES)
    return reads_per_image(expressions, step=data.expressions_per_step, K=data.expressions_per_image)


def _ours(*changes: str) -> tuple[float, float, int]:
    """FLOPs of an expression with its share of its image's reads, FLOPs of one alone, and epochs."""
    settings = load_settings(TrainingSettings, PACKAGE / "train" / "configs" / "refcoco.yaml", changes)
    each = training_flops(settings.model, VIT_H_CHANNELS, CLIP_L_CHANNELS, GRID, WORDS)
    images = round(reads(settings) * IMAGES)
    return each.of(images, SENTENCES) / SENTENCES, each.of(1, 1), settings.schedule.epochs


def cost_table() -> list[str]:
    """The lines of docs/training.md's table."""
    ours, alone, epochs = _ours()
    pooled, _, _ = _ours("model.decoder_self_attention=pooled")
    whole = SENTENCES * epochs * ours + caching()
    rows = []
    for name, flops in (("ours", ours), ("ours, pooled keys", pooled)):
        training = SENTENCES * epochs * flops + caching()
        rows.append([name, "", "", "", *_cells(flops, ours, SENTENCES, epochs, training, whole)])
    for name, peer in PEERS.items():
        parts = [f"{part / 1e9:,.0f}" for part in (peer.image, peer.text, peer.rest)]
        training = REFS * peer.epochs * peer.expression
        rows.append([name, *parts, *_cells(peer.expression, ours, REFS, peer.epochs, training, whole)])
    loop = sam_vit_h() + alone
    parts = [f"{sam_vit_h() / 1e9:,.0f}", "", f"{alone / 1e9:,.0f}"]
    training = SENTENCES * epochs * loop
    rows.append(
        ["ours, SAM ViT-H in the loop", *parts, *_cells(loop, ours, SENTENCES, epochs, training, whole)]
    )
    head = ["GFLOP", "image encoder", "text encoder", "the rest", "an expression", "to ours"]
    return table([*head, "expressions an epoch", "epochs", "PFLOP a training", "to ours"], rows)


def _cells(
    flops: float, ours: float, expressions: int, epochs: int, training: float, whole: float
) -> list[str]:
    each = [f"{flops / 1e9:,.0f}", f"{flops / ours:.1f}"]
    return [*each, f"{expressions:,}", str(epochs), f"{training / 1e15:,.0f}", f"{training / whole:.1f}"]


if __name__ == "__main__":
    print("\n".join(cost_table()))
