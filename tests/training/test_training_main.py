"""The entry point: what it prints, what it leaves behind, how it fails."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from maris_fast.data_shards.stream import CacheReader
from maris_fast.model import Maris
from maris_fast.train import loop
from maris_fast.train.main import main
from maris_fast.train.ranks import Ranks
from maris_fast.train.split_scores import score_split
from maris_fast.weights import load_model
from tests.training.processes import MAIN, NOTHING_TO_SEE, ROOT, TINY, deepspeed, records, run, tiny_training
from tests.training.tiny_cache import write_tiny_cache
from tests.training.toy_run import toy_settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``run``, two ranks by `deepspeed train/main.py`, and ``cache``."""
    folder = tmp_path_factory.mktemp("main")
    cache = write_tiny_cache(folder)
    done = run(*deepspeed(), *tiny_training(cache, folder / "run"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.count("finished") == 1
    assert "INFO" not in done.stderr
    return folder


@pytest.mark.process
def test_a_run_leaves_its_settings_metrics_weights_and_checkpoint(trained: Path) -> None:
    run_folder = trained / "run"
    names = {path.name for path in run_folder.iterdir()}
    assert names == {
        "best.safetensors",
        "checkpoints",
        "environment.json",
        "last.safetensors",
        "latest-checkpoint",
        "metrics.jsonl",
        "pictures",
        "report.html",
        "settings.yaml",
        "tensorboard",
    }
    assert {record["kind"] for record in records(run_folder)} == {"train", "evaluation"}
    train = records(run_folder, "train")
    assert [record["step"] for record in train] == list(range(1, len(train) + 1))
    assert train[-1]["loss"] < train[0]["loss"]
    assert {"loss", "focal", "dice", "lr", "tau", "gradient_norm", "data_wait_share"} <= train[0].keys()
    assert json.loads((run_folder / "environment.json").read_text())["ranks"] == 2


@pytest.mark.process
def test_saved_weights_alone_give_the_score_that_they_name(trained: Path) -> None:
    model, meta = load_model(trained / "run" / "best.safetensors")
    assert set(meta.random_encoders) == {"sam", "text"}
    assert meta.model.channels == 16
    with CacheReader(trained / "cache", "val") as reader:
        scores = score_split(model, reader.evaluation_batches(max_expressions=3), Ranks(torch.device("cpu")))
    assert meta.scores is not None
    # Another batch size may flip a pixel at the threshold.
    assert scores["oIoU"] == pytest.approx(meta.scores["oIoU"], rel=1e-2)
    assert scores["expressions"] == meta.scores["expressions"] == 7


def test_a_run_starts_with_the_weights_of_its_seed(tmp_path: Path) -> None:
    cache = write_tiny_cache(tmp_path)

    def first_weights(seed: int) -> Tensor:
        changes = {"data.cache": cache, "run.seed": seed, "model.channels": 16, "model.heads": 2}
        settings = toy_settings(tmp_path / "run", **changes)
        with mock.patch.object(loop, "Trainer") as trainer:
            loop.train(settings, Ranks(torch.device("cpu")))
        (model,) = [given for given in trainer.call_args.args if isinstance(given, Maris)]
        return model.mask_decoder.query

    first = first_weights(0)
    assert torch.equal(first_weights(0), first)
    assert not torch.equal(first_weights(1), first)


@pytest.mark.process
def test_a_used_folder_is_refused_in_one_line(trained: Path) -> None:
    done = run(sys.executable, *tiny_training(trained / "cache", trained / "run"))
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.process
def test_a_skipped_sample_is_counted_and_reported(trained: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(trained / "cache", tmp_path / "cache"))
    with CacheReader(cache, "train") as reader:
        place = int(reader.index.offset[0, 1])
    (shard,) = cache.glob("train-*.tar")
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(content)
    skipping = (*NOTHING_TO_SEE, "data.on_bad_sample=skip")
    done = run(sys.executable, *tiny_training(cache, tmp_path / "run", *skipping))
    assert done.returncode == 0, done.stderr[-4000:]
    told = [line for line in done.stdout.splitlines() if "skipped, 1 of 10 allowed" in line]
    assert len(told) == 1
    assert all(part in told[0] for part in ("rank 0", shard.name, "image 000000000001", "checksum"))
    assert records(tmp_path / "run")[-1]["bad_samples"] == 1

    done = run(sys.executable, *tiny_training(cache, tmp_path / "strict", *NOTHING_TO_SEE))
    assert done.returncode == 2
    assert f"{shard.name}, image 000000000001: level1.npy is not what was written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.process
def test_help_is_quick() -> None:
    def cpu_seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = cpu_seconds()
    done = run(sys.executable, MAIN, "--help")
    assert "deepspeed train/main.py" in done.stdout
    # CPU time, as other load on the machine delays a command: measured 0.06 s, importing PyTorch takes 2.2.
    assert cpu_seconds() - before < 1


@pytest.mark.parametrize(
    "config", sorted((ROOT / "train" / "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_dry_run_shows_what_would_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--dry-run", "--ranks", "4", "engine.zero_stage=2"]) == 0
    shown = capsys.readouterr().out
    assert "zero_stage: 2" in shown
    assert json.loads(shown[shown.index("{") :])["zero_optimization"]["stage"] == 2


def test_ranks_without_a_dry_run_are_an_error_that_names_the_launchers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(TINY), "--ranks", "8"])
    assert ended.value.code == 2
    assert "launch several ranks with deepspeed --num_gpus N" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["engine.zero_stge=2"], "did you mean 'zero_stage'"),
        (["data.expressions_per_step=2", "--dry-run", "--ranks", "3"], "data.expressions_per_step to 3"),
        (["engine.device=cuda"], "set engine.device to auto or cpu"),
    ],
)
def test_a_wrong_setting_ends_with_what_to_change(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "engine.device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert main(["--config", str(TINY), *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("operation", ["mutual_attention", "cross_attention"])
def test_kernels_that_cannot_run_here_end_a_run_with_the_setting_that_named_them(
    operation: str, trained: Path, tmp_path: Path
) -> None:
    setting = f"model.{operation}_impl"
    done = run(
        sys.executable,
        *tiny_training(trained / "cache", tmp_path, "engine.device=cpu", f"{setting}=triton"),
        changed={"TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Triton kernels run on CUDA, and the inputs are on cpu" in error
    assert f"{setting} = triton" in error
