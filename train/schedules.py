"""Learning rate and gate threshold as functions of the step alone: resuming has nothing to restore."""

from __future__ import annotations

import math

from maris_fast.config import OptimiserSettings, ScheduleSettings


def total_steps(schedule: ScheduleSettings, steps_per_epoch: int) -> int:
    """Steps of the whole run: all epochs, or ``schedule.max_steps`` where that comes first."""
    steps = schedule.epochs * steps_per_epoch
    return steps if schedule.max_steps is None else min(steps, schedule.max_steps)


def learning_rate(step: int, total: int, optimiser: OptimiserSettings) -> float:
    """The rate of step 0 <= step < total: linear warm-up to the peak, then a half cosine."""
    warmup = math.ceil(optimiser.warmup_share * total)
    if step < warmup:
        return optimiser.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return optimiser.lr * (optimiser.final_lr_share + (1 - optimiser.final_lr_share) * cosine)


def gate_threshold(step: int, total: int, schedule: ScheduleSettings, tau: float) -> float:
    """Eq. 4's threshold: 0 while held, then linear up to ``tau``, the model's own setting."""
    hold, ramp = schedule.tau_hold_share * total, schedule.tau_ramp_share * total
    if step < hold:
        return 0.0
    return tau if step >= hold + ramp else tau * (step - hold) / ramp
