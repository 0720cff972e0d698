"""Scenarios of the training tests, run in the processes of a launcher.

::

    deepspeed tests/training/scenarios.py FOLDER name ...

Each scenario returns plain values; every rank writes them to FOLDER/<rank>.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from maris_fast.config import TrainingSettings
from maris_fast.errors import MarisError
from maris_fast.evaluation.evaluate import evaluate
from maris_fast.losses import expression_losses
from maris_fast.model import Segmentation
from maris_fast.train import checkpoints, loop, optimiser_state
from maris_fast.train import engine as engine_module
from maris_fast.train.deepspeed_config import deepspeed_config
from maris_fast.train.engine import Engine
from maris_fast.train.loop import train
from maris_fast.train.ranks import Ranks, join, leave
from maris_fast.train.split_scores import score_split
from maris_fast.weights import load_weights
from tests.training.processes import records
from tests.training.toy import ToyModel, part_of, toy_batch
from tests.training.toy_run import ToyReader, losses, replaced, toy_settings, toy_trainer

STAGES = (0, 1, 2, 3)
STEPS, PARTS = 3, 2
LR, BETAS, WEIGHT_DECAY = 9e-3, (0.88, 0.998), 0.02
"""None of them a default, of the settings or of PyTorch."""


def parity(ranks: Ranks, folder: Path) -> Any:
    """The largest differences from plain PyTorch on the whole batch, by stage, without and with offload."""
    expected = _plain_pytorch()
    differences = {}
    for stage, offload in [*((stage, False) for stage in STAGES), *((stage, True) for stage in STAGES[1:])]:
        settings = toy_settings(
            folder,
            **{"engine.zero_stage": stage, "engine.offload_optimizer": offload},
            **{"engine.accumulation_steps": PARTS, "optimiser.clip_norm": 0.1},
            **{"optimiser.betas": BETAS, "optimiser.weight_decay": WEIGHT_DECAY},
        )
        engine = Engine(ToyModel(), settings, ranks)
        found: dict[str, list[torch.Tensor]] = {"losses": [], "norms": []}
        for step in range(STEPS):
            parts = [
                part_of(toy_batch(step), ranks.rank * PARTS + i, ranks.world * PARTS) for i in range(PARTS)
            ]
            result = engine.step(parts, LR)
            shares = result.losses.clone()
            torch.distributed.all_reduce(shares)
            found["losses"].append(shares)
            found["norms"].append(torch.as_tensor(result.gradient_norm).float())
        # exp_avg is a weighted sum of the gradients, exp_avg_sq of their squares.
        found["moments"] = [*optimiser_state.whole_moments(engine.wrapped, engine.model).values()]
        found["parameters"] = [*optimiser_state.whole_parameters(engine.wrapped, engine.model).values()]
        differences[f"{stage}{' offload' if offload else ''}"] = {
            key: max((a - b).abs().max().item() for a, b in zip(found[key], expected[key], strict=True))
            for key in found
        }
    return differences


def _plain_pytorch() -> dict[str, list[torch.Tensor]]:
    model, settings = ToyModel(), toy_settings(Path("unused"))
    adam = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    found: dict[str, list[torch.Tensor]] = {"losses": [], "norms": []}
    for step in range(STEPS):
        batch = toy_batch(step)
        logits = model(batch.features, batch.words, batch.word_mask, batch.expr_offsets).logits
        parts = expression_losses(logits, batch.targets, settings.loss).parts()
        means = torch.stack([(part * batch.weights).sum() / batch.step_expressions for part in parts])
        adam.zero_grad()
        means[2].backward()
        found["norms"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1))
        found["losses"].append(means.detach())
        adam.step()
    found["moments"] = [
        adam.state[one][key].detach() for key in optimiser_state.MOMENTS for one in model.parameters()
    ]
    found["parameters"] = [one.detach() for one in model.parameters()]
    return found


def resume(ranks: Ranks, folder: Path) -> Any:
    """By stage: loss curves and evaluations of an uninterrupted run and of one stopped twice."""
    curves = {}
    for stage in STAGES:
        whole = toy_settings(folder / f"whole-{stage}", **{"engine.zero_stage": stage})
        toy_trainer(whole, ranks).run()
        parts = toy_settings(
            folder / f"parts-{stage}", **{"engine.zero_stage": stage, "run.stop_after_steps": 4}
        )
        toy_trainer(parts, ranks).run()
        for _ in range(2):
            toy_trainer(replaced(parts, resume="auto"), ranks).run()
        curves[stage] = [
            (losses(run), records(run, "evaluation")) for run in (whole.run.folder, parts.run.folder)
        ]
    return curves


def other_stage(ranks: Ranks, folder: Path) -> Any:
    """Resume a ZeRO 0 checkpoint at ZeRO 3, and the reverse; return both runs' loss curves."""
    curves = {}
    for before, after in ((0, 3), (3, 0)):
        run = folder / f"from-{before}-to-{after}"
        first = toy_settings(run, **{"engine.zero_stage": before, "run.stop_after_steps": 4})
        toy_trainer(first, ranks).run()
        if ranks.first:
            shutil.copytree(run, folder / f"half-{before}", dirs_exist_ok=True)
        second = toy_settings(run, **{"engine.zero_stage": after, "run.resume": "auto"})
        toy_trainer(second, ranks).run()
        curves[f"{before}-{after}"] = losses(run)
    return curves


