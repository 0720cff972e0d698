"""Properties of a training step that can be tested only on a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.training.processes import run
from tests.training.tiny_cache import write_tiny_cache

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# PyTorch raises at the first operation within a step that waits for the device.
STEPS = """
import sys
from pathlib import Path

import torch

from maris_fast.config import TrainingSettings, load_settings
from maris_fast.data_shards.stream import CacheReader
from maris_fast.model import Maris
from maris_fast.train.engine import Engine
from maris_fast.train.ranks import join, leave

settings = load_settings(TrainingSettings, Path("train/configs/tiny.yaml"), sys.argv[1:])
ranks = join(settings.engine)
with CacheReader(settings.data.cache, "train", settings.data, device=ranks.device) as reader:
    engine = Engine(Maris(settings.model, reader.channels, reader.text_channels), settings, ranks)
    for epoch in range(3):
        batches = list(
            reader.batches(seed=0, epoch=epoch, expressions_per_step=8, expressions_per_image=4)
        )
        torch.cuda.synchronize()
        # What is built once may wait.
        torch.cuda.set_sync_debug_mode("error" if epoch else "default")
        for batch in batches:
            engine.step([batch], 1e-3)
        torch.cuda.set_sync_debug_mode("default")
leave()
print("no step waited")
"""


@pytest.mark.parametrize("impl", ["reference", "triton"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_never_waits_for_the_device(tmp_path: Path, impl: str, precision: str) -> None:
    cache = write_tiny_cache(tmp_path)
    settings = [
        f"data.cache={cache}",
        f"run.folder={tmp_path / 'run'}",
        "engine.device=cuda",
        "engine.compile=false",
    ]
    settings += [f"engine.precision={precision}", f"model.mutual_attention_impl={impl}"]
    # On a GPU, the cross-attention kernels take only 16-bit inputs.
    cross = "triton" if (impl, precision) == ("triton", "bf16") else "projected"
    settings += [f"model.cross_attention_impl={cross}"]
    done = run(sys.executable, "-c", STEPS, *settings)
    assert "no step waited" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
