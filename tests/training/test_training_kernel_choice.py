"""Which implementations a run takes: the same on all ranks, and recorded in its folder."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from maris_fast.config import EngineSettings, ModelSettings, TrainingSettings, load_settings
from maris_fast.data_shards.stream import CacheReader
from maris_fast.errors import TrainingError
from maris_fast.kernels.choice import text
from maris_fast.kernels.choice.table import FOLDER_VARIABLE, Certificates, forget, machine
from maris_fast.kernels.multihead_attention.candidates import Kind as AttentionKind
from maris_fast.kernels.mutual_attention.candidates import Kind as MutualKind
from maris_fast.model.kinds import of_model
from maris_fast.reports.run_data import RunData
from maris_fast.system.launchers import Place, free_port
from maris_fast.train import kernel_choice
from maris_fast.train import ranks as ranks_module
from maris_fast.train.loop import Trainer
from maris_fast.train.ranks import Ranks
from tests.command_line import maris_fast, said
from tests.kernels.fake_operation import OPERATION, SECONDS, Kind
from tests.training.tiny_cache import write_tiny_cache
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
BOTH, NONE, SAME = Kind(64, True, False), Kind(128, True, False), Kind(256, True, False)

RANK = """
import sys
import time
from datetime import timedelta
import pytest
import torch
import torch.distributed as dist
from maris_fast.kernels.choice import chosen, prove, table, text
from maris_fast.train import kernel_choice
from maris_fast.train.kernel_choice import agree
from maris_fast.train.loop import Trainer
from maris_fast.train.ranks import Ranks
from maris_fast.reports.run_data import RunData
from tests.kernels.fake_operation import OPERATION, SECONDS, Kind

dist.init_process_group("gloo", timeout=timedelta(minutes=5))
rank = dist.get_rank()
real = table.machine
table.machine = lambda device: {**real(device), "device": f"GPU {rank}"}
cpu = torch.device("cpu")
TIMEOUT = 10
# A proof that takes longer than a collective waits.
kernel_choice.prove = lambda *given, **named: time.sleep(rank * 1.2 * TIMEOUT) or prove(*given, **named)
ranks = Ranks(cpu, rank, 2, dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT)))
kinds = [Kind(size, True, False) for size in (64, 128, 256)]
agreed = agree(ranks, [(OPERATION, kind) for kind in kinds])
taken = [chosen(OPERATION, text(kind), cpu) for kind in kinds]
assert agreed == {"fake": dict(zip(map(text, kinds), taken, strict=True))}
print("taken", *taken, flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def right(**ms: float) -> dict[str, Any]:
    return {name: {"ms": time} for name, time in ms.items()}


@pytest.mark.process
@pytest.mark.slow
def test_ranks_of_different_devices_wait_for_all_proofs_and_take_what_holds_on_all(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    broken = {"fast": {"reason": "crashed: SIGABRT"}}
    found = [
        {
            text(BOTH): {"chosen": "fast", "results": right(usual=3.0, slow=9.0, fast=1.0)},
            text(NONE): {"chosen": "fast", "results": {**right(fast=1.0), "usual": {"reason": "wrong: x"}}},
            text(SAME): {"chosen": "fast", "results": right(usual=3.0, fast=1.0)},
        },
        {
            text(BOTH): {"chosen": "slow", "results": {**right(usual=5.0, slow=4.0), **broken}},
            text(NONE): {"chosen": "usual", "results": {**right(usual=1.0), **broken}},
            text(SAME): {"chosen": "fast", "results": right(usual=3.0, fast=1.0)},
        },
    ]
    for rank, kinds in enumerate(found):
        known = Certificates({**machine(CPU), "device": f"GPU {rank}"})
        known.learn({"fake": kinds}, {"fake": OPERATION.sources_hash()})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240) for process in started]
    # usual takes 3 + 5 ms on the two ranks, slow 9 + 4; nothing is right on both; both chose the same.
    assert [out.splitlines()[-1] for out, _ in said] == ["taken usual None fast"] * 2, said
    # Rank 0 says so at each start; nothing was left to prove.
    none = "kernels: nothing is proven for 1 of 3 kinds of calls, which take the safe implementation; "
    assert [none in out for out, _ in said] == [True, False]
    again = "`maris-fast kernels prove --again`, on every node, with the run's --config, tries them again"
    assert again in said[0][0]
    reason = f"kernels: fast left out for 2 kinds of calls because of {gethostname()}: crashed: SIGABRT"
    assert [reason in out for out, _ in said] == [True, False]


