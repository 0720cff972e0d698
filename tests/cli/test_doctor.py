"""What `maris-fast doctor` finds, and that it reports each fault together with a remedy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from maris_fast.cli.doctor import COLOURS
from maris_fast.config import TrainingSettings, load_settings
from maris_fast.doctor import CHECKS, Check, Finding, Subject, examine
from maris_fast.doctor.finding import broken, not_run, ok, together, warning
from maris_fast.doctor.machine import (
    GIB,
    Folder,
    Gpu,
    judge_absence,
    judge_gpus,
    judge_kernel_folder,
    judge_packages,
    judge_parity,
    judge_python,
    judge_shared_memory,
    look_at,
)
from maris_fast.doctor.run import alone, judge_loss, judge_memory, judge_room
from maris_fast.errors import InputError
from maris_fast.model import Maris
from maris_fast.system.launchers import free_port
from maris_fast.train import checkpoints
from maris_fast.train.checkpoints import RunState
from tests.command_line import maris_fast
from tests.training.processes import ROOT, TINY, run, srun_task
from tests.training.tiny_cache import write_tiny_cache

DOCTOR = (sys.executable, "-m", "maris_fast.cli", "doctor")
COMPILED = {"TRITON_INTERPRET": "0"}
"""Environment of a normal run; the tests run kernels in the interpreter."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cache(tmp_path_factory.mktemp("doctor"))


def doctor(*arguments: object) -> Result:
    """Run the command in this process; each check has a process of its own anyway."""
    return maris_fast("doctor", *map(str, arguments))


def only(*checks: str) -> tuple[str, ...]:
    return tuple(part for check in checks for part in ("--only", check))


# The command


@pytest.mark.process
def test_a_machine_that_can_do_the_run_passes_every_check_and_is_left_as_it_was(
    cache: Path, tmp_path: Path
) -> None:
    done = run(
        *(*DOCTOR, "--json", "--config", TINY, "--cache", cache),
        *(f"run.folder={tmp_path / 'run'}", "engine.device=auto"),
        changed=COMPILED,
    )
    said = json.loads(done.stdout)
    found = {check["check"]: check for check in said["checks"]}
    assert [name for name in found if found[name]["status"] == "broken"] == []
    assert done.returncode == 0
    assert set(found) == {check.name for check in CHECKS}
    for name in ("packages", "imports", "ranks", "settings", "run folder", "first step"):
        assert found[name]["status"] == "ok", found[name]
    assert "random weights in sam and text" in found["cache"]["came"]
    if not torch.cuda.is_available():
        assert found["gpu"]["status"] == "warning"
        assert "everything runs on the CPU" in found["gpu"]["came"]
        assert found["mutual attention"]["status"] == "not run"
        assert "impl auto takes reference: nothing is proven here" in found["mutual attention"]["came"]
    assert list(tmp_path.iterdir()) == []


def no_cache_and_too_many_ranks(cache: Path, folder: Path) -> tuple[object, ...]:
    return (*only("settings", "cache", "first step"), f"data.cache={folder / 'none'}", "--ranks", 9)


def bad_shards_and_a_file_for_a_folder(cache: Path, folder: Path) -> tuple[object, ...]:
    shutil.copytree(cache, folder / "copy")
    (folder / "copy" / "train-000000.tar").unlink()
    with (folder / "copy" / "val-000000.tar").open("r+b") as shard:
        shard.truncate(1000)
    (folder / "file").write_text("no folder")
    given = (f"data.cache={folder / 'copy'}", f"run.folder={folder / 'file' / 'run'}")
    return (*only("cache", "run folder"), *given)


