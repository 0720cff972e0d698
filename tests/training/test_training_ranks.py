"""Training in the processes of the real launcher, against plain PyTorch and against itself."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.train.cache_info import CacheInfo
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.training.processes import deepspeed, run
from tests.training.tiny_cache import write_tiny_cache, write_untrained_for

pytestmark = pytest.mark.process

SCENARIOS = Path(__file__).with_name("scenarios.py")
STAGES = ("0", "1", "2", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_untrained_for(write_tiny_cache(folder), folder / "weights.safetensors")
    records = default_records()
    for split, there in {
        "train": {"train": records[:4], "val": records[2:4]},
        "val": {"train": records, "val": records[1:4]},
    }.items():
        other = folder / f"other-{split}"
        write_cache(write_dataset(other / "dataset", there), other / "cache", tiny_settings(), progress=False)
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    """Results of both ranks of one `deepspeed` launch."""
    names = (
        "parity",
        "resume",
        "other_stage",
        "stop_signal",
        "batch_norm",
        "refusals",
        "other_caches",
        "divergence",
        "not_finite",
        "no_gradients",
        "many_gpus",
        "group_timeouts",
        "maris",
    )
    done = run(*deepspeed(), SCENARIOS, folder, *names)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def one(two: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Results of one rank, started without a launcher, in the folder that two ranks left."""
    names = ("other_ranks", "bf16", "evaluations", "owed", "overlaps", "no_memory")
    done = run(sys.executable, SCENARIOS, folder, *names)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    results: dict[str, Any] = json.loads((folder / "0.json").read_text())
    return results


@pytest.mark.parametrize("stage", [*STAGES, "1 offload", "2 offload", "3 offload"])
def test_a_step_equals_plain_pytorch_on_the_whole_batch(two: list[dict[str, Any]], stage: str) -> None:
    for rank in two:
        difference = rank["parity"][stage]
        # fp32 sums in another order; measured: 1.2e-7, 2.4e-7, 9.4e-10 and 3e-8.
        assert difference["losses"] < 1e-6
        assert difference["norms"] < 1e-6
        assert difference["moments"] < 1e-8
        assert difference["parameters"] < 1e-7


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_has_the_curve_of_one_never_stopped(two: list[dict[str, Any]], stage: str) -> None:
    whole, parts = two[0]["resume"][stage]
    assert [step for step, *_ in whole[0]] == list(range(1, 10))
    assert parts == whole


def test_maris_resumed_within_an_epoch_has_the_same_curve(two: list[dict[str, Any]]) -> None:
    whole, parts = two[0]["maris"]
    assert len(whole[0]) > 4
    assert parts == whole


def test_another_stage_resumes_from_a_checkpoint(two: list[dict[str, Any]]) -> None:
    for curve in two[0]["other_stage"].values():
        assert_close(curve, two[0]["resume"]["0"][0][0])


def test_another_number_of_ranks_resumes_from_a_checkpoint(
    two: list[dict[str, Any]], one: dict[str, Any]
) -> None:
    curve, whole = one["other_ranks"], two[0]["resume"]["0"][0][0]
    assert curve[:4] == whole[:4]
    # BatchNorm normalises by the rank's share of a step, so the losses are close but not equal.
    assert_close(curve, whole, relative=0.1)


def assert_close(curve: list[Any], other: list[Any], relative: float = 1e-5) -> None:
    assert [step for step, *_ in curve] == [step for step, *_ in other]
    assert [loss for _, loss, _ in curve] == pytest.approx([loss for _, loss, _ in other], rel=relative)


def test_a_signal_to_one_rank_stops_all_after_the_same_step(two: list[dict[str, Any]]) -> None:
    first, last = (rank["stop_signal"] for rank in two)
    assert first == last
    assert not first["finished"]
    # Received before step 5 ran; the flag is checked one step later.
    assert first["step"] in (5, 6)
    assert first["curve"] == two[0]["resume"]["0"][0][0][: first["step"]]


def test_running_statistics_are_averaged_over_ranks(two: list[dict[str, Any]]) -> None:
    for name in ("running_mean", "running_var"):
        first, second = (rank["batch_norm"]["own"][name] for rank in two)
        assert first != second
        mean = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        for rank in two:
            assert rank["batch_norm"]["averaged"][name] == pytest.approx(mean, rel=1e-6)


def test_all_ranks_refuse_together_and_say_what_to_set(two: list[dict[str, Any]]) -> None:
    for name, words in {
        "not empty": ("ConfigError", "is not empty", "run.resume=auto"),
        "no run": ("ConfigError", "holds no run", "run.folder"),
        "seed": ("CheckpointError", "run.seed = 0", "the settings say 3"),
        "width": ("CheckpointError", "(7,)", "(9,)", "model.channels"),
    }.items():
        first, other = (rank["refusals"][name] for rank in two)
        assert all(word in first for word in words), first
        assert other.split(": ", 1) == ["ReportedByRankZeroError", first.split(": ", 1)[1]]


