"""A training run: data, batch, optimiser, engine and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from maris_fast.config.base import Settings
from maris_fast.config.model import LossSettings, ModelSettings


class DataSettings(Settings):
    cache: Path = Field(description="folder of shards that `maris-fast cache` wrote")
    train_split: str = "train"
    val_split: str = "val"
    expressions_per_step: int = Field(64, gt=0, description="over all ranks and accumulation steps")
    expressions_per_image: int = Field(
        8, gt=0, description="K, at most so many of an image's sentences in one step"
    )
    prefetch: int = Field(2, gt=0, description="batches read ahead by each rank")


class OptimiserSettings(Settings):
    """AdamW, linear warm-up, then cosine to ``final_lr_share`` of the peak."""

    lr: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.02, ge=0, lt=1, description="of all steps")
    final_lr_share: float = Field(0.0, ge=0, le=1)
    clip_norm: float = Field(1.0, ge=0, description="of the gradient over all parameters; 0: no clipping")


class ScheduleSettings(Settings):
    epochs: int = Field(50, gt=0)
    max_steps: int | None = Field(
        None, gt=0, description="end there, and let the learning rate end there too"
    )
    tau_hold_share: float = Field(0.0, ge=0, le=1, description="share of all steps with tau = 0")
    tau_ramp_share: float = Field(
        0.0, ge=0, le=1, description="share of all steps in which tau then rises to its value"
    )


class EngineSettings(Settings):
    """What DeepSpeed is told; its own configuration is generated from this."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: bool = Field(False, description="optimiser states in host memory (ZeRO 1-3)")
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulation_steps: int = Field(1, gt=0)
    timeout_minutes: float = Field(
        10, gt=0, description="until a collective that a rank does not join is an error"
    )


class RunSettings(Settings):
    """Where a run writes, and how often."""

    folder: Path = Field(description="checkpoints, logs and metrics; must be new, empty, or resumed")
    resume: Literal["never", "auto"] = Field(
        "never", description="auto: go on from the folder's last checkpoint"
    )
    seed: int = 0
    log_every: int = Field(10, gt=0, description="steps")
    checkpoint_every: int | None = Field(None, gt=0, description="steps; None: at the end of each epoch")
    keep_checkpoints: int = Field(2, gt=0)
    evaluate_every: int | None = Field(1, gt=0, description="epochs; None: only after the last")
    stop_after_steps: int | None = Field(
        None,
        gt=0,
        description="end the process after so many steps, with a checkpoint; the schedule stays as it is",
    )


class TrainingSettings(Settings):
    """The whole of a training run (``train/configs/*.yaml``)."""

    data: DataSettings
    run: RunSettings
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSettings:
        if self.engine.offload_optimizer and self.engine.zero_stage == 0:
            raise ValueError("engine.offload_optimizer needs engine.zero_stage 1, 2 or 3")
        if self.data.expressions_per_step % self.engine.accumulation_steps:
            raise ValueError(
                f"data.expressions_per_step = {self.data.expressions_per_step} is not a multiple of "
                f"engine.accumulation_steps = {self.engine.accumulation_steps}"
            )
        return self
