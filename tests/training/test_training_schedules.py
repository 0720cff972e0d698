"""Learning rate, gate threshold and DeepSpeed's configuration are functions of the settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from maris_fast.config import OptimiserSettings, ScheduleSettings
from maris_fast.errors import ConfigError
from maris_fast.train.deepspeed_config import deepspeed_config
from maris_fast.train.schedules import gate_threshold, learning_rate, total_steps
from tests.training.toy_run import toy_settings


def test_learning_rate_rises_to_the_peak_and_falls_along_half_a_cosine() -> None:
    settings = OptimiserSettings(lr=1.0, warmup_share=0.1, final_lr_share=0.2)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)  # half way: the mean of peak and end
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] == pytest.approx(0.2, abs=1e-3)


def test_learning_rate_without_warmup_and_of_a_single_step() -> None:
    settings = OptimiserSettings(lr=3.0, warmup_share=0)
    assert learning_rate(0, 10, settings) == 3.0
    assert learning_rate(0, 1, settings) == 3.0


def test_gate_threshold_holds_rises_and_stays() -> None:
    schedule = ScheduleSettings(tau_hold_share=0.2, tau_ramp_share=0.5)
    values = [gate_threshold(step, 10, schedule, 0.5) for step in range(10)]
    assert values == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5])
    assert gate_threshold(0, 10, ScheduleSettings(), 0.5) == 0.5
    assert gate_threshold(9, 10, ScheduleSettings(tau_hold_share=1.0), 0.5) == 0


def test_total_steps_end_with_the_epochs_or_earlier() -> None:
    assert total_steps(ScheduleSettings(epochs=3), 7) == 21
    assert total_steps(ScheduleSettings(epochs=3, max_steps=5), 7) == 5
    assert total_steps(ScheduleSettings(epochs=3, max_steps=50), 7) == 21


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_batch_numbers_agree_at_any_number_of_ranks(world: int, accumulation: int) -> None:
    settings = toy_settings(
        Path("unused"), **{"data.expressions_per_step": 64, "engine.accumulation_steps": accumulation}
    )
    config = deepspeed_config(settings, world)
    micro = config["train_micro_batch_size_per_gpu"]
    assert config["train_batch_size"] == micro * accumulation * world
    assert micro * accumulation * world - 64 in range(accumulation * world)


def test_more_parts_than_expressions_name_the_numbers_to_change() -> None:
    settings = toy_settings(
        Path("unused"), **{"data.expressions_per_step": 4, "engine.accumulation_steps": 2}
    )
    with pytest.raises(ConfigError, match=r"= 4 .* 3 ranks .*accumulation_steps = 2.* to 6 or more"):
        deepspeed_config(settings, 3)


def test_offload_uses_torchs_adam_on_the_host() -> None:
    settings = toy_settings(Path("unused"), **{"engine.zero_stage": 2, "engine.offload_optimizer": True})
    config = deepspeed_config(settings, 1)
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["zero_force_ds_cpu_optimizer"] is False