def stop_signal(ranks: Ranks, folder: Path) -> Any:
    """SIGTERM to the last rank only, in epoch 1, step 1: where all ranks stopped, and the curve so far."""
    settings = toy_settings(folder / "signal")
    outcome = toy_trainer(settings, ranks, signal_at=(1, 1)).run()
    return {"step": outcome.step, "finished": outcome.finished, "curve": losses(folder / "signal")}


def batch_norm(ranks: Ranks, folder: Path) -> Any:
    """Running means and variances: each rank's own, and after averaging."""
    from maris_fast.train.batch_statistics import average_batch_statistics

    model = ToyModel(batch_norm=True)
    batch = part_of(toy_batch(0), ranks.rank, ranks.world)
    model(batch.features, batch.words, batch.word_mask, batch.expr_offsets)

    def statistics() -> dict[str, list[float]]:
        state = model.norm.state_dict()
        return {name: state[name].tolist() for name in ("running_mean", "running_var")}

    own = statistics()
    average_batch_statistics(model)
    return {"own": own, "averaged": statistics()}


def refusals(ranks: Ranks, folder: Path) -> Any:
    """This rank's messages for what a run must refuse before it starts."""
    done = folder / "whole-0"
    strange = folder / "strange"
    if ranks.first:
        strange.mkdir()
        (strange / "thesis.tex").touch()
    attempts: dict[str, Callable[[], Any]] = {
        "not empty": lambda: toy_trainer(toy_settings(done), ranks),
        "no run": lambda: toy_trainer(toy_settings(strange, **{"run.resume": "auto"}), ranks),
        "seed": lambda: toy_trainer(toy_settings(done, **{"run.resume": "auto", "run.seed": 3}), ranks),
        "width": lambda: toy_trainer(
            toy_settings(done, **{"run.resume": "auto"}), ranks, model=ToyModel(batch_norm=True, width=9)
        ),
    }
    return {name: _message(attempt) for name, attempt in attempts.items()}


def other_caches(ranks: Ranks, folder: Path) -> Any:
    """This rank's messages where rank 1 has another train or val split at its ``data.cache``."""

    def cache(split: str) -> Path:
        return folder / f"other-{split}" / "cache" if ranks.rank == 1 else folder / "cache"

    def training(split: str) -> Any:
        return train(toy_settings(folder / "never", **{"data.cache": str(cache(split))}), ranks)

    attempts: dict[str, Callable[[], Any]] = {
        "train": lambda: training("train"),
        "val": lambda: training("val"),
        "evaluate": lambda: evaluate(folder / "weights.safetensors", cache("val"), "val", ranks=ranks),
    }
    return {name: _message(attempt) for name, attempt in attempts.items()}


