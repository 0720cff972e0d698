"""Work runs where the settings say, and encoders in the precision that suits the device."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from typer.core import TyperGroup
from typer.main import get_command

from maris_fast.cli import app
from maris_fast.errors import ConfigError, MemoryShortageError
from maris_fast.system import devices
from maris_fast.system.devices import (
    fitting,
    forget_peak_memory,
    keep_freed_memory,
    kind_of,
    peak_memory,
    place,
    usable,
)


@pytest.mark.parametrize(
    ("cuda", "device", "precision", "expected"),
    [
        (False, "auto", "auto", ("cpu", torch.float32)),
        (True, "auto", "auto", ("cuda", torch.bfloat16)),
        (True, "cpu", "auto", ("cpu", torch.float32)),
        (True, "cuda", "fp32", ("cuda", torch.float32)),
        (False, "cpu", "bf16", ("cpu", torch.bfloat16)),
    ],
)
def test_auto_means_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
    cuda: bool,
    device: str,
    precision: str,
    expected: tuple[str, torch.dtype],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    chosen, dtype = place(device, precision)  # type: ignore[arg-type]
    assert (chosen.type, dtype) == expected


def test_a_gpu_without_bf16_in_hardware_encodes_in_fp32_unless_bf16_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a T4 and an H100 in one machine, each rank takes what its own can do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    capabilities = {None: (7, 5), 1: (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])
    assert [place("auto", "auto", rank)[1] for rank in (0, 1)] == [torch.float32, torch.bfloat16]
    assert place("auto", "bf16", 0)[1] is torch.bfloat16


def test_an_error_of_lack_of_gpu_memory_keeps_no_tensor() -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def compute() -> None:
        activations = torch.zeros(9)
        made.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(MemoryShortageError) as caught, fitting("set device to cpu"):
        compute()
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert made[0]() is None


def test_lack_of_gpu_memory_says_how_much_there_is_and_what_to_change() -> None:
    said = (
        "CUDA out of memory. Tried to allocate 4.29 GiB. GPU 0 has a total capacity of 14.74 GiB of which "
        "1.13 GiB is free. Process 123 has 2.00 GiB memory in use. If reserved memory is large try setting X."
    )
    with pytest.raises(MemoryShortageError) as caught, fitting("set batch_size below 4"):
        raise torch.OutOfMemoryError(said)
    assert str(caught.value) == f"{said.partition(' Process')[0].rstrip('.')}; set batch_size below 4"


@pytest.mark.parametrize(
    ("choose", "device", "defaults"),
    [
        (usable, "cuda", False),
        (usable, "auto", False),
        (kind_of, "cuda", False),
        (kind_of, "auto", False),
        (lambda device: place(device, "fp32"), "auto", False),
        (usable, "cpu", True),
        (kind_of, "cpu", True),
    ],
)
def test_on_a_gpu_fp32_convolutions_are_ieee_and_attention_is_not_cudnns(
    monkeypatch: pytest.MonkeyPatch, choose: Callable[[str], object], device: str, defaults: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not torch.backends.cuda.matmul.allow_tf32  # PyTorch's default
    torch.backends.cuda.enable_cudnn_sdp(True)  # PyTorch's default
    try:
        with torch.backends.cudnn.flags(allow_tf32=True):
            choose(device)
            assert torch.backends.cudnn.allow_tf32 is defaults
        assert torch.backends.cuda.cudnn_sdp_enabled() is defaults
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.mark.parametrize(("cuda", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_a_predictors_auto_is_the_gpu_or_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert usable("auto") == torch.device(chosen)


def test_every_command_that_runs_a_model_takes_the_gpu_if_there_is_one() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    defaults = {
        name: option.default
        for name, command in group.commands.items()
        for option in command.params
        if option.name == "device" and name != "plan"  # plan's is a name of results
    }
    assert {"predict", "predict-many", "attention", "demo", "serve", "eval", "examples"} <= defaults.keys()
    assert set(defaults.values()) == {"auto"}


def test_cuda_where_there_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        place("cuda", "auto")


def test_processes_of_one_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert [place("auto", "auto", rank)[0].index for rank in (1, 3, 5)] == [1, 3, 1]


def test_memory_is_kept_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, what: int, value: int) -> None:
            asked.append((what, value))

    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: Library())
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    keep_freed_memory()
    assert asked == []
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    keep_freed_memory()
    assert asked == [(-3, 32 << 20), (-1, 512 << 20)]  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: object())  # another C library, without mallopt
    keep_freed_memory()


@pytest.mark.parametrize("hidden", [False, True], ids=["of /proc", "of the system"])
def test_the_peak_of_memory_is_in_bytes_and_outlasts_what_was_held(
    hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    if hidden:
        monkeypatch.setattr(devices.Path, "read_text", lambda path: "Name:\tpython\n")
    else:
        forget_peak_memory(cpu)
    before = peak_memory(cpu)
    held = torch.ones(2**26)
    peak = peak_memory(cpu)
    del held
    # The system counts pages in batches: the last ones may be missing.
    after = peak_memory(cpu) + 2**20
    assert 2**20 < before < 2**38
    assert peak >= (before if hidden else 2**28)
    assert after >= peak
