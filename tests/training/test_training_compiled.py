"""Compiled blocks compute what plain ones do, for batches of any shape, without recompiling for each."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch._dynamo.utils import counters

from maris_fast.config import EngineSettings, ModelSettings, TrainingSettings
from maris_fast.data_shards.cache import write_cache
from maris_fast.model import Maris
from maris_fast.train import torch_compile
from maris_fast.train.torch_compile import compile_blocks, compiles
from tests.data.cache_dataset import record, tiny_settings, write_dataset
from tests.training.processes import NOTHING_TO_SEE, records, run, tiny_training

VISUAL, TEXT = 16, 12
# Expressions of each image, grid, words.
BATCHES = (
    ((2, 3, 1), (8, 6), 5),
    ((2, 2, 2, 1), (6, 8), 7),
    ((4, 4), (8, 8), 9),
    ((1, 2, 1, 2, 1), (8, 5), 4),
    ((3, 3, 3), (7, 8), 11),
    ((1,), (4, 4), 4),
)


# Two blocks of each kind: a compilation that the second shares with the first would serve any others. Their
# tokens attend to the image; those of the run below do not.
FULL: dict[str, Any] = {
    "channels": 16,
    "heads": 2,
    "ma_blocks": 2,
    "decoder_blocks": 2,
    "decoder_positions": "sine",
    "decoder_norm": "pre",
    "decoder_feed_forward": 2,
    "token_to_image": True,
}
# The blocks before the decoder are the same, and need not be compiled twice.
POOLED = {**FULL, "decoder_self_attention": "pooled", "ma_blocks": 0, "enhancement": "last"}


def batch(counts: tuple[int, ...], grid: tuple[int, int], L_t: int) -> tuple[object, ...]:
    generator = torch.Generator().manual_seed(L_t)
    features = [torch.randn(len(counts), *grid, VISUAL, generator=generator) for _ in range(3)]
    words = torch.randn(sum(counts), L_t, TEXT, generator=generator)
    word_mask = torch.arange(L_t) < torch.arange(sum(counts))[:, None] % L_t + 1
    return features, words, word_mask, torch.tensor([0, *counts]).cumsum(0).int()


def gradients(model: Maris, inputs: tuple[object, ...]) -> dict[str, torch.Tensor]:
    """The logits and the gradients of all parameters, by name."""
    logits = model(*inputs).logits
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(logits.square().sum(), parameters)
    return {"logits": logits, **dict(zip(names, gradients, strict=True))}


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "compiled_kinds"), [(FULL, 5), (POOLED, 1)], ids=["full", "pooled"])
def test_batches_of_all_shapes_share_compilations_and_give_the_plain_numbers(
    settings: dict[str, Any], compiled_kinds: int
) -> None:
    torch.manual_seed(0)
    plain = Maris(ModelSettings(**settings), VISUAL, TEXT)
    compiled = copy.deepcopy(plain)
    torch._dynamo.reset()
    counters.clear()
    # The next test covers inductor; this one covers the capture of graphs.
    compile_blocks(compiled, backend="aot_eager")
    graphs = []
    for shape in BATCHES:
        found, truth = (gradients(model, batch(*shape)) for model in (compiled, plain))
        for name, needed in truth.items():
            # A softmax is invariant to the keys' bias: its gradient is 0 but for rounding errors.
            scale = truth[name.replace("key.bias", "key.weight")].abs().max().item()
            torch.testing.assert_close(found[name], needed, rtol=1e-4, atol=1e-5 * scale)
        graphs.append(counters["stats"]["unique_graphs"])
    # The compiler specialises on a size of 1: the last batch, and no other, may be compiled again.
    assert graphs[:-1] == [compiled_kinds] * (len(BATCHES) - 1)
    assert graphs[-1] <= 2 * compiled_kinds


@pytest.mark.process
@pytest.mark.slow
def test_a_compiled_run_has_the_plain_runs_losses(tmp_path: Path) -> None:
    """With one grid and two images a step: another size of 1 would be recompiled, minutes of C++."""
    images = [record(number, (64, 96), [(0, "it"), (1, "red circle")]) for number in range(4)]
    dataset = write_dataset(tmp_path / "dataset", {"train": images, "val": images[:2]})
    write_cache(dataset, tmp_path / "cache", tiny_settings(), progress=False)
    curves = []
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        changes = [f"engine.compile={compiled}", "schedule.max_steps=2", "run.evaluate_every=null"]
        changes += ["data.expressions_per_step=4", "data.expressions_per_image=2"]
        changes += ["model.ma_blocks=1", "model.decoder_blocks=1", *NOTHING_TO_SEE]
        done = run(sys.executable, *tiny_training(tmp_path / "cache", folder, *changes), timeout=400)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        steps = records(folder, "train")
        curves.append([step[name] for step in steps for name in ("loss", "gradient_norm")])
    assert len(curves[0]) == 4
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_zero_3_and_compilation_are_refused_together() -> None:
    with pytest.raises(ValidationError, match=r"engine\.compile.*ZeRO 3"):
        TrainingSettings.model_validate(
            {
                "data": {"cache": "cache"},
                "run": {"folder": "run"},
                "engine": {"compile": True, "zero_stage": 3},
            }
        )


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_by_default_blocks_are_compiled_on_cuda_wherever_that_is_allowed(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_compile, "_can_build", lambda: True)
    engine = EngineSettings(zero_stage=stage)
    assert engine.compile == "auto"
    assert [compiles(engine, device) for device in (CPU, CUDA)] == [False, stage != 3]
    for named in (False, True):
        engine = EngineSettings(compile=named, zero_stage=stage)
        assert [compiles(engine, device) for device in (CPU, CUDA)] == [named, named]


@pytest.mark.parametrize(("programs", "able"), [(("gcc", "g++"), True), (("gcc",), False), ((), False)])
def test_without_a_compiler_the_default_compiles_nothing(
    programs: tuple[str, ...], able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    for name in programs:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiles(EngineSettings(), CUDA) == able