def test_rank_zero_says_why_other_nodes_do_not_take_its_choice_and_which_these_are(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    forget()
    taken = {"chosen": "fast", "results": right(usual=3.0, fast=1.0)}
    unstarted = {"chosen": None, "results": {name: {"reason": "crashed: status 1, x"} for name in SECONDS}}
    wrong = {"chosen": "usual", "results": {**right(usual=3.0), "fast": {"reason": "wrong: y"}}}
    kinds = [text(BOTH), text(SAME)]
    found = {"n0": [taken, taken], "n1": [unstarted] * 2, "n2": [unstarted] * 2, "n3": [taken, wrong]}
    gathered: list[Any] = [
        (host, {"fake": dict(zip(kinds, node, strict=True))}) for host, node in found.items()
    ]
    gathered.insert(1, ("n0", None))  # the second rank of a node proves nothing
    known = Certificates(machine(CPU))
    monkeypatch.setattr(kernel_choice, "prove", lambda *given, **named: known)
    known.take(gathered[0][1], {"fake": OPERATION.sources_hash()})
    ranks: Any = SimpleNamespace(first=True, device=CPU, meet=lambda: None, gather=lambda own: gathered)
    try:
        agreed = kernel_choice.agree(ranks, [(OPERATION, BOTH), (OPERATION, SAME)])
    finally:
        forget()
    assert agreed == {"fake": dict.fromkeys(kinds)}
    why = "kernels: fast left out for {} kinds of calls because of {}"
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [why.format(2, "n1, n2: crashed: status 1, x"), why.format(1, "n3: wrong: y")]
    assert lines[2].startswith("kernels: nothing is proven for 2 of 2 kinds of calls")


def test_ranks_meet_when_the_last_arrives_and_count_as_waiting_until_then() -> None:
    store = dist.HashStore()
    control: Any = SimpleNamespace(get_group_store=lambda: store)
    first, second = (Ranks(CPU, rank, 2, control) for rank in (0, 1))
    for _ in range(2):
        thread = Thread(target=first.meet, daemon=True)
        thread.start()
        wait_until(lambda: first.progress.look()[0])
        assert thread.is_alive()
        second.meet()
        thread.join(60)
        assert not thread.is_alive()
        assert not first.progress.look()[0]


def test_without_a_heartbeat_ranks_meet_as_long_as_a_collective_waits(monkeypatch: Any) -> None:
    store = dist.HashStore()
    control: Any = SimpleNamespace(get_group_store=lambda: store)
    monkeypatch.setattr(
        ranks_module, "take_place", lambda: Place(rank=1, world=2, local_rank=0, local_world=1)
    )
    monkeypatch.setattr(ranks_module, "share_cores_of", lambda ranks: None)
    monkeypatch.setattr(ranks_module, "_init_distributed", lambda *given: None)
    monkeypatch.setattr(dist, "new_group", lambda **named: control)
    engine = EngineSettings(device="cpu", timeout_minutes=1)
    assert ranks_module.join(engine).patience is None
    ranks = ranks_module.join(engine.model_copy(update={"heartbeat_seconds": 0}))
    assert ranks.patience == 120
    error = r"rank 1 has waited for 1 of 2 ranks for 0\.1 s.*set engine\.timeout_minutes higher"
    with pytest.raises(TrainingError, match=error):
        replace(ranks, patience=0.1).meet()


@pytest.mark.process
def test_a_rank_alone_proves_what_it_lacks_and_takes_it(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    forget()
    ranks = Ranks(CPU)
    try:
        agreed = kernel_choice.agree(ranks, [(OPERATION, BOTH)])
    finally:
        forget()
    assert agreed == {"fake": {text(BOTH): "fast"}}
    # The heartbeat of others that wait takes each trial for progress: a proof and a time for each candidate.
    assert ranks.progress.moves >= 2 * len(OPERATION.candidates(BOTH, CPU))
    assert ranks.progress.phase == "starting"
    assert "kernels 1 of 1, fake size=64 fast=True dying=False: fast (" in capsys.readouterr().out


def test_a_run_on_cuda_proves_its_models_calls_for_its_grids_and_words(monkeypatch: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(kernel_choice, "agree", lambda ranks, wanted: asked.extend(wanted) or {"x": {}})
    reader: Any = SimpleNamespace(
        index=SimpleNamespace(grids=torch.tensor([[64, 48], [43, 44]]).numpy()),
        manifest=SimpleNamespace(encoders=SimpleNamespace(text=SimpleNamespace(max_words=20))),
    )
    settings: Any = SimpleNamespace(model=ModelSettings())
    assert kernel_choice.settle(settings, Ranks(CPU), reader, torch.float32) == {}
    assert asked == []
    cuda = Ranks(torch.device("cuda"))
    assert kernel_choice.settle(settings, cuda, reader, torch.bfloat16) == {"x": {}}
    kinds = {kind for _, kind in asked if isinstance(kind, MutualKind)}
    assert {kind.words for kind in kinds} == {16, 32}
    assert {kind.tokens for kind in kinds} == {2048, 4096}
    assert {kind.grouped for kind in kinds} == {True, False}
    assert {(kind.dtype, kind.C, kind.masked) for kind in kinds} == {("bfloat16", 256, True)}


def test_prove_takes_the_grids_and_words_of_the_runs_cache_if_it_is_there(
    tmp_path: Path, monkeypatch: Any
) -> None:
    asked: list[Any] = []

    def prove(wanted: list[Any], device: torch.device, told: Any, again: bool) -> Certificates:
        asked.append(wanted)
        return Certificates(machine(CPU))

    monkeypatch.setattr("maris_fast.kernels.choice.prove", prove)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{cache: {tmp_path / 'cache'}}}\nrun: {{folder: none}}\n")
    without = said(maris_fast("kernels", "prove", "--config", config))
    assert f"no cache at data.cache = {tmp_path / 'cache'} yet, so calls are proven for grids of " in without
    with CacheReader(write_tiny_cache(tmp_path), "train") as reader:
        here = kernel_choice.kinds_of(load_settings(TrainingSettings, config), reader, torch.float32)
    assert said(maris_fast("kernels", "prove", "--config", config)).endswith(
        f"0 kinds of calls are proven on cpu {platform.machine()}, none of {len(here)} others"
    )
    assert asked == [of_model(ModelSettings(), torch.float32), here]
    assert asked[0] != asked[1]


def test_what_the_settings_name_is_not_proven() -> None:
    def asked(**named: Any) -> set[str]:
        return {operation.name for operation, _ in of_model(ModelSettings(**named), torch.bfloat16)}

    assert asked() == {"mutual_attention", "cross_attention", "multihead_attention"}
    assert asked(mutual_attention_impl="triton", attention_impl="sdpa") == {"cross_attention"}
    assert asked(ma_blocks=0, cross_attention_impl="folded") == {"multihead_attention"}
    one = of_model(ModelSettings(ma_blocks=1), torch.bfloat16)
    assert {kind.grouped for _, kind in one if isinstance(kind, MutualKind)} == {True}


def test_pooled_self_attention_is_proven_with_as_many_keys_as_it_has() -> None:
    def lengths(grid: tuple[int, int], **changes: Any) -> set[tuple[int, int]]:
        asked = of_model(ModelSettings(**changes), torch.bfloat16, [grid], most_words=32)
        kinds = [kind for _, kind in asked if isinstance(kind, AttentionKind) and not kind.masked]
        return {(kind.queries, kind.keys) for kind in kinds}

    assert lengths((64, 48)) == {(4096, 4096)}
    assert lengths((64, 48), decoder_self_attention="pooled") == {(4096, 1024)}
    # 33 x 62 tokens are 2,046, their 17 x 31 cells 527: more than a quarter.
    assert lengths((33, 62), decoder_self_attention="pooled") == {(2048, 1024)}


def test_a_run_that_resumes_with_other_implementations_says_which(tmp_path: Path) -> None:
    file = tmp_path / "environment.json"
    file.write_text(json.dumps({"kernels": {"fake": {"a": "fast", "b": "usual", "c": None}}}))
    now = {"fake": {"a": "usual", "b": "usual", "c": "fast", "d": "fast"}, "other": {"a": "x"}}
    assert kernel_choice.differing(file, now) == [
        "fake a: fast before, usual now",
        "fake c: None before, fast now",
    ]
    assert kernel_choice.differing(tmp_path / "none.json", now) == []
    file.write_text("[]")
    assert kernel_choice.differing(file, now) == []


@pytest.mark.parametrize(("step", "warned"), [(5, True), (0, False)])
def test_the_run_folder_keeps_the_table_and_resuming_with_another_one_is_reported(
    step: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = {"data": {"cache": "none"}, "run": {"folder": tmp_path}}
    trainer: Any = Trainer.__new__(Trainer)
    trainer.settings, trainer.ranks = TrainingSettings.model_validate(run), Ranks(CPU)
    trainer.cache_info, trainer.step = SimpleNamespace(dataset={"name": "made up"}), 0
    trainer.kernels = {"fake": {"a": "fast"}}
    trainer._open_folder()
    trainer.step, trainer.kernels = step, {"fake": {"a": "usual"}}
    trainer._open_folder()
    assert json.loads((tmp_path / "environment.json").read_text())["kernels"] == {"fake": {"a": "usual"}}
    told = "the run resumes with other implementations: fake a: fast before, usual now"
    assert (told in caplog.text) == warned
    if warned:
        (tmp_path / "metrics.jsonl").write_text("")
        assert RunData.read(tmp_path).environment["kernels.fake.a"] == "usual"
