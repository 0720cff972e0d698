"""Compiled blocks compute what plain ones do, for batches of any shape, without recompiling for each."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list
from torch._dynamo.utils import counters

from maris_fast.config import EngineSettings, ModelSettings, TrainingSettings
from maris_fast.data_shards.cache import write_cache
from maris_fast.kernels.choice import Operation, text
from maris_fast.kernels.choice.operation import POWERS
from maris_fast.kernels.choice.table import Found, forget, of_device
from maris_fast.model import Maris
from maris_fast.model.feature_enhancement import FeatureEnhancement
from maris_fast.model.kinds import of_model
from maris_fast.model.layers import MLP
from maris_fast.model.mask_decoder import DecoderBlock
from maris_fast.model.mutual_aware_attention import MutualAwareAttention
from maris_fast.train import torch_compile
from maris_fast.train.heartbeat.diagnosis import Timeouts
from maris_fast.train.progress_state import ProgressState
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


# Of RefCOCO: each power of two of tokens, words up to 16 and 32, and last steps of one image or expression.
# Expressions of each image, grid, words.
REAL_BATCHES = (
    ((2, 1), (64, 48), 9),
    ((1, 2), (43, 64), 20),
    ((1, 1), (64, 27), 20),
    ((2, 2), (32, 64), 16),
    ((2,), (64, 48), 17),
    ((1, 1), (16, 64), 12),
    ((3,), (64, 15), 31),
    ((1,), (64, 48), 9),
    ((1,), (27, 64), 20),
    ((1,), (64, 16), 15),
)


@pytest.fixture(autouse=True)
def nothing_compiled_or_proven() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    shapes = torch.fx.experimental._config.patch(use_duck_shape=True)
    with shapes, torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield
    forget()


def graphs() -> dict[str, int]:
    """The compiled graphs of each kind of block; a break, after which a block would be several, fails."""
    assert not counters["graph_break"]
    kinds = (MLP, MutualAwareAttention, DecoderBlock)
    return {kind.__name__: len(_debug_get_cache_entry_list(kind.forward.__code__)) for kind in kinds}


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
@pytest.mark.parametrize(("settings", "of_first"), [(FULL, 2), (POOLED, 0)], ids=["full", "pooled"])
def test_batches_of_all_shapes_share_graphs_and_give_the_plain_numbers(
    settings: dict[str, Any], of_first: int
) -> None:
    """Frozen features and words have no gradient, later MA blocks no groups: two graphs for each of these."""
    torch.manual_seed(0)
    plain = Maris(ModelSettings(**settings), VISUAL, TEXT)
    compiled = copy.deepcopy(plain)
    # A test below covers inductor; this one covers the capture of graphs.
    compile_blocks(compiled, ProgressState(), backend="aot_eager")
    for shape in BATCHES:
        found, truth = (gradients(model, batch(*shape)) for model in (compiled, plain))
        for name, needed in truth.items():
            # A softmax is invariant to the keys' bias: its gradient is 0 but for rounding errors.
            scale = truth[name.replace("key.bias", "key.weight")].abs().max().item()
            torch.testing.assert_close(found[name], needed, rtol=1e-4, atol=1e-5 * scale)
        if shape is BATCHES[-2]:
            assert graphs() == {"MLP": of_first, "MutualAwareAttention": of_first, "DecoderBlock": 1}
    # The compiler specialises on a size of 1: the last batch, and no other, is compiled again.
    assert graphs() == {"MLP": 2 * of_first, "MutualAwareAttention": 2 * of_first, "DecoderBlock": 2}


def prove(choices: dict[str, dict[int, str]], settings: ModelSettings, dtype: torch.dtype) -> None:
    """Certificates for the kinds of calls on REAL_BATCHES: {operation: {tokens: implementation}}."""
    found: dict[str, dict[str, Found]] = {}
    operations: dict[str, Operation] = {}
    for operation, kind in of_model(settings, dtype, [grid for _, grid, _ in REAL_BATCHES]):
        tokens = kind.tokens if operation.name == "mutual_attention" else kind.queries
        if name := choices.get(operation.name, {}).get(tokens):
            operations[operation.name] = operation
            results = {"chosen": name, "results": {name: {"ms": 1.0}}}
            found.setdefault(operation.name, {})[text(kind)] = results
    of_device(CPU).take(found, {name: operation.sources_hash() for name, operation in operations.items()})


@pytest.mark.slow
@pytest.mark.parametrize("proven", ["nothing", "one for all", "several"])
def test_real_batches_take_one_graph_for_each_choice_of_implementations(proven: str) -> None:
    settings = ModelSettings(**{**FULL, "token_to_image": False})
    attention, cross = "multihead_attention", "cross_attention"
    if proven == "one for all":
        tokens = (64, 1024, 2048, 4096)
        prove({attention: dict.fromkeys(tokens, "sdpa-flash")}, settings, torch.bfloat16)
    elif proven == "several":
        # Two choices: up to 2048 tokens, and above.
        several = {attention: {4096: "sdpa-flash"}, cross: {1024: "folded", 2048: "folded"}}
        prove(several, settings, torch.bfloat16)
    model = Maris(settings, VISUAL, TEXT)
    compile_blocks(model, ProgressState(), backend="eager")
    for shape in REAL_BATCHES:
        with torch.autocast("cpu", torch.bfloat16):
            assert model(*batch(*shape)).logits.isfinite().all()
    choices = 2 if proven == "several" else 1
    # One image or several; one expression or several, and in the first MA block several of one image.
    assert graphs() == {"MLP": 2 * 2, "MutualAwareAttention": 3 + 2, "DecoderBlock": choices * 2}


def test_a_block_may_have_a_graph_for_each_kind_of_call_of_its_operations() -> None:
    every_power = [(64, power // 64) for power in POWERS if power >= 64]
    wanted = of_model(ModelSettings(**FULL), torch.bfloat16, every_power, most_words=128)
    kinds = Counter(operation.name for operation, kind in wanted if kind.gradient)
    compile_blocks(torch.nn.Module(), ProgressState())
    assert torch._dynamo.config.recompile_limit >= max(kinds.values()) > 8  # PyTorch's default


def test_a_compilation_is_a_phase_of_the_heartbeat_and_progress() -> None:
    """A rank's first step with a single image has several: longer than others wait for one that computes."""
    progress, seen = ProgressState("computing", step=7), []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        seen.append((progress.phase, progress.step, progress.moves))
        return graph.forward

    model = FeatureEnhancement(VISUAL, 16, "none")
    compile_blocks(model, progress, backend)
    model([torch.randn(2, 3, 4, VISUAL)] * 3)
    # Frozen features have no gradient, what is made of them has.
    assert seen == [("compiling", 7, 1), ("compiling", 7, 3)]
    assert (progress.phase, progress.moves) == ("computing", 4)
    assert Timeouts.of(EngineSettings()).wait("compiling")[0] == 60 * EngineSettings().timeout_minutes


@pytest.mark.slow
def test_shapes_beyond_the_limit_run_uncompiled_and_give_the_plain_numbers() -> None:
    settings = ModelSettings(**{**FULL, "enhancement": "last", "ma_blocks": 0})
    plain = Maris(settings, VISUAL, TEXT)
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled, ProgressState(), backend="eager")
    torch._dynamo.config.recompile_limit = 1
    for shape in (BATCHES[0], BATCHES[-1], BATCHES[0]):
        found, truth = (gradients(model, batch(*shape)) for model in (compiled, plain))
        for name, needed in truth.items():
            torch.testing.assert_close(found[name], needed)
    assert graphs()["DecoderBlock"] == 1


@pytest.mark.process
@pytest.mark.slow
def test_a_compiled_run_has_the_plain_runs_losses(tmp_path: Path) -> None:
    """A grid each step, for code that knows only its first. Two images: a 1 would be minutes more of C++."""
    sizes = ((64, 96), (64, 96), (96, 48), (96, 48))
    images = [record(number, size, [(0, "it"), (1, "red circle")]) for number, size in enumerate(sizes)]
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
