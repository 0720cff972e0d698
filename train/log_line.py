"""A record as one readable line: fixed order, units, aligned columns."""

from __future__ import annotations

from typing import Any


def log_line(kind: str, record: dict[str, Any], total_steps: int) -> str:
    """The line for a 'train', 'evaluation' or 'attention' record; ``docs/training.md`` explains each part."""
    head, parts_of = LINES[kind]
    width = len(str(total_steps))
    return "  ".join([f"{head} {record['step']:{width}}/{total_steps}", *parts_of(record)])


def _step_parts(record: dict[str, Any]) -> list[str]:
    losses = f"focal {record['focal']:.4f} dice {record['dice']:.4f}"
    if "no_target" in record:
        losses += f" no-target {record['no_target']:.4f}"
    parts = [
        f"loss {record['loss']:.4f} ({losses})",
        f"oIoU {record['oIoU']:.3f}",
        f"{record['expressions_per_s']:6,.0f} expr/s",
        f"{record['images_per_s']:5,.0f} img/s",
        f"wait {record['data_wait_share']:5.1%}",
        _bytes_per_s(record["gb_per_s"]),
    ]
    if "mfu" in record:
        parts.append(f"MFU {record['mfu']:.1%} of {record['peak_tflops']:g} TFLOP/s")
    return [
        *parts,
        f"{record['memory_mb'] / 1024:.1f} GiB",
        f"lr {record['lr']:.1e}",
        f"grad {record['gradient_norm']:.2f}",
        f"tau {record['tau']:.2f}",
    ]


def _bytes_per_s(gb: float) -> str:
    return f"{gb:6.2f} GB/s" if gb >= 0.1 else f"{1000 * gb:6.2f} MB/s"


def _score_parts(record: dict[str, Any]) -> list[str]:
    precisions = "/".join(f"{value:.3f}" for name, value in record.items() if name.startswith("Pr@"))
    thresholds = "/".join(name.removeprefix("Pr@") for name in record if name.startswith("Pr@"))
    return [
        f"oIoU {record['oIoU']:.4f}",
        f"mIoU {record['mIoU']:.4f}",
        f"Pr@{thresholds} {precisions}",
        f"{record['expressions']:,} expressions",
    ]


def _attention_parts(record: dict[str, Any]) -> list[str]:
    blocks: dict[str, dict[str, float]] = {}
    for name, value in record.items():
        block, slash, what = name.partition("/")
        if slash:
            blocks.setdefault(block, {})[what] = value
    return [
        f"{block.replace('_', ' ')} (kept {of.get('kept_pairs', 0):.1%} "
        f"empty {of.get('empty_pixels', 0):.1%}/{of.get('empty_words', 0):.1%} "
        f"|S| {of.get('score', 0):.2f} gathered {of.get('gathered', 0):.2f} "
        f"cosine {of.get('cosine_before', 0):.2f}/{of.get('cosine_after', 0):.2f})"
        for block, of in blocks.items()
    ]


LINES = {
    "train": ("step", _step_parts),
    "evaluation": ("eval", _score_parts),
    "attention": ("attn", _attention_parts),
}