def unknown_split_and_other_channels(cache: Path, folder: Path) -> tuple[object, ...]:
    """Write a run of a model with 16 channels, to be resumed with the configuration's 32."""
    given = [f"data.cache={cache}", f"run.folder={folder / 'run'}"]
    settings = load_settings(TrainingSettings, TINY, [*given, "model.channels=16"])
    model = Maris(settings.model, 128, 64)
    state = RunState(
        step=1,
        epoch=0,
        step_in_epoch=1,
        seed=0,
        evaluated=None,
        best=None,
        data="f00d",
        settings=settings.model_dump(mode="json"),
    )
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoints.save(folder / "run", state, tensors, keep=1)
    (folder / "run" / "settings.yaml").write_text("")
    return (*only("cache", "run folder"), *given, "run.resume=auto", "data.val_split=testA")


def misspelt_setting(cache: Path, folder: Path) -> tuple[object, ...]:
    return (*only("settings", "shared memory"), "model.haeds=2")


@pytest.mark.parametrize(
    ("faults", "broken_checks", "told"),
    [
        (
            no_cache_and_too_many_ranks,
            2,
            (
                "cannot be split over 9 ranks",
                "start fewer ranks",
                "holds no feature cache",
                "run `maris-fast cache` first",
                "settings and cache must be right first",
            ),
        ),
        (
            bad_shards_and_a_file_for_a_folder,
            2,
            (
                "train-000000.tar: is missing",
                "val-000000.tar: has 1000 bytes, the manifest says",
                "copy them again",
                "maris-fast verify",
                "file is a file, not a folder",
                "set run.folder to another",
            ),
        ),
        (
            unknown_split_and_other_channels,
            2,
            (
                "no split 'testA'",
                "set data.*_split",
                "was made for another model",
                "model.channels first",
            ),
        ),
        (misspelt_setting, 1, ("did you mean 'heads'", "correct the file or the override")),
    ],
)
def test_a_run_that_would_fail_is_reported_before_it_starts(
    cache: Path,
    tmp_path: Path,
    faults: Callable[[Path, Path], tuple[object, ...]],
    broken_checks: int,
    told: tuple[str, ...],
) -> None:
    arguments = faults(cache, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = doctor("--config", TINY, *arguments)
    assert done.exit_code == 1, done.output
    for words in told:
        assert words in done.output
    assert f"{broken_checks} broken" in done.output.splitlines()[-1]
    assert "Traceback" not in done.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.process
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_are_run_where_they_can_be_and_missed_where_the_settings_name_them() -> None:
    command = (*DOCTOR, "--config", TINY, *only("mutual attention"), "model.mutual_attention_impl=triton")
    missed = run(*command, changed=COMPILED)
    assert missed.returncode == 1
    assert "set model.mutual_attention_impl=auto" in missed.stdout
    interpreted = run(*command, changed={"TRITON_INTERPRET": "1"})
    assert interpreted.returncode == 0
    assert "Triton's kernels run on cpu and agree" in interpreted.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_settings_that_ask_for_a_gpu_are_broken_without_one() -> None:
    done = doctor("--config", TINY, *only("gpu"), "engine.device=cuda")
    assert done.exit_code == 1
    assert "set device to auto" in done.output


@pytest.mark.process
def test_ranks_that_srun_starts_meet_and_one_of_them_reports() -> None:
    port = str(free_port())
    tasks = [
        subprocess.Popen(
            [*DOCTOR, *only("ranks", "shared memory")],
            env={**os.environ, **srun_task(task, port), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    first, second = (task.communicate(timeout=120)[0] for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0]
    assert "2 ranks on 1 machine meet" in first
    assert "free in /dev/shm" in first
    assert second == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--only", "gpus"), "known: packages, imports"), (("model.heads=2",), "name its file with --config")],
)
def test_a_mistake_of_the_command_itself_is_status_2(arguments: tuple[str, ...], message: str) -> None:
    done = doctor(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


# Checks that fail themselves


def sound(_: Subject) -> Finding:
    return ok("sound")


def raises(_: Subject) -> Finding:
    raise ZeroDivisionError("a bug of a check")


def tells(_: Subject) -> Finding:
    raise InputError("the cache is torn; write it again")


def dies(_: Subject) -> Finding:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return ok("alive")


def hangs(subject: Subject) -> Finding:
    child = subprocess.Popen(["sleep", "60"])
    assert subject.cache is not None
    subject.cache.write_text(str(child.pid))
    child.wait()
    return ok("awake")


def test_a_check_that_raises_dies_or_hangs_is_broken_and_the_next_one_runs(tmp_path: Path) -> None:
    checks = [
        Check("raises", raises),
        Check("tells", tells),
        Check("dies", dies),
        Check("hangs", hangs, seconds=1),
        Check("sound", sound),
        Check("needs raises", sound, after=("raises",)),
        Check("not concerned", raises, concerns=lambda _: False),
    ]
    began = time.monotonic()
    results = {one.name: one.finding for one in examine(checks, Subject(cache=tmp_path / "pid"))}
    assert time.monotonic() - began < 20
    assert [one.status for one in results.values()] == [*["broken"] * 4, "ok", "not run"]
    assert "ZeroDivisionError: a bug of a check" in results["raises"].came
    assert "test_doctor.py" in results["raises"].came
    assert results["tells"].came == "the cache is torn; write it again"
    assert "SIGSEGV; it said: last words" in results["dies"].came
    assert "no answer after 1 s" in results["hangs"].came
    assert "raises" in results["needs raises"].came
    assert_gone(int((tmp_path / "pid").read_text()))


@pytest.mark.process
def test_what_checks_inherit_has_not_looked_for_a_gpu() -> None:
    """CUDA that is initialised before a fork fails after it, so the GPU check would be wrong."""
    opened = [module for check in CHECKS for module in check.opens]
    assert "torch" in opened
    code = (
        "import sys, torch\n"
        "def looked(*_, **__): sys.exit('looked for a GPU')\n"
        "for name in ('is_available', 'device_count', '_lazy_init'): setattr(torch.cuda, name, looked)\n"
        "torch._C._cuda_getDeviceCount = looked\n"
        f"import {', '.join(opened)}\n"
        "assert 'deepspeed' not in sys.modules"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def assert_gone(pid: int) -> None:
    status = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 5
    while status.exists() and ") Z" not in status.read_text():
        assert time.monotonic() < deadline, f"what a check started lives on: {pid}"
        time.sleep(0.05)


def test_several_findings_are_as_bad_as_the_worst_and_only_faults_say_what_to_do() -> None:
    one = together([ok("a"), broken("c", "n", "t"), not_run("d"), warning("b", "n", "u")])
    assert one == Finding("broken", "c; b", "n", "t; u")
    assert together([ok("a"), ok("b")]) == ok("a; b")
    assert set(COLOURS) == {"ok", "not run", "warning", "broken"}


# Judgements on the facts of machines that are not available here


@pytest.mark.parametrize(
    ("driver", "wanted", "status", "said"),
    [
        (False, False, "warning", "everything runs on the CPU"),
        (False, True, "broken", "set device to auto"),
        (True, False, "broken", "PyTorch opens no GPU: no CUDA GPUs"),
        (True, True, "broken", "--gpus all"),
    ],
)
def test_a_gpu_that_does_not_open_is_broken_where_there_is_a_driver_or_it_is_wanted(
    driver: bool, wanted: bool, status: str, said: str
) -> None:
    found = judge_absence("no CUDA GPUs are available", driver, wanted)
    assert found.status == status
    assert said in " ".join((found.came, found.needed, found.todo))


def h100(number: int = 0, **changes: Any) -> Gpu:
    facts = {"name": "NVIDIA H100", "capability": (9, 0), "free": 79 * GIB, "total": 80 * GIB}
    return Gpu(number, **{**facts, **changes})


def test_gpus_are_judged_by_number_age_and_what_is_free() -> None:
    assert judge_gpus([h100()], 1, triton=True).status == "ok"
    few = judge_gpus([h100()], 2, triton=False)
    assert (few.status, few.came) == ("broken", "1 GPU")
    held = judge_gpus([h100(), h100(1, free=40 * GIB)], 2, triton=False)
    assert held.status == "warning"
    assert "GPU 1, NVIDIA H100: 40.0 GiB of 80.0 GiB free" in held.came
    old = [h100(name="Tesla V100", capability=(7, 0))]
    assert judge_gpus(old, 1, triton=False).status == "warning"
    assert judge_gpus(old, 1, triton=True).status == "broken"


def test_kernels_that_disagree_are_broken_only_where_the_settings_name_them() -> None:
    assert judge_parity([], "fine", used=True) == ok("fine")
    assert judge_parity(["f_lav: error 1"], "fine", used=True).status == "broken"
    assert judge_parity(["f_lav: error 1"], "fine", used=False).status == "warning"


def test_kernels_are_to_be_built_on_a_disk_with_room(tmp_path: Path) -> None:
    assert judge_kernel_folder("TRITON_CACHE_DIR", Folder(tmp_path, 9 * GIB, None)).status == "ok"
    full = judge_kernel_folder("TRITON_CACHE_DIR", Folder(tmp_path, GIB // 2, None))
    assert full.status == "warning"
    assert "export TRITON_CACHE_DIR=/tmp/" in full.todo
    assert judge_kernel_folder("X", Folder(tmp_path, GIB, "cannot be written")).status == "broken"


def test_looking_at_a_folder_that_does_not_exist_yet_makes_nothing(tmp_path: Path) -> None:
    assert look_at(Path("/proc/self/none")).why_not == "cannot be written: No such file or directory"
    place = look_at(tmp_path / "a" / "b")
    assert (place.path, place.why_not) == (tmp_path, None)
    assert place.free > 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_needs_room_for_one_checkpoint_more_than_are_kept() -> None:
    place = Folder(Path("/data"), 5 * GIB, None)
    full = judge_room(Path("/data/run"), place, 6 * GIB)
    assert full.status == "broken"
    assert "5.0 GiB free for 6.0 GiB" in full.came
    assert "resumes after step 7" in judge_room(Path("/data/run"), place, GIB, resumed=7).came


def test_shared_memory_that_is_too_little_for_several_ranks_is_reported() -> None:
    assert judge_shared_memory(64 * 2**20, 1).status == "ok"
    assert "--shm-size" in judge_shared_memory(64 * 2**20, 2).todo


def test_packages_are_judged_against_what_this_project_needs() -> None:
    needed = ["torch>=2.10", "torchvision", "never>=1; platform_system == 'Plan9'"]
    fitting = {"torch": "2.11.0+cu130", "torchvision": "0.26.0"}
    assert judge_packages(needed, fitting) == ok("torch 2.11.0+cu130, torchvision 0.26.0")
    missing = judge_packages(needed, {"torch": "2.9"})
    assert missing.status == "broken"
    assert missing.came == "torch 2.9; torchvision is not installed"
    assert "constraints.txt" in missing.todo


def test_a_python_out_of_range_is_broken() -> None:
    assert judge_python("3.12.1", ">=3.11,<3.13").status == "ok"
    assert judge_python("3.13.0", ">=3.11,<3.13").status == "broken"


def test_the_step_that_is_tried_is_one_ranks_part_of_the_runs() -> None:
    given = ["run.folder=r", "data.expressions_per_step=64", "engine.accumulation_steps=2"]
    settings = load_settings(TrainingSettings, TINY, [*given, "engine.compile=true"])
    subject = Subject(training=settings, ranks=8, machines=2)
    on_gpu = alone(subject, on_gpu=True)
    assert (on_gpu.data.expressions_per_step, on_gpu.engine.accumulation_steps) == (2, 1)
    assert not on_gpu.engine.compile
    one = Subject(training=settings)
    assert alone(one, on_gpu=True).data.expressions_per_step == 32
    assert alone(one, on_gpu=False).data.expressions_per_step == 2
    assert "engine.accumulation_steps=4" in judge_memory("CUDA out of memory", settings).todo


def test_a_first_loss_that_is_not_finite_is_broken() -> None:
    assert judge_loss(float("nan"), "loss nan").status == "broken"
    assert judge_loss(0.7, "loss 0.7").status == "ok"
