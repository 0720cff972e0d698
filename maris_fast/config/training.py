"""A training run: data, batch, optimiser, engine and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from maris_fast.config.base import Seed, Settings
from maris_fast.config.model import LossSettings, ModelSettings
from maris_fast.config.places import CachePlace, StoreAddress

Verify = Literal["first", "always", "never"]


PRIVATE = ("data", "shards")
"""Section and key of a setting that is not passed on: a command or a signed address may hold a secret."""


class ReadingSettings(Settings):
    """How a cache is read. None of these settings changes a batch or the order of batches."""

    buffer_bytes: int = Field(
        2 * 2**30, gt=0, description="size of the ring buffer for batches, for each rank and split"
    )
    reader_threads: int = Field(2, gt=0, le=1024, description="threads that read shards, for each rank")
    requests: int = Field(
        16,
        gt=0,
        le=1024,
        description="range requests in flight for each rank and split, if data.cache is an address",
    )
    prefetch: int = Field(2, gt=0, description="batches to read ahead, as far as they fit into the buffer")
    verify: Verify = Field(
        "always",
        description="when to compare checksums: at each read of an image (a fifth more CPU time of the "
        "reading threads), at its first, or never",
    )
    stall_seconds: float = Field(
        60, gt=0, description="time-out of a read; of an address, with all attempts at it"
    )
    on_bad_sample: Literal["stop", "skip"] = Field(
        "stop", description="what an unreadable image does: stop the run, or be skipped, counted and logged"
    )
    max_bad_samples: int = Field(
        10, ge=0, description="images that each rank may skip before the run ends with an error"
    )
    shards: str | None = Field(
        None,
        description="URL of a shard for webdataset, with {name} for its name: 'pipe:cat /far/{name}'. "
        "The manifest and the indexes are read the same way unless data.cache has them. None: local files",
    )
    staging: Path | None = Field(
        None,
        description="local folder that shards of data.shards are copied to, or that keeps what was read from "
        "an address; ranks of a machine share it. None: keep nothing",
    )
    staging_bytes: int = Field(
        2**40, gt=0, description="size limit of data.staging; best as large as the whole cache"
    )

    @model_validator(mode="after")
    def _staged(self) -> ReadingSettings:
        if self.shards is not None and "{name}" not in self.shards:
            raise ValueError(f"data.shards = {self.shards!r} does not say where the shard's {{name}} goes")
        if self.shards is not None and self.staging is None:
            raise ValueError("data.shards needs data.staging, a local folder that the shards are streamed to")
        return self


class DataSettings(ReadingSettings):
    cache: CachePlace = Field(
        description="folder of shards that `maris-fast cache` wrote, or its address: s3://BUCKET/PATH, "
        "gs://BUCKET/PATH, hf://datasets/ORG/NAME/PATH, https://HOST/PATH"
    )
    train_split: str = "train"
    val_split: str = "val"
    expressions_per_step: int = Field(
        64, gt=0, description="batch size, over all ranks and accumulation steps"
    )
    expressions_per_image: int = Field(8, gt=0, description="K, the most expressions of one image in a step")

    @model_validator(mode="after")
    def _one_way_from_afar(self) -> DataSettings:
        if self.shards is not None and isinstance(self.cache, StoreAddress):
            raise ValueError(
                f"data.cache = {self.cache} is read directly, and data.shards names another place; set "
                "one of them"
            )
        return self


class OptimiserSettings(Settings):
    """AdamW, linear warm-up, then cosine to ``final_lr_share`` of the peak."""

    lr: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.02, ge=0, lt=1, description="share of all steps")
    final_lr_share: float = Field(0.0, ge=0, le=1)
    clip_norm: float = Field(
        1.0, ge=0, description="largest gradient norm over all parameters; 0: no clipping"
    )


class ScheduleSettings(Settings):
    epochs: int = Field(50, gt=0)
    max_steps: int | None = Field(
        None, gt=0, description="last step of the run and of the learning rate schedule; None: by epochs"
    )
    tau_hold_share: float = Field(0.0, ge=0, le=1, description="share of all steps with tau = 0")
    tau_ramp_share: float = Field(
        0.0, ge=0, le=1, description="share of all steps, after these, in which tau rises to model.tau"
    )


class EngineSettings(Settings):
    """Devices, precision and DeepSpeed; DeepSpeed's own configuration is generated from these settings."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: bool = Field(False, description="keep optimizer states in host memory (ZeRO 1-3)")
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="torch.compile the token-wise blocks; the first steps then take a minute or two; auto: "
        "on CUDA, unless ZeRO 3 moves the parameters or a compiler is missing",
    )
    accumulation_steps: int = Field(1, gt=0)
    timeout_minutes: float = Field(
        10, gt=0, description="time-out of a rank that starts, evaluates or writes a checkpoint"
    )
    stall_seconds: float = Field(
        180, gt=0, description="time-out of a rank that reads data or computes a step"
    )
    heartbeat_seconds: float = Field(
        30, ge=0, description="time-out of a rank's heartbeat, after which it counts as lost; 0: no heartbeat"
    )


class RunSettings(Settings):
    """Where a run writes, and how often."""

    folder: Path = Field(description="folder for checkpoints, logs and metrics; new, empty, or to be resumed")
    resume: Literal["never", "auto", "restart"] = Field(
        "never",
        description="never: the folder must be new or empty; auto: resume from its last checkpoint, if any; "
        "restart: move the earlier run to former-1 in the folder and start from the beginning",
    )
    seed: Seed = 0
    log_every: int = Field(10, gt=0, description="steps between two records")
    attention_health: bool = Field(
        False,
        description="also record statistics of mutual-aware attention: pairs kept, pixels and words without, "
        "similarity of words; costs a forward pass of the MA blocks for each record",
    )
    checkpoint_every: int | None = Field(
        None, gt=0, description="steps between two checkpoints; None: one at the end of each epoch"
    )
    keep_checkpoints: int = Field(2, gt=0)
    evaluate_every: int | None = Field(
        1, gt=0, description="epochs between two evaluations; None: only after the last epoch"
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        description="dense bf16 peak of one device, for MFU; None: by the device's name, no MFU if unknown",
    )
    pictures: int = Field(4, ge=0, description="validation expressions to draw at each evaluation; 0: none")
    report: bool = Field(
        True, description="write report.html at the end of the run; `maris-fast report` writes it too"
    )
    wandb_project: str | None = Field(
        None, description="Weights & Biases project that also gets records and pictures; needs wandb"
    )
    stop_after_steps: int | None = Field(
        None,
        gt=0,
        description="stop after this many steps, with a checkpoint; the schedule does not change",
    )


class TrainingSettings(Settings):
    """All settings of a training run (``train/configs/*.yaml``)."""

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
        if self.engine.compile is True and self.engine.zero_stage == 3:
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