def _message(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except MarisError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def divergence(ranks: Ranks, folder: Path) -> Any:
    """The error of a run whose loss is NaN, and whether it left checkpoints."""
    settings = toy_settings(folder / "nan", **{"run.log_every": 2, "run.checkpoint_every": 1})
    trainer = toy_trainer(settings, ranks)
    trainer.engine.model.scale.data.fill_(float("nan"))
    try:
        trainer.run()
    except MarisError as error:
        return [str(error), (folder / "nan" / "checkpoints").exists()]


def not_finite(ranks: Ranks, folder: Path) -> Any:
    """The error of a run whose weights are not finite when evaluated, and the files that it changed."""
    run = folder / "not-finite"
    toy_trainer(toy_settings(run, **{"run.stop_after_steps": 3}), ranks).run()
    before = {path: path.read_bytes() for path in run.glob("*.safetensors")}
    assert {path.name for path in before} == {"best.safetensors", "last.safetensors"}
    seldom = {"run.log_every": 1000, "run.checkpoint_every": 1000}
    settings = toy_settings(run, **{"run.resume": "auto", "optimiser.lr": 1e30}, **seldom)
    try:
        toy_trainer(settings, ranks).run()
    except MarisError as error:
        changed = [path.name for path in run.glob("*.safetensors") if before.get(path) != path.read_bytes()]
        return [str(error), changed]


class _WithoutGradient(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor) -> torch.Tensor:
        return given.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * float("nan")


class _BrokenBackward(ToyModel):
    def forward(self, features: Any, *given: torch.Tensor) -> Segmentation:
        first, *others = features
        return super().forward((_WithoutGradient.apply(first + 0 * self.scale), *others), *given)


def no_gradients(ranks: Ranks, folder: Path) -> Any:
    """By stage, the error of a run whose losses are finite and whose gradients are not; its checkpoints."""
    found = {}
    for stage in STAGES:
        run = folder / f"no-gradients-{stage}"
        settings = toy_settings(run, **{"engine.zero_stage": stage, "run.log_every": 2})
        trainer = toy_trainer(settings, ranks, _BrokenBackward())
        found[stage] = [_message(trainer.run), (run / "checkpoints").exists()]
    return found


def many_gpus(ranks: Ranks, folder: Path) -> Any:
    """Expressions that an evaluation computes at once, of a run with 2,048 a step."""
    asked = []
    batches = ToyReader.evaluation_batches

    def recorded(reader: ToyReader, *, max_expressions: int, **given: Any) -> Any:
        asked.append(max_expressions)
        return batches(reader, **given)

    settings = toy_settings(folder / "many-gpus", **{"data.expressions_per_step": 2048})
    with mock.patch.object(ToyReader, "evaluation_batches", recorded):
        toy_trainer(settings, ranks).run()
    return asked


def no_memory(ranks: Ranks, folder: Path) -> Any:
    """The error of a run whose second step does not fit in the GPU's memory."""
    step, number = Engine.step, iter(range(9))

    def full(*given: Any) -> Any:
        if next(number) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(*given)

    settings = toy_settings(folder / "no-memory", **{"engine.accumulation_steps": 2})
    with mock.patch.object(Engine, "step", full):
        return _message(toy_trainer(settings, ranks).run)


def group_timeouts(ranks: Ranks, folder: Path) -> Any:
    """Seconds after which each of the process groups ends a collective."""
    return [
        group._get_backend(ranks.device).options._timeout.total_seconds()
        for group in torch.distributed.distributed_c10d._world.pg_map
    ]


def maris(ranks: Ranks, folder: Path) -> Any:
    """MARIS itself on a real cache at ZeRO 3: curves of an uninterrupted run and of one stopped mid-epoch."""
    shape = {
        "data.cache": str(folder / "cache"),
        "data.expressions_per_step": 5,
        "data.val_split": "train",
        "model.channels": 16,
        "model.heads": 2,
        "engine.zero_stage": 3,
        "schedule.epochs": 2,
    }
    whole = toy_settings(folder / "maris", **shape)
    train(whole, ranks)
    parts = toy_settings(folder / "maris-parts", **shape, **{"run.stop_after_steps": 2})
    train(parts, ranks)
    train(replaced(parts, resume="auto", stop_after_steps=None), ranks)
    return [(losses(run), records(run, "evaluation")) for run in (whole.run.folder, parts.run.folder)]


def other_ranks(ranks: Ranks, folder: Path) -> Any:
    """Resume the half-finished ZeRO 0 run that ``other_stage`` left, on the current number of ranks."""
    run = folder / "half-0"
    toy_trainer(toy_settings(run, **{"run.resume": "auto"}), ranks, model=ToyModel(batch_norm=True)).run()
    return losses(run)


def bf16(ranks: Ranks, folder: Path) -> Any:
    """A short run in bf16: its losses, and the dtypes of the parameters and of a layer's output."""
    settings = toy_settings(folder / "bf16", **{"engine.precision": "bf16", "run.stop_after_steps": 3})
    trainer = toy_trainer(settings, ranks)
    computed: dict[str, set[str]] = {"training": set(), "evaluation": set()}
    for model, kinds in zip((trainer.model, trainer.plain), computed.values(), strict=True):
        model.visual.register_forward_hook(lambda *call, kinds=kinds: kinds.add(str(call[2].dtype)))
    trainer.run()
    parameters = {str(parameter.dtype) for parameter in trainer.model.parameters()}
    return {
        "curve": losses(folder / "bf16"),
        "parameters": sorted(parameters),
        "computed": {name: sorted(kinds) for name, kinds in computed.items()},
    }


SCORES = (0.3, 0.5, 0.4)


def evaluations(ranks: Ranks, folder: Path) -> Any:
    """A run with the oIoUs ``SCORES``, resumed before the third: its best weights, and the taus used."""
    run, scores, taus = folder / "evaluations", iter(SCORES), []

    def scored(model: torch.nn.Module, *given: Any, **more: Any) -> dict[str, Any]:
        taus.append(model.tau)
        return {**score_split(model, *given, **more), "oIoU": next(scores)}

    changes = {"schedule.tau_hold_share": 1 / 3, "schedule.tau_ramp_share": 1 / 3}
    with mock.patch.object(loop, "score_split", scored):
        toy_trainer(toy_settings(run, **changes, **{"run.stop_after_steps": 6}), ranks).run()
        outcome = toy_trainer(toy_settings(run, **changes, **{"run.resume": "auto"}), ranks).run()
    weights = {name: load_weights(run / f"{name}.safetensors") for name in ("best", "last")}
    equal = [
        checkpoint.name
        for checkpoint in sorted((run / "checkpoints").iterdir())
        if all(
            torch.equal(checkpoints.read(checkpoint)[f"model.{name}"], tensor)
            for name, tensor in weights["best"][0].items()
        )
    ]
    return {
        "best": [[one.step, one.scores["oIoU"]] for _, one in weights.values() if one.scores],
        "told": [outcome.best.step, outcome.best.score] if outcome.best else None,
        "equal": equal,
        "tau": {
            "steps": [one["tau"] for one in records(run, "train")],
            "evaluations": taus,
            "weights": [meta.tau for _, meta in weights.values()],
        },
    }


def owed(ranks: Ranks, folder: Path) -> Any:
    """Evaluations of an uninterrupted run, and of one stopped by SIGTERM at an evaluation's step, resumed."""
    whole, parts = toy_settings(folder / "not-owed"), toy_settings(folder / "owed")
    taus: list[float] = []

    def scored(model: torch.nn.Module, *given: Any, **more: Any) -> dict[str, Any]:
        taus.append(model.tau)
        return score_split(model, *given, **more)

    with mock.patch.object(loop, "score_split", scored):
        toy_trainer(whole, ranks).run()
        whole_taus = [*taus]
        taus.clear()
        # Received before step 5 ran; the flag is checked one step later.
        stopped = toy_trainer(parts, ranks, signal_at=(1, 1)).run().step
        before = records(parts.run.folder, "evaluation")
        toy_trainer(replaced(parts, resume="auto"), ranks).run()
    return {
        "stopped": stopped,
        "before": before,
        "after": records(parts.run.folder, "evaluation"),
        "whole": records(whole.run.folder, "evaluation"),
        "taus": {"after": taus, "whole": whole_taus},
    }


def overlaps(ranks: Ranks, folder: Path) -> Any:
    """The oIoU of every second step of a run, and ΣI and ΣU of each."""
    run, seen = folder / "overlaps", []
    step = Engine.step

    def stepped(*given: Any) -> Any:
        result = step(*given)
        seen.append(result.overlap.tolist())
        return result

    with mock.patch.object(Engine, "step", stepped):
        toy_trainer(toy_settings(run, **{"run.log_every": 2, "run.stop_after_steps": 6}), ranks).run()
    return {"oIoU": [one["oIoU"] for one in records(run, "train")], "steps": seen}


SCENARIOS: dict[str, Callable[[Ranks, Path], Any]] = {
    scenario.__name__: scenario
    for scenario in (
        parity,
        resume,
        other_stage,
        stop_signal,
        batch_norm,
        refusals,
        other_caches,
        divergence,
        not_finite,
        no_gradients,
        many_gpus,
        no_memory,
        group_timeouts,
        maris,
        other_ranks,
        bf16,
        evaluations,
        owed,
        overlaps,
    )
}


def _scattered(settings: TrainingSettings, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration with small parameters partitioned too, which ZeRO 3 would keep whole."""
    config = deepspeed_config(settings, world)
    if settings.engine.zero_stage == 3:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank")
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenarios", nargs="+", choices=SCENARIOS)
    options = parser.parse_args()
    engine_module.deepspeed_config = _scattered
    ranks = join(toy_settings(options.folder).engine)
    results = {name: SCENARIOS[name](ranks, options.folder) for name in options.scenarios}
    (options.folder / f"{ranks.rank}.json").write_text(json.dumps(results))
    leave()


if __name__ == "__main__":
    _main()
