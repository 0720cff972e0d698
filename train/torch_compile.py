"""torch.compile where it pays: the blocks that work token by token."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from maris_fast.config import EngineSettings
from maris_fast.kernels.choice.operation import POWERS
from maris_fast.kernels.mutual_attention.blocks import WORD_BLOCKS
from maris_fast.model.feature_enhancement import FeatureEnhancement
from maris_fast.model.layers import MLP
from maris_fast.model.mask_decoder import DecoderBlock
from maris_fast.model.mutual_aware_attention import MutualAwareAttention
from maris_fast.train.progress_state import ProgressState

# The most graphs of a block. Implementations are chosen by tokens and words, each up to a power of two; the
# first MA block has image groups, later ones have none; one image, and one expression, is another graph.
MOST_GRAPHS = len(POWERS) * len(WORD_BLOCKS) * 2 * 2 * 2


def compiles(engine: EngineSettings, device: torch.device) -> bool:
    """Whether a run on this device compiles its blocks. ``auto`` has not been run on a GPU yet."""
    if engine.compile != "auto":
        return engine.compile
    return device.type == "cuda" and engine.zero_stage != 3 and _can_build()


def _can_build() -> bool:
    """Whether Triton supports this GPU, and it and inductor have the compilers to build kernel launchers."""
    from torch.utils._triton import has_triton

    named = (("CC", "gcc", "clang"), ("CXX", "g++", "clang++"))
    found = (variable in os.environ or any(map(shutil.which, names)) for variable, *names in named)
    return has_triton() and all(found)


def compile_blocks(
    model: nn.Module, progress: ProgressState, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Compiles feature enhancement's MLPs, mutual-aware attention and decoder blocks, each as one graph.

    A data set has tens of grids, and steps differ in images and words: sizes are symbolic, so that one graph
    serves all that take the same implementations, and blocks of one class share it. Beyond MOST_GRAPHS of a
    block, shapes run uncompiled, and so does code at a graph break: with ``fullgraph``, both would end a run
    that has long been training. Convolutions are not compiled: inductor (torch 2.11) cannot order symbolic
    strides of a channels-last one's gradient.

    Args:
        progress: of this rank; a step in which other ranks wait for a compilation may take longer.
    """
    # Equal sizes are a coincidence: code compiled for 8 expressions of 8 words must not rely on that. A size
    # of 1 remains a graph of its own: with backed_size_oblivious, inductor (torch 2.11) compiles the backward
    # for the strides of the first batch.
    torch.fx.experimental._config.use_duck_shape = False
    limits = torch._dynamo.config
    limits.recompile_limit = limits.accumulated_recompile_limit = MOST_GRAPHS
    compiler = torch._dynamo.lookup_backend(backend)

    def compiled(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        with progress.busy("compiling", progress.step):
            function: Callable[..., Any] = compiler(graph, inputs)
        return function

    for block in _token_blocks(model):
        block.compile(dynamic=True, backend=compiled)


def _token_blocks(model: nn.Module) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, MutualAwareAttention | DecoderBlock):
            blocks.append(module)
        elif isinstance(module, FeatureEnhancement):
            blocks += [child for child in module.children() if isinstance(child, MLP)]
    return blocks
