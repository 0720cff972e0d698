"""One optimisation step under DeepSpeed, equal to plain PyTorch on the step's whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from inspect import unwrap
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maris_fast.config import EngineSettings, LossSettings, TrainingSettings
from maris_fast.data_shards.stream import Batch
from maris_fast.losses import expression_losses, pixel_overlap
from maris_fast.train import optimiser_state
from maris_fast.train.deepspeed_config import deepspeed_config
from maris_fast.train.ranks import Ranks
from maris_fast.train.torch_compile import compile_blocks, compiles


class ModelWithLoss(nn.Module):
    """Wrapped by DeepSpeed: a batch's loss, summed; the model runs in ``precision``, the loss in fp32."""

    def __init__(self, model: nn.Module, settings: LossSettings, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.bf16 = precision == "bf16"

    def forward(
        self,
        features: Sequence[Tensor],
        words: Tensor,
        word_mask: Tensor,
        expr_offsets: Tensor,
        targets: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Takes the model's arguments, targets [E, 4h, 4w] and weights [E] (0: padding).

        Returns the summed total, with its graph; detached, [3] the sums of focal, dice and total (a fourth,
        of no-target, if the model has this output) and ``pixel_overlap``.
        """
        with torch.autocast(words.device.type, torch.bfloat16, enabled=self.bf16):
            said = self.model(features, words, word_mask, expr_offsets)
        losses = expression_losses(said.logits, targets, self.settings, said.no_target)
        sums = torch.stack([(weights * part).sum() for part in losses.parts()])
        return sums[2], sums.detach(), pixel_overlap(said.answer().detach(), targets, weights)


def smaller_parts(settings: EngineSettings) -> str:
    """What to change if a rank's part of a step does not fit in its memory."""
    steps = 2 * settings.accumulation_steps
    return f"set engine.accumulation_steps={steps}, which halves a rank's part of a step, or start more ranks"


class PlainAdamW(torch.optim.AdamW):
    """AdamW without the torch.compile wrappers of its methods, for a run that compiles nothing.

    The first call of a wrapped one imports the compiler and SymPy: a quarter of a rank's CPU time at startup.
    """

    add_param_group: Any = unwrap(Optimizer.add_param_group)
    zero_grad: Any = unwrap(Optimizer.zero_grad)
    state_dict: Any = unwrap(Optimizer.state_dict)
    load_state_dict: Any = unwrap(Optimizer.load_state_dict)
    step: Any = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class StepResult(NamedTuple):
    """Results that stay on the device: reading them waits for the step.

    ``losses`` [3]: this rank's share of the step's mean focal, dice and total loss, and a fourth, no-target,
    if the model has this output; the shares of all ranks add up to the means. ``gradient_norm``: before
    clipping, over all parameters and ranks. ``overlap``, int64 [2]: ΣI and ΣU of this rank's pixels, for the
    step's oIoU.
    """

    losses: Tensor
    gradient_norm: Tensor | float
    overlap: Tensor


class Engine:
    """A model, its AdamW and DeepSpeed around them.

    All ranks build it with the same weights. ``model`` is the module that was passed in; under ZeRO 3 its
    parameters are partitioned, and ``optimiser_state`` gathers them.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings, ranks: Ranks) -> None:
        import deepspeed

        self.model = model.to(ranks.device).train()
        self.world = ranks.world
        self.lr = settings.optimiser.lr
        self.accumulation_steps = settings.engine.accumulation_steps
        self.zero_stage = settings.engine.zero_stage
        self.clip_norm = settings.optimiser.clip_norm
        self.compiled = compiles(settings.engine, ranks.device)
        if self.compiled:
            compile_blocks(self.model, ranks.progress)
        # ZeRO accepts optimisers by their exact class, and DeepSpeed's imports the compiler anyway.
        adamw = torch.optim.AdamW if self.zero_stage else PlainAdamW
        optimiser = adamw(
            self.model.parameters(),
            lr=settings.optimiser.lr,
            betas=settings.optimiser.betas,
            weight_decay=settings.optimiser.weight_decay,
            fused=True,  # one kernel on CUDA; on a CPU 1 ms a step instead of 7 for 93 tensors
        )
        self.wrapped: Any
        self.wrapped, *_ = deepspeed.initialize(
            model=ModelWithLoss(self.model, settings.loss, settings.engine.precision),
            optimizer=optimiser,
            config=deepspeed_config(settings, ranks.world),
            dist_init_required=False,
        )
        optimiser_state.create_moments(self.wrapped)

    def step(self, parts: Sequence[Batch], lr: float) -> StepResult:
        """Updates the model from this rank's ``accumulation_steps`` parts of the step's batch.

        The update is that of the mean loss over the step's real expressions, however they are split over
        ranks and parts (only BatchNorm sees the split, see ``batch_statistics``).
        """
        assert len(parts) == self.accumulation_steps
        self.lr = lr
        for group in self.wrapped.optimizer.param_groups:
            group["lr"] = lr
        shares, overlaps = [], []
        for part in parts:
            total, sums, overlap = self.wrapped(
                part.features, part.words, part.word_mask, part.expr_offsets, part.targets, part.weights
            )
            shares.append(sums / part.step_expressions)
            overlaps.append(overlap)
            # DeepSpeed takes the mean over ranks; times their number, it is the sum that we want.
            self.wrapped.backward(total * (self.world / part.step_expressions), scale_wrt_gas=False)
            if part is parts[-1] and self.zero_stage == 0:
                norm = self._clip()
            self.wrapped.step()
        if self.zero_stage:
            norm = self.wrapped.get_global_grad_norm()
        return StepResult(torch.stack(shares).sum(0), norm, torch.stack(overlaps).sum(0))

    @property
    def skipped_steps(self) -> int:
        """Steps since the start that ZeRO 1 to 3 left out as their gradients were not finite, on all ranks.

        At ZeRO 0 such a step makes the weights NaN.
        """
        skipped: int = self.wrapped.skipped_steps
        return skipped

    def _clip(self) -> Tensor:
        return nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm or math.inf)
