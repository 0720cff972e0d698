"""Training needs little: no encoder library, no user name, hardly any open or writable files."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.faults import NAMELESS, require_nameless_user
from tests.training.processes import NOTHING_TO_SEE, free_port, records, run, tiny_training

pytestmark = pytest.mark.process

ENCODERS = ("segment_anything", "torchvision", "open_clip", "timm", "transformers")


def training(cache: Path, folder: Path) -> tuple[str, ...]:
    return (sys.executable, *tiny_training(cache, folder, "schedule.epochs=1"))


def test_a_run_needs_no_package_of_an_encoder(cache: Path, tmp_path: Path) -> None:
    for name in ENCODERS:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here')")
    done = run(*training(cache, tmp_path / "run"), packages=[tmp_path])
    assert done.returncode == 0, done.stderr[-4000:]
    assert "finished 4 steps" in done.stdout
    assert "WARNING" not in done.stderr
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_user_without_a_name_trains(cache: Path, tmp_path: Path) -> None:
    require_nameless_user()
    done = run(*NAMELESS, "-u", "HOME", *training(cache, tmp_path / "run"), *NOTHING_TO_SEE)
    assert done.returncode == 0, done.stderr[-4000:]
    assert [one["step"] for one in records(tmp_path / "run", "train")] == [1, 2, 3, 4]


def test_a_user_without_a_name_has_the_encoders(tmp_path: Path) -> None:
    require_nameless_user()
    done = run(*NAMELESS, sys.executable, "-c", "from maris_fast.encoders import SamEncoder, TextEncoder")
    assert (done.returncode, done.stderr) == (0, "")


def test_two_ranks_train_where_hardly_anything_is_allowed(cache: Path, tmp_path: Path) -> None:
    """No compiler, only the run folder to write to, 64 open files, a path with a space and an accent."""
    require_nameless_user()  # root may write anywhere
    folder = tmp_path / "à côté"
    shutil.copytree(cache, folder / "cache")
    for name in ("home", "tmp"):
        (folder / name).mkdir(mode=0o555)
    unshare, *more = NAMELESS
    limited = ("/bin/sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    ranks = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port())
    python, *arguments = training(folder / "cache", folder / "run")
    done = run(
        *(*limited, shutil.which(unshare) or unshare, *more, python, *ranks, *arguments),
        changed={
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PATH": f"{Path(sys.executable).parent}:{bare_path(tmp_path)}",
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "finished 4 steps" in done.stdout
    assert (folder / "run" / "report.html").is_file()
    assert not [*(folder / "home").iterdir(), *(folder / "tmp").iterdir()]


def bare_path(folder: Path) -> Path:
    """A folder for PATH that has no compiler."""
    bare = folder / "bin"
    bare.mkdir()
    (bare / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
    return bare
