"""SAM's attention with relative positions: segment-anything's, which holds its matrix, against ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from maris_fast.bench.conditions import gpu_conditions
from maris_fast.bench.measuring import load_told
from maris_fast.encoders.sam_attention import DecomposedAttention

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
# images or windows, grid, heads, head dim
SHAPES: dict[str, tuple[int, int, int, int]] = (
    {"vit_h global": (4, 64, 16, 80), "vit_h windows": (100, 14, 16, 80)}
    if ON_GPU
    else {"vit_b global, 512 px": (1, 32, 12, 64), "vit_b windows, 512 px": (9, 14, 12, 64)}
)
IMPLS: dict[str, Callable[[Attention], torch.nn.Module]] = {
    "reference": lambda module: module,
    "sdpa": DecomposedAttention,
}


def block(shape: str, impl: str) -> tuple[torch.nn.Module, torch.Tensor]:
    B, side, heads, d = SHAPES[shape]
    torch.manual_seed(0)
    attention = Attention(heads * d, heads, use_rel_pos=True, input_size=(side, side)).requires_grad_(False)
    attention.rel_pos_h.normal_(std=0.2)
    attention.rel_pos_w.normal_(std=0.2)
    x = torch.randn(B, side, side, heads * d).to(DEVICE, DTYPE)
    return IMPLS[impl](attention.to(DEVICE, DTYPE)), x


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sam_attention(shape: str, impl: str, measure: Callable[..., None]) -> None:
    module, x = block(shape, impl)
    with torch.inference_mode():
        needed = block(shape, "reference")[0](x)
        limit = (0.02 if torch.bfloat16 == DTYPE else 2e-5) * needed.abs().max()
        if not (module(x) - needed).abs().max() <= limit:
            pytest.fail(f"{impl} gives wrong results here, so it is not timed")
        told = dict(zip(("B", "side", "heads", "head_dim"), SHAPES[shape], strict=True))
        measure(lambda: module(x), impl=impl, dtype=str(DTYPE), **told)


# Runs in a process of its own, since its peak memory is measured.
WHOLE_ENCODER = """
import resource, sys, time, torch
from maris_fast.config import SamSettings
from maris_fast.encoders import SamEncoder
arch, impl, device, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
precision = torch.bfloat16 if device == "cuda" else torch.float32
settings = SamSettings(arch=arch, weights="random", image_size=1024, attention=impl)
encoder = SamEncoder(settings, device, precision)
pixels = [torch.zeros(3, 768, 1024, dtype=torch.uint8)] * count
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
wait = lambda: None
if device == "cuda":
    encoder.encode_resized(pixels)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    peak, wait = torch.cuda.max_memory_allocated, torch.cuda.synchronize
    wait()
began = time.monotonic()
encoder.encode_resized(pixels)
wait()
print(time.monotonic() - began, peak() - held)
"""


@pytest.mark.parametrize("impl", IMPLS)
def test_whole_encoder_at_1024_pixels(impl: str, benchmark: Any) -> None:
    arch, images = ("vit_h", 8) if ON_GPU else ("vit_b", 1)
    device = "cuda" if ON_GPU else "cpu"

    def encode() -> None:
        with gpu_conditions(DEVICE) as of_gpu:
            done = subprocess.run(
                [sys.executable, "-c", WHOLE_ENCODER, arch, impl, device, str(images)],
                capture_output=True,
                text=True,
                check=True,
            )
        seconds, peak = map(float, done.stdout.split())
        row = benchmark.extra_info
        row.update(ms={q: round(1e3 * seconds, 1) for q in ("0.25", "0.5", "0.75")})
        row.update(peak_bytes_over_weights=int(peak), **load_told(), **of_gpu)
        if impl == "sdpa":
            row["plan_rates"] = {"sam_images_per_s": images / seconds}

    shape = f"{arch} at 1024 px, {images} image{'s' if images > 1 else ''}"
    benchmark.extra_info.update(impl=impl, shape=shape)
    benchmark.pedantic(encode, rounds=1)
