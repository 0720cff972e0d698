"""The rank of a process, from each launcher's variables; contradictions are refused in one line."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from maris_fast.data_shards.cache.workers import Worker, find_worker
from maris_fast.system.launchers import Place, place_of, take_place
from maris_fast.train.main import main
from tests.training.processes import MAIN, ROOT, TINY, run

# As real launchers set them: OpenMPI 4.1, MPICH 4.0 and Intel MPI 2021, on one machine.
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "1",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
CRAY = {"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "4"}
SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "3,1",
    "SLURM_STEP_NODELIST": "gpu-[7-8]",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}
TORCH = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29501"}
TORCHRUN = {**TORCH, "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
DEEPSPEED = {**TORCH, "LOCAL_SIZE": "2", "CROSS_RANK": "0", "CROSS_SIZE": "1"}
ALONE = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29501",
}
"""As a container or a shell profile may leave it."""


def numbers(place: Place) -> tuple[int | None, ...]:
    return place.rank, place.world, place.local_rank, place.local_world


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0, 1, 0, 1)),
        (OPENMPI, (1, 2, 1, 2)),
        (HYDRA, (1, 2, 1, 2)),
        (CRAY, (5, 8, 1, 4)),
        (SRUN, (3, 4, 0, 1)),
        (DEEPSPEED, (1, 2, 1, 2)),
        # One launcher starts another: the inner one counts.
        ({**OPENMPI, **TORCHRUN, "OMPI_COMM_WORLD_SIZE": "9"}, (1, 2, 1, 2)),
        ({**SRUN, **DEEPSPEED}, (1, 2, 1, 2)),
        ({**SRUN, **HYDRA}, (1, 2, 1, 2)),
        # srun --mpi=pmi2 names the ranks twice.
        ({**SRUN, "PMI_RANK": "3", "PMI_SIZE": "4"}, (3, 4, 0, 1)),
        # Left over, and consistent.
        ({**OPENMPI, "WORLD_SIZE": "2"}, (1, 2, 1, 2)),
        ({**SRUN, "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, (3, 4, 0, 1)),
        (ALONE, (0, 1, 0, 1)),
        # One rank of mpirun that itself starts two.
        ({**HYDRA, **TORCH, "PMI_RANK": "0", "PMI_SIZE": "1", "LOCAL_WORLD_SIZE": "2"}, (1, 2, 1, 2)),
        (
            {**HYDRA, "PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
            (0, 1, 0, 1),
        ),
    ],
)
def test_each_launchers_numbers_are_taken_for_training_and_for_caching(
    given: dict[str, str], expected: tuple[int, ...]
) -> None:
    assert numbers(place_of(given)) == expected
    assert find_worker(environment=given) == Worker(*expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE=2 is set and RANK is not", "unset WORLD_SIZE"]),
        ({"RANK": "1"}, ["RANK=1 is set and WORLD_SIZE is not", "unset RANK"]),
        ({**OPENMPI, "WORLD_SIZE": "3"}, ["WORLD_SIZE=3 is set and RANK is not"]),
        (
            {**OPENMPI, **ALONE},
            ["RANK=0 WORLD_SIZE=1 are set, and OpenMPI calls this process rank 1 of 2", "unset RANK, WORLD"],
        ),
        ({**HYDRA, **ALONE}, ["RANK=0 WORLD_SIZE=1", "rank 1 of 2", "or PMI_RANK where they are right"]),
        ({**SRUN, **ALONE}, ["RANK=0 WORLD_SIZE=1 are set, and srun calls this process rank 3 of 4"]),
        ({"RANK": "2", "WORLD_SIZE": "2"}, ["rank 2 of 2", "the last is 1"]),
        ({"RANK": "one", "WORLD_SIZE": "2"}, ["RANK='one' is not a number"]),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ["does not say where rank 0 is", "set MASTER_ADDR"]),
        ({"PMIX_RANK": "1"}, ["PMIX_RANK=1 is a launcher's", "unset PMIX_RANK"]),
        ({"PMI_RANK": "1"}, ["PMI_RANK=1 is a launcher's"]),
        (
            {**OPENMPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"},
            ["OpenMPI has started 4 ranks and does not say where rank 0 is", "mpirun -x MASTER_ADDR"],
        ),
        (
            {**HYDRA, "PMI_RANK": "0", "MPI_LOCALNRANKS": "1"},
            ["MPICH or Intel MPI has started 2 ranks", "-genv MASTER_ADDR"],
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "MASTER_ADDR": "a"}, ["set LOCAL_RANK"]),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line_before_anything_is_loaded(
    given: dict[str, str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.dict(os.environ, given):
        status = main(["--config", str(TINY), f"data.cache={tmp_path}", f"run.folder={tmp_path / 'run'}"])
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def taken(given: dict[str, str]) -> dict[str, str]:
    """The environment that PyTorch and DeepSpeed see."""
    with mock.patch.dict(os.environ, given):
        take_place()
        return {**os.environ}


def test_two_steps_of_one_job_meet_at_different_ports() -> None:
    first, again, second = (taken({**SRUN, "SLURM_STEP_ID": step}) for step in ("0", "0", "1"))
    assert first["MASTER_ADDR"] == "gpu-7"
    assert first["MASTER_PORT"] == again["MASTER_PORT"] != second["MASTER_PORT"]
    neighbour = taken({**SRUN, "SLURM_JOB_ID": "123457"})
    assert neighbour["MASTER_PORT"] not in (first["MASTER_PORT"], second["MASTER_PORT"])
    assert taken({**SRUN, "MASTER_PORT": "4711"})["MASTER_PORT"] == "4711"


@pytest.mark.process
@pytest.mark.parametrize("mpi", [OPENMPI, HYDRA])
def test_ranks_of_mpirun_on_one_machine_meet_there(mpi: dict[str, str]) -> None:
    script = (
        "from maris_fast.system.launchers import *; print(take_place().rank, *map(os.environ.get, NAMES))"
    )
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    command = [sys.executable, "-c", f"import os; NAMES={names}; {script}"]
    said = [
        subprocess.run(words, env={**os.environ, **mpi}, cwd=ROOT, capture_output=True, text=True, check=True)
        # Started by mpirun itself, and by a wrapper.
        for words in (command, ["sh", "-c", '"$@"; true', "sh", *command])
    ]
    (direct, wrapped) = (one.stdout.split() for one in said)
    assert direct == wrapped
    assert direct[:6] == ["1", "1", "2", "1", "2", "127.0.0.1"]
    assert 20000 <= int(direct[6]) < 30000


def test_a_run_of_one_needs_no_meeting() -> None:
    alone = taken({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"})
    assert (alone["RANK"], alone["WORLD_SIZE"], alone["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")


@pytest.mark.parametrize(
    ("inner", "local_rank"),
    [(TORCHRUN, "1"), (DEEPSPEED, "1"), ({**ALONE, "OMPI_COMM_WORLD_SIZE": "1"}, "0"), ({}, "0")],
)
def test_deepspeed_sees_one_local_rank_in_a_launcher_that_mpirun_started(
    inner: dict[str, str], local_rank: str
) -> None:
    """It compares OpenMPI's, which is that of the launcher, with LOCAL_RANK."""
    outer = {**OPENMPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
    for own in ("0", "3"):
        found = taken({**outer, "OMPI_COMM_WORLD_LOCAL_RANK": own, **inner})
        assert found["LOCAL_RANK"] == found["OMPI_COMM_WORLD_LOCAL_RANK"] == local_rank
    assert "OMPI_COMM_WORLD_LOCAL_RANK" not in taken(inner)


@pytest.mark.process
def test_a_port_in_use_is_one_line_that_names_the_launchers_option(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = run(
            *(sys.executable, MAIN, "--config", TINY, f"run.folder={tmp_path / 'run'}"),
            changed={"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"cannot meet at 127.0.0.1 port {port}: another program, or another run, has this port" in line
    assert "--master_port" in line
    assert "Traceback" not in done.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    "mpirun", [("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe"), ("mpirun.mpich",)]
)
def test_ranks_that_a_real_mpirun_starts_are_two_of_one_run(mpirun: tuple[str, ...], tmp_path: Path) -> None:
    if shutil.which(mpirun[0]) is None:
        pytest.skip(f"{mpirun[0]} is not installed")
    script = "from maris_fast.system.launchers import *; place = take_place(); print(place.rank, place.world)"
    done = run(*mpirun, "-n", "2", sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 2", "1 2"]