def test_ranks_with_different_caches_are_named_before_anything_is_read(
    two: list[dict[str, Any]], folder: Path
) -> None:
    def fingerprint(cache: Path, split: str) -> str:
        return CacheInfo.of(read_manifest(cache), split).fingerprint

    host = socket.gethostname()
    for name, split in {"train": "train", "val": "val", "evaluate": "val"}.items():
        own, other = (
            fingerprint(cache, split) for cache in (folder / "cache", folder / f"other-{split}" / "cache")
        )
        first, second = (rank["other_caches"][name] for rank in two)
        called = "the cache" if name == "evaluate" else "data.cache"
        assert first.startswith(
            f"InputError: {called} {folder / 'cache'} is not the same for all ranks: split {split} has "
            f"fingerprint {own} for rank 0 on {host}, {other} for rank 1 on {host}; "
        )
        assert second.split(": ", 1) == ["ReportedByRankZeroError", first.split(": ", 1)[1]]
    assert not (folder / "never").exists()


def test_a_diverged_run_ends_and_keeps_no_checkpoint(two: list[dict[str, Any]]) -> None:
    for rank in two:
        message, kept = rank["divergence"]
        assert "step 1" in message
        assert "optimiser.lr" in message
        assert not kept


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_whose_gradients_are_not_finite_ends_and_keeps_no_checkpoint(
    two: list[dict[str, Any]], stage: str
) -> None:
    told = {"0": "the loss of step 2 is nan"}.get(stage, "by step 2, 2 steps have had gradients that are not")
    for rank in two:
        message, kept = rank["no_gradients"][stage]
        assert told in message
        assert "optimiser.lr" in message
        assert not kept


def test_an_evaluation_computes_no_more_at_once_on_many_ranks(two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert set(rank["many_gpus"]) == {64}


def test_lack_of_gpu_memory_names_the_setting_to_change(one: dict[str, Any]) -> None:
    assert one["no_memory"] == (
        "MemoryShortageError: CUDA out of memory. Tried to allocate 2.00 GiB; set "
        "engine.accumulation_steps=4, which halves a rank's part of a step, or start more ranks"
    )


def test_all_collectives_have_the_runs_time_out(two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert len(rank["group_timeouts"]) >= 3  # the world's, DeepSpeed's, and the one for plain objects
        assert set(rank["group_timeouts"]) == {120.0}  # engine.timeout_minutes is 1


def test_weights_that_are_not_finite_are_never_the_best(two: list[dict[str, Any]]) -> None:
    for rank in two:
        message, changed = rank["not_finite"]
        assert "after step 6 the weights are not finite, and are not kept" in message
        assert "optimiser.lr" in message
        assert changed == []


def test_bf16_computes_in_bf16_and_keeps_fp32_parameters(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    assert one["bf16"]["computed"] == {"training": ["torch.bfloat16"], "evaluation": ["torch.bfloat16"]}
    assert one["bf16"]["parameters"] == ["torch.float32"]
    assert_close(one["bf16"]["curve"], one["other_ranks"][:3], relative=0.1)


def test_the_best_weights_are_those_of_the_best_evaluation_also_of_a_resumed_run(one: dict[str, Any]) -> None:
    found = one["evaluations"]
    assert found["told"] == [6, 0.5]
    assert found["best"] == [[6, 0.5], [9, 0.4]]
    assert found["equal"] == ["step-00000006"]


def test_the_gate_threshold_of_the_schedule_is_used_and_saved(one: dict[str, Any]) -> None:
    found = one["evaluations"]["tau"]
    steps = [0, 0, 0, 0, 0.5 / 3, 1 / 3, 0.5, 0.5, 0.5]
    assert found["steps"] == pytest.approx(steps)
    assert found["evaluations"] == pytest.approx([0, 1 / 3, 0.5])
    assert found["weights"] == pytest.approx([1 / 3, 0.5])


def test_an_evaluation_that_a_signal_skipped_comes_first_in_the_resumed_run(one: dict[str, Any]) -> None:
    found = one["owed"]
    assert found["stopped"] == 6
    assert [record["step"] for record in found["before"]] == [3]
    assert [record["step"] for record in found["after"]] == [3, 6, 9]
    assert found["after"] == found["whole"]


def test_the_evaluation_of_a_resumed_run_uses_the_gate_threshold_of_its_step(one: dict[str, Any]) -> None:
    found = one["owed"]["taus"]
    assert len(found["whole"]) == 3
    assert min(found["whole"]) > 0
    assert found["after"] == found["whole"]


def test_the_oiou_of_a_record_is_that_of_the_steps_since_the_last_record(one: dict[str, Any]) -> None:
    found = one["overlaps"]
    assert len(found["steps"]) == 6
    sums = [[sum(one) for one in zip(*found["steps"][at : at + 2], strict=True)] for at in (0, 2, 4)]
    assert found["oIoU"] == [intersection / union for intersection, union in sums]
