"""A checkpoint is complete or absent, whatever interrupts its writing; weights load as data only."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import Tensor

from maris_fast.config import ModelSettings
from maris_fast.errors import CheckpointError
from maris_fast.model import Maris
from maris_fast.train import checkpoints, resuming
from maris_fast.train.checkpoints import RunState
from maris_fast.weights import HEADER, WeightsMeta, load_model, load_weights, save_weights
from tests.encoders.provenances import provenance
from tests.model.by_hand import ABLATED
from tests.training.toy_run import toy_settings

STATE = "state.json"
SMALL = ModelSettings(channels=8, heads=2)


def state(step: int) -> RunState:
    return RunState(
        step=step, epoch=0, step_in_epoch=step, seed=0, evaluated=None, best=None, data="f00d", settings={}
    )


def tensors(step: int) -> dict[str, Tensor]:
    return {"model.a": torch.full((3,), float(step))}


def save(run: Path, *steps: int, keep: int = 2) -> None:
    for step in steps:
        checkpoints.save(run, state(step), tensors(step), keep)


def newest_step(run: Path) -> int | None:
    found = checkpoints.newest(run)
    if found is None:
        return None
    folder, where = found
    assert torch.equal(checkpoints.read(folder)["model.a"], tensors(where.step)["model.a"])
    return where.step


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_newest_ones_are_kept(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    save(tmp_path, 1, 2, 10, 9999, 123456789)
    assert names(tmp_path) == ["step-00009999", "step-123456789"]
    assert newest_step(tmp_path) == 123456789


@pytest.mark.parametrize("call", ["save_file", "sha256_of", "flush", "os.fsync", "Path.rename"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_point_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    save(tmp_path, 1, keep=1)

    def fail(*_: object, **__: object) -> None:
        raise error

    owner = {"os.fsync": os, "Path.rename": Path, "save_file": safetensors.torch}.get(call, checkpoints)
    monkeypatch.setattr(owner, call.split(".")[-1], fail)
    with pytest.raises((CheckpointError, KeyboardInterrupt)) as raised:
        save(tmp_path, 2, keep=1)
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert "run.resume=auto" in str(raised.value)
    assert newest_step(tmp_path) == 1
    save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-00000002"]


@pytest.mark.parametrize("file", [STATE, "state.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_one_is_passed_over_and_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "checkpoints" / "step-00000002" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(
            content.replace(b'"sha256": "', b'"sha256": "0') if file == STATE else content[:-1] + b"!"
        )
    with caplog.at_level(logging.WARNING):
        assert newest_step(tmp_path) == 1
    assert "step-00000002 is incomplete or damaged" in caplog.text
    assert ("it has no " if damage == "missing" else "is truncated or damaged") in caplog.text
    save(tmp_path, 2)
    assert newest_step(tmp_path) == 2


def test_damaged_ones_do_not_push_good_ones_out(tmp_path: Path) -> None:
    save(tmp_path, 1, 5)
    (tmp_path / "checkpoints" / "step-00000005" / STATE).unlink()
    save(tmp_path, 3, keep=1)
    assert newest_step(tmp_path) == 3


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "checkpoints" / "step-00000001" / STATE
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 7'))
    with pytest.raises(CheckpointError, match="format version 7"):
        checkpoints.newest(tmp_path)


def test_another_width_names_the_first_tensor_and_the_setting(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints" / "step-00000001"
    checkpoints.check_shapes(folder, {"model.a": (3,)})
    with pytest.raises(CheckpointError, match=r"model\.a is \(3,\) there and \(4,\) here.*model\.channels"):
        checkpoints.check_shapes(folder, {"model.a": (4,)})
    with pytest.raises(CheckpointError, match=r"model\.b is missing there and \(1,\) here"):
        checkpoints.check_shapes(folder, {"model.a": (3,), "model.b": (1,)})


def weights(path: Path, model: Maris, settings: ModelSettings = SMALL) -> None:
    meta = WeightsMeta(
        model=settings,
        visual_channels=6,
        text_channels=5,
        tau=0.25,
        step=3,
        scores=None,
        encoders=provenance(),
    )
    save_weights(path, model.state_dict(), meta)


def test_weights_come_back_with_what_describes_them(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    model = Maris(SMALL, 6, 5)
    weights(path, model)
    weights(path, model)  # overwrites the old file
    loaded, meta = load_model(path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert (loaded.tau, meta.step, meta.random_encoders, loaded.training) == (0.25, 3, ("text",), False)
    assert [one.name for one in tmp_path.iterdir()] == ["best.safetensors"]


def test_weights_from_before_a_setting_was_there_are_those_of_its_default(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    model = Maris(SMALL, 6, 5)
    weights(path, model)
    _, meta = load_weights(path)
    header = meta.model_dump(mode="json")
    header["model"] = {name: value for name, value in header["model"].items() if name not in ABLATED}
    save_file(model.state_dict(), path, metadata={HEADER: json.dumps(header)})
    loaded, meta = load_model(path)
    assert meta.model == SMALL
    assert torch.equal(loaded.state_dict()["mask_decoder.query"], model.state_dict()["mask_decoder.query"])


def test_a_checkpoint_older_than_a_setting_resumes_without_a_warning_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "check_shapes", lambda *arguments: None)
    settings = toy_settings(tmp_path)
    before = settings.model_dump(mode="json")
    before["model"] = {name: value for name, value in before["model"].items() if name not in ABLATED}
    before["optimiser"]["lr"] = 0.5
    where = state(1).model_copy(update={"settings": before})
    with caplog.at_level(logging.WARNING):
        resuming.check(tmp_path, where, settings, "f00d", torch.nn.Identity())
    assert [record.getMessage() for record in caplog.records] == [
        "optimiser.lr was 0.5 and is 0.01 from step 1 on"
    ]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("run.seed", 7),
        ("data.train_split", "testA"),
        ("data.expressions_per_step", 4),
        ("data.expressions_per_image", 3),
    ],
)
def test_a_checkpoint_of_another_order_of_the_expressions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    monkeypatch.setattr(checkpoints, "check_shapes", lambda *arguments: None)
    settings = toy_settings(tmp_path)
    before = settings.model_dump(mode="json")
    section, key = name.split(".")
    before[section][key] = other
    where = state(1).model_copy(update={"settings": before})
    with pytest.raises(CheckpointError, match=rf"was trained with {name} = {other}, .* set {name}={other}, "):
        resuming.check(tmp_path, where, settings, "f00d", torch.nn.Identity())


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_a_file_that_would_run_code_is_refused_unopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.pt", "best.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(CheckpointError, match="weights load as data only"):
            load_model(path)
        torch.save({"weight": Trap()}, path)
        with pytest.raises(CheckpointError, match="weights load as data only"):
            load_model(path)
    assert not (tmp_path / "trapped").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    weights(path, Maris(SMALL, 6, 5), ModelSettings(channels=16, heads=2))
    with pytest.raises(CheckpointError, match=r"is \(8.*expected \(16"):
        load_model(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no 'maris_fast' entry"):
        load_model(path)
    with pytest.raises(CheckpointError, match="no weights"):
        load_model(tmp_path / "absent.safetensors")
