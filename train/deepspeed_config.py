"""DeepSpeed's configuration, generated from the settings rather than written by hand as JSON.

Precision is not part of it. Parameters, gradients and Adam's moments are fp32 at every ZeRO stage, and
``engine.precision = bf16`` is an autocast around the model (``engine``): for six million parameters
bf16 copies gain nothing, BatchNorm keeps fp32 statistics, and all stages compute the same numbers.
"""

from __future__ import annotations

import math
from typing import Any

from maris_fast.config import TrainingSettings
from maris_fast.errors import ConfigError

# Elements. DeepSpeed's default of 5e8 would hold 2 GB per rank for a model of 24 MB.
BUCKET = 1 << 24


def deepspeed_config(settings: TrainingSettings, world: int) -> dict[str, Any]:
    """The configuration passed to ``deepspeed.initialize`` for ``world`` ranks.

    Batch sizes are only DeepSpeed's book-keeping: they count expressions, the last ones of a step may be
    padding, and ``engine`` scales the loss.

    Raises:
        ConfigError: a step has fewer expressions than there are ranks times accumulation steps.
    """
    engine, expressions = settings.engine, settings.data.expressions_per_step
    parts = world * engine.accumulation_steps
    if expressions < parts:
        raise ConfigError(
            f"data.expressions_per_step = {expressions} cannot be split over {world} ranks x "
            f"engine.accumulation_steps = {engine.accumulation_steps}: each part needs an expression; set "
            f"data.expressions_per_step to {parts} or more, or start fewer ranks"
        )
    micro = math.ceil(expressions / parts)
    return {
        "train_batch_size": micro * parts,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": engine.accumulation_steps,
        # At ZeRO 0, ``engine`` clips: DeepSpeed would not report the norm there.
        "gradient_clipping": settings.optimiser.clip_norm if engine.zero_stage else 0.0,
        "zero_optimization": _zero(settings),
        # torch's fused AdamW everywhere, on the host too: no operator to build, and one checkpoint format.
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        # The throughput timer would synchronise with the device each step.
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }


def _zero(settings: TrainingSettings) -> dict[str, Any]:
    engine = settings.engine
    zero: dict[str, Any] = {
        "stage": engine.zero_stage,
        "overlap_comm": False,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if engine.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = BUCKET
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return zero
