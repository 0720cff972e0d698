"""A training run: data, batch, optimiser, engine and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from maris_fast.config.base import Seed, Settings
from maris_fast.config.model import LossSettings, ModelSettings

Verify = Literal["first", "always", "never"]


class ReadingSettings(Settings):
    """How a cache is read; nothing of it changes a batch or the order."""

    buffer_bytes: int = Field(
        2 * 2**30, gt=0, description="of the ring that batches are read into, for each rank and split"
    )
    reader_threads: int = Field(2, gt=0, le=1024, description="of each rank")
    prefetch: int = Field(2, gt=0, description="batches in the ring at a time, as far as it holds them")
    verify: Verify = Field(
        "first", description="compare checksums at an image's first reading, always, or never"
    )
    stall_seconds: float = Field(60, gt=0, description="until a read that does not come back is an error")
    on_bad_sample: Literal["stop", "skip"] = Field(
        "stop", description="an image that cannot be read ends the run, or is left out, counted and logged"
    )
    max_bad_samples: int = Field(10, ge=0, description="images that each rank may skip; more are an error")
    shards: str | None = Field(
        None,
        description="URL of a shard that webdataset opens, {name} for its name, e.g. 'pipe:cat /far/{name}'; "
        "manifest and indexes come the same way unless data.cache holds them. None: files in data.cache",
    )
    staging: Path | None = Field(None, description="local folder for shards that come through data.shards")
    staging_bytes: int = Field(
        2**40, gt=0, description="most that data.staging takes; better the whole cache's size"
    )

    @model_validator(mode="after")
    def _staged(self) -> ReadingSettings:
        if self.shards is not None and "{name}" not in self.shards:
            raise ValueError(f"data.shards = {self.shards!r} does not say where the shard's {{name}} goes")
        if self.shards is not None and self.staging is None:
            raise ValueError("data.shards needs data.staging, a local folder that the shards are streamed to")
        return self


class DataSettings(ReadingSettings):
    cache: Path = Field(description="folder of shards that `maris-fast cache` wrote")
    train_split: str = "train"
    val_split: str = "val"
    expressions_per_step: int = Field(64, gt=0, description="over all ranks and accumulation steps")
    expressions_per_image: int = Field(
        8, gt=0, description="K, at most so many of an image's sentences in one step"
    )


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
    compile: bool = Field(
        False, description="torch.compile the token-wise blocks; the first steps take a minute or two"
    )
    accumulation_steps: int = Field(1, gt=0)
    timeout_minutes: float = Field(
        10, gt=0, description="ranks wait so long for one that starts, evaluates or writes a checkpoint"
    )
    stall_seconds: float = Field(
        180, gt=0, description="ranks wait so long for one that reads data or computes a step"
    )
    heartbeat_seconds: float = Field(
        30, ge=0, description="a rank that is silent for so long is lost; 0: nobody watches over the ranks"
    )


class RunSettings(Settings):
    """Where a run writes, and how often."""

    folder: Path = Field(description="checkpoints, logs and metrics; must be new, empty, or resumed")
    resume: Literal["never", "auto", "restart"] = Field(
        "never",
        description="auto: go on from the folder's last checkpoint; restart: move the run there into "
        "former-1 in it, and start anew",
    )
    seed: Seed = 0
    log_every: int = Field(10, gt=0, description="steps")
    attention_health: bool = Field(
        False,
        description="with each log line also what mutual-aware attention does: pairs kept, pixels and words "
        "with none, how alike words are; costs a forward of the MA blocks",
    )
    checkpoint_every: int | None = Field(None, gt=0, description="steps; None: at the end of each epoch")
    keep_checkpoints: int = Field(2, gt=0)
    evaluate_every: int | None = Field(1, gt=0, description="epochs; None: only after the last")
    peak_tflops: float | None = Field(
        None, gt=0, description="dense bf16 of one device, for MFU; None: by its name, no MFU where unknown"
    )
    pictures: int = Field(4, ge=0, description="val expressions drawn at each evaluation; 0: none")
    report: bool = Field(
        True, description="a finished run leaves report.html; `maris-fast report` makes it too"
    )
    wandb_project: str | None = Field(
        None, description="records and pictures go to this Weights & Biases project too; needs wandb"
    )
    stop_after_steps: int | None = Field(
        None,
        gt=0,
        description="end the process after so many steps, with a checkpoint; the schedule stays as it is",
    )


class TrainingSettings(Settings):
    """The whole of a training run (``train/configs/*.yaml``)."""

    shipped = "train/configs"

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
        if self.engine.compile and self.engine.zero_stage == 3:
            raise ValueError(
                "engine.compile needs parameters that stay in place, and ZeRO 3 moves them; "
                "set engine.zero_stage to 0, 1 or 2, or engine.compile=false"
            )
        if self.data.expressions_per_step % self.engine.accumulation_steps:
            raise ValueError(
                f"data.expressions_per_step = {self.data.expressions_per_step} is not a multiple of "
                f"engine.accumulation_steps = {self.engine.accumulation_steps}"
            )
        return self
