"""Both encoders as files that ``maris-fast cache`` accepts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from maris_fast.data_shards.synthetic.pretraining.image_encoder import pretrain_image_encoder
from maris_fast.data_shards.synthetic.pretraining.schedule import Progress
from maris_fast.data_shards.synthetic.pretraining.text_encoder import pretrain_text_encoder
from maris_fast.system.new_folder import new_folder

SAM, TEXT = "sam_vit_tiny.safetensors", "clip_text_tiny.safetensors"


@dataclass(frozen=True)
class Pretrained:
    """Two weight files, and their scores on unseen scenes, as the two training functions return them."""

    sam: Path
    text: Path
    point_iou: float
    zero_shot: float


def pretrain_encoders(
    out: Path,
    *,
    image_steps: int = 1500,
    text_steps: int = 1000,
    seed: int = 0,
    image_progress: Progress | None = None,
    text_progress: Progress | None = None,
) -> Pretrained:
    """Train both and write their weights to ``out``, a new folder; nothing is left if it is interrupted.

    Raises:
        InputError: ``out`` is not empty, or its disk is full.
    """
    with new_folder(out) as folder:
        tensors, point_iou = pretrain_image_encoder(steps=image_steps, seed=seed, progress=image_progress)
        save_file(tensors, folder / SAM)
        tensors, zero_shot = pretrain_text_encoder(steps=text_steps, seed=seed, progress=text_progress)
        save_file(tensors, folder / TEXT)
    return Pretrained(out / SAM, out / TEXT, point_iou, zero_shot)
