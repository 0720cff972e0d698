"""The arithmetic that a device could do, for MFU; nothing where that is not known."""

from __future__ import annotations

import re

import torch

# Dense bf16 products with fp32 sums, TFLOP/s, of the makers' data sheets (half of the figures with sparsity).
# A name that needs more words comes before the one that it contains.
PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    ("B200", 2250),
    ("GH200", 989),
    ("H200 NVL", 835),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),
    ("A100", 312),
    ("A40", 150),
    ("A30", 165),
    ("A10", 125),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
)


def peak_tflops(device: torch.device, override: float | None = None) -> float | None:
    """Of one rank's device: ``override`` (``run.peak_tflops``), else by its name, else None."""
    if override is not None or device.type != "cuda":
        return override
    return peak_by_name(torch.cuda.get_device_name(device))


def peak_by_name(name: str) -> float | None:
    """By a GPU's name, as in "NVIDIA H100 80GB HBM3"; None for one that is unknown, or a slice (MIG)."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if "mig" in words:
        return None
    return next((peak for known, peak in PEAK_TFLOPS if set(known.lower().split()) <= words), None)
