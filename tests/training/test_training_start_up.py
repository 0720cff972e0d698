"""Start-up cost: modules that a rank does not import in order to train, and one rank without a launcher."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from maris_fast.cli.launching import launch, launched
from tests.training.processes import run

pytestmark = pytest.mark.process

TRAINED = """
import sys
from pathlib import Path
import maris_fast.train.loop, maris_fast.evaluation.evaluate
from maris_fast.train.ranks import join, leave
from tests.training.toy_run import toy_settings, toy_trainer
settings = toy_settings(Path(sys.argv[1]))
assert toy_trainer(settings, join(settings.engine)).run().finished
leave()
print(sorted({"torch._dynamo", "sympy", "matplotlib", "scipy.special", "setuptools"} & sys.modules.keys()))
"""


def test_a_rank_trains_without_compiler_plots_or_statistics(tmp_path: Path) -> None:
    """DeepSpeed may import setuptools to try the C compiler; torch.compile's wrappers, Dynamo and SymPy."""
    done = run(sys.executable, "-c", TRAINED, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "[]"


def test_settings_cache_and_rows_are_checked_before_pytorch_is_imported() -> None:
    """By import, mix and train, whose first lines would otherwise come seconds later."""
    modules = ("data_shards.importers.formats", "data_shards.mixing")
    modules += ("train.cache_splits", "train.announcement")
    code = "import sys\n" + "".join(f"import maris_fast.{one}\n" for one in modules)
    done = run(sys.executable, "-c", code + "print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr[-4000:]


def test_one_rank_is_started_without_the_launcher_and_knows_its_place(tmp_path: Path) -> None:
    script, told = tmp_path / "rank.py", tmp_path / "told"
    script.write_text(
        "import os, sys\nfrom maris_fast.system.launchers import place_of\n"
        "print(os.getppid(), place_of().world, file=open(sys.argv[1], 'w'))\nsys.exit(3)\n"
    )
    assert launch(1, str(script), str(told)) == 3
    assert told.read_text().split() == [str(os.getpid()), "1"]


def test_the_launcher_gets_the_variable_that_it_would_guess_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    words, variables = launched(2, "main.py")
    assert Path(words[1]).name == "deepspeed"
    assert variables["DS_ACCELERATOR"] == "cpu"


@pytest.mark.parametrize("visible", ["3,5", "GPU-a1,GPU-b2", ""], ids=["numbers", "names", "none"])
def test_each_rank_sees_the_gpus_of_cuda_visible_devices_in_their_order(
    visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\n"
        "told = Path(sys.argv[1], os.environ['LOCAL_RANK'])\n"
        "told.write_text(os.environ['CUDA_VISIBLE_DEVICES'] + ' '.join(sys.argv[2:]))\n"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launch(2, str(script), str(tmp_path), "a value", "key=1") == 0
    assert [(tmp_path / rank).read_text() for rank in "01"] == [f"{visible}a value key=1"] * 2
    assert "VISIBLE_DEVICES" not in capfd.readouterr().out


def test_gpus_of_an_ablations_run_come_before_those_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert launched(1, "main.py", devices=("2",))[1]["CUDA_VISIBLE_DEVICES"] == "2"
    assert "CUDA_VISIBLE_DEVICES=2,3" in launched(2, "main.py", devices=("2", "3"))[0]


def test_a_killed_launcher_is_a_failure_and_ends_its_ranks(tmp_path: Path) -> None:
    """DeepSpeed's runner reports 0 when its process for this machine is killed."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "mine = Path(sys.argv[1], os.environ['RANK'])\nmine.write_text(str(os.getpid()))\n"
        "while not (mine.parent / '0').exists() or not (mine.parent / '1').exists():\n"
        "    time.sleep(0.05)\n"
        "if mine.name == '0':\n    os.kill(os.getppid(), signal.SIGKILL)\n"
        "time.sleep(100)\n"
    )
    assert launch(2, str(script), str(tmp_path)) == 1
    for rank in "01":
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / rank).read_text()), 0)
