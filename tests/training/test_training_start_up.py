"""What a rank does not load before it trains: each costs every start of every rank up to two seconds."""

from __future__ import annotations

import sys

import pytest

from tests.training.processes import run

pytestmark = pytest.mark.process

JOINED = """
import sys
import maris_fast.train.loop, maris_fast.evaluation.evaluate
from maris_fast.config import EngineSettings
from maris_fast.train.ranks import join, leave
join(EngineSettings(device="cpu"))
leave()
print(sorted({"torch._dynamo", "sympy", "matplotlib", "scipy.special", "setuptools"} & sys.modules.keys()))
"""


def test_a_rank_has_joined_without_compiler_plots_or_statistics() -> None:
    """DeepSpeed imports setuptools to try the C compiler; torch.compile's marks import it and SymPy."""
    done = run(sys.executable, "-c", JOINED)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "[]"
