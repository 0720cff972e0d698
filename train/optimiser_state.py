"""Parameters and Adam's moments, which DeepSpeed partitions by ZeRO stage, as whole tensors by name.

``deepspeed.utils.safe_get_*`` and ``safe_set_*`` do most of it. The rest is here: before the first step there
are no moments to set; Adam's step count is not restored; and at ZeRO 3 ``safe_set_full_optimizer_state``
reads beyond the end of a tensor whose size is not a multiple of the number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def create_moments(engine: Any) -> None:
    """Creates zero moments in the DeepSpeed engine's fresh optimiser, as its first step would."""
    adam = _adam(engine)
    for shard in _shards(engine):
        adam.state[shard] = {
            "step": torch.tensor(0.0, device=shard.device),
            **{key: torch.zeros_like(shard, requires_grad=False) for key in MOMENTS},
        }
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def whole_parameters(engine: Any, model: nn.Module) -> dict[str, Tensor]:
    """Every parameter of ``model``, fp32, complete on each rank. All ranks must call it."""
    from deepspeed.utils import safe_get_full_fp32_param

    if engine.zero_optimization_stage() < 3:
        return {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {name: safe_get_full_fp32_param(parameter) for name, parameter in model.named_parameters()}


def whole_moments(engine: Any, model: nn.Module) -> dict[str, Tensor]:
    """``<moment>.<parameter>`` of Adam, fp32, complete on each rank. All ranks must call it."""
    from deepspeed.utils import safe_get_full_optimizer_state

    def whole(parameter: nn.Parameter, key: str) -> Tensor:
        if engine.zero_optimization_stage() == 0:
            moment: Tensor = _adam(engine).state[parameter][key]
            return moment
        return safe_get_full_optimizer_state(parameter, key).view(_shape(parameter))

    return {
        f"{key}.{name}": whole(parameter, key)
        for key in MOMENTS
        for name, parameter in model.named_parameters()
    }


@torch.no_grad()
def restore_moments(engine: Any, model: nn.Module, moments: Mapping[str, Tensor], steps: int) -> None:
    """Restores the ``whole_moments`` of ``steps`` optimiser steps, at any stage and number of ranks."""
    for name, parameter in model.named_parameters():
        for key in MOMENTS:
            _restore(engine, parameter, key, moments[f"{key}.{name}"])
    for state in _adam(engine).state.values():
        state["step"].fill_(steps)


def _restore(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    stage = engine.zero_optimization_stage()
    if stage == 0:
        _adam(engine).state[parameter][key].copy_(value)
    elif stage < 3:
        safe_set_full_optimizer_state(parameter, value, key)
    else:
        part = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        rank = torch.distributed.get_rank()
        mine = value.flatten()[rank * part : (rank + 1) * part]
        safe_set_local_optimizer_state(parameter, F.pad(mine, (0, part - mine.numel())), key)


def _adam(engine: Any) -> torch.optim.AdamW:
    wrapped = engine.optimizer
    adam: torch.optim.AdamW = wrapped.optimizer if engine.zero_optimization_stage() else wrapped
    return adam


def _shards(engine: Any) -> list[Tensor]:
    """The tensors that this rank's Adam updates."""
    stage, optimiser = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        return [parameter for group in optimiser.param_groups for parameter in group["params"]]
    shards: list[Tensor] = (
        optimiser.fp32_partitioned_groups_flat if stage == 3 else optimiser.single_partition_of_fp32_groups
    )
    return shards


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
