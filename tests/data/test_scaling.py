"""The plan's arithmetic against numbers computed by hand; docs/scaling.md shows what the command prints."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maris_fast.bench import results
from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.data_shards.scaling import (
    ASSUMED,
    Rate,
    Rates,
    Workload,
    assumed_expressions,
    choose_rates,
    counted_expressions,
    image_bytes,
    images_a_shard,
    reads_per_image,
    scale,
)
from tests.command_line import maris_fast
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset

ROOT = Path(__file__).resolve().parents[2]


def rates(sam: float = 10, step: float = 1000, disk: float = 2, network: float = 1) -> Rates:
    return Rates(*(Rate(value, "given") for value in (sam, step, disk, network)))


def once(times: float = 1.0) -> Rate:
    return Rate(times, "given")


# 10 tokens of 8 channels in int8 at three levels, each after a tar header and numpy's header of 128 bytes.
SMALL = Workload(
    images=1000,
    gpus=4,
    reads_per_image=once(),
    gpus_a_machine=2,
    grid=(2, 5),
    channels=8,
    text_channels=4,
    shard_bytes=20_000,
)


def test_an_images_bytes_are_counted_in_blocks_of_a_tar() -> None:
    levels = 3 * (512 + 512)  # 128 + 80 bytes fit one block
    words = 512 + 512  # 128 + 42 words x 4 channels x 2 bytes = 464
    masks = 512 + 512  # 128 + 3 masks of 8 rows of 3 bytes = 200
    annotation = 512 + 4096
    scales = 512 + 512  # 128 + 3 x 8 x 4 = 224
    assert image_bytes(SMALL) == levels + words + masks + annotation + scales == 10_752


def test_bytes_seconds_and_counts_of_a_small_case() -> None:
    found = scale(SMALL, rates())
    assert found.cache_bytes == 10_752_000
    assert found.shards == 500  # with its second image a shard exceeds 20,000 bytes
    assert found.caching_s == 25.0  # 1000 images, 4 GPUs at 10 per second
    assert found.caching_write_GBps == pytest.approx(10_752_000 / 25 / 1e9)
    assert found.epoch_read_bytes == 10_752_000
    assert found.epoch_compute_s == 1.75  # 7000 expressions, 4 GPUs at 1000 per second
    assert found.epoch_disk_s == pytest.approx(0.010752 / 2 / 2)  # two machines, each with a disk of 2 GB/s
    assert found.epoch_network_s == pytest.approx(0.010752 / 2)
    assert found.needed_GBps == pytest.approx(0.010752 / 2 / 1.75)
    assert found.disks_a_machine == 1
    assert found.on_the_fly_epoch_s == 26.75
    assert found.run_s("disk") == 25 + 50 * 1.75
    assert found.on_the_fly_s == 50 * 26.75
    assert found.break_even_epochs("disk") == pytest.approx(1.0)
    assert found.bottleneck("disk") == "GPU"


def test_a_slow_disk_is_the_bottleneck_and_more_disks_are_asked_for() -> None:
    found = scale(SMALL, rates(disk=0.001))
    assert found.epoch_disk_s == pytest.approx(5.376)
    assert found.epoch_s("disk") == found.epoch_disk_s
    assert found.bottleneck("disk") == "disk"
    assert found.epoch_s("disks") == 1.75
    assert found.disks_a_machine == 4  # 5.376 / 1.75 = 3.07
    assert found.epoch_s("network") == 1.75


def test_fast_encoders_make_a_slow_cache_not_worth_it() -> None:
    found = scale(SMALL, rates(sam=1e6, network=1e-4))
    assert found.epoch_s("network") > found.on_the_fly_epoch_s
    assert found.break_even_epochs("network") == math.inf
    # Reading over the network takes half as long as encoding: caching pays off after this many epochs.
    again = scale(SMALL, rates(sam=10, network=0.005376 / 13.375))
    assert again.break_even_epochs("network") == pytest.approx(25 / 13.375)


def test_an_image_that_is_read_more_than_once_is_encoded_as_often() -> None:
    found = scale(replace(SMALL, reads_per_image=once(1.5)), rates())
    assert found.epoch_read_bytes == 1.5 * found.cache_bytes
    assert found.on_the_fly_epoch_s == 1.5 * 25.0 + 1.75


def repeated(*counts: int) -> np.ndarray:
    """An equal number of images with each of these numbers of expressions, 20,000 in all."""
    return np.repeat(counts, 20_000 // len(counts))


@pytest.mark.parametrize(
    ("counts", "reads"),
    [
        (repeated(8), 1.0),
        (repeated(7), 1.09),  # a step of 64 ends within an image in seven of eight cases
        (repeated(3, 11), 1.59),
        (repeated(9), 2.11),
        (assumed_expressions(7.1), 1.45),
    ],
)
def test_an_image_is_read_again_for_more_than_k_expressions_and_at_ends_of_steps(
    counts: np.ndarray, reads: float
) -> None:
    assert reads_per_image(counts, step=64, K=8) == pytest.approx(reads, abs=0.01)


def test_gpus_that_share_a_step_each_read_an_image_that_is_divided_between_them() -> None:
    assert reads_per_image(repeated(8), step=64, K=8, gpus=8) == 1
    assert reads_per_image(repeated(8), step=64, K=8, gpus=16) == 2
    assert reads_per_image(repeated(8), step=8, K=8, gpus=16) == 16  # eight have nothing to do, but read


@pytest.mark.parametrize("mean", [1.0, 2.0, 2.84, 3.6, 7.0, 30.0])
def test_assumed_numbers_of_expressions_have_the_given_mean(mean: float) -> None:
    counts = assumed_expressions(mean)
    assert counts.mean() == pytest.approx(mean, rel=0.02)
    assert counts.min() >= 1


def test_the_bytes_agree_with_a_cache_that_was_written(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": default_records()})
    encoders = tiny_settings().encoders
    larger = encoders.model_copy(update={"sam": encoders.sam.model_copy(update={"image_size": 512})})
    write_cache(dataset, tmp_path / "cache", tiny_settings(encoders=larger.model_dump()), progress=False)
    entry = read_manifest(tmp_path / "cache").splits["train"]
    # 64 x 96 pixels become 341 x 512.
    grids = ((22, 32), (32, 22), (22, 32), (32, 32), (22, 32))
    planned = sum(
        image_bytes(
            Workload(1, 1, once(), expressions_per_image=3, grid=grid, channels=128, text_channels=64)
        )
        for grid in grids
    )
    assert planned == pytest.approx(entry.bytes, rel=0.02)


def test_a_hundred_million_images_are_still_whole_numbers() -> None:
    found = scale(Workload(images=100_000_000, gpus=256, reads_per_image=once()), rates())
    assert found.cache_bytes == 100_000_000 * found.image_bytes
    assert (found.shards - 1) * images_a_shard(2 << 30, found.image_bytes) < 100_000_000
    assert found.shards * images_a_shard(2 << 30, found.image_bytes) >= 100_000_000


def test_caching_waits_for_a_disk_that_is_slower_than_the_encoders() -> None:
    found = scale(SMALL, rates(disk=1e-4))
    assert found.caching_s == pytest.approx(53.76)  # 5.376 MB onto each machine, at 0.1 MB per second
    assert found.on_the_fly_epoch_s == 26.75


def test_rates_are_given_or_measured_or_assumed_and_say_so(tmp_path: Path) -> None:
    row = {"shape": "ViT-H at 1024 px", "plan_rates": {"sam_images_per_s": 33.0}}
    busy = {"shape": "steps", "machine_shared": True, "plan_rates": {"step_expressions_per_s": 5}}
    content = {"environment": {"device": "X1"}, "rows": [row, {"shape": "other"}, busy]}
    (tmp_path / "sam_attention.json").write_text(json.dumps(content))
    (tmp_path / "quickstart.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "by_name.json").write_text(json.dumps({"rows": {"int8": {"bytes_an_image": 1.0}}}))
    chosen = choose_rates({"disk_GBps": 7.0, "network_GBps": None}, tmp_path)
    assert chosen.disk_GBps == Rate(7.0, "given")
    assert chosen.sam_images_per_s == Rate(33.0, "measured: ViT-H at 1024 px, X1, sam_attention.json")
    assert chosen.step_expressions_per_s.source.endswith("on a busy machine")
    assert chosen.network_GBps == ASSUMED["network_GBps"]
    assert chosen.network_GBps.source.startswith("assumed")
    assert choose_rates({}, None) == Rates(**ASSUMED)


def said(*arguments: str) -> tuple[int, str]:
    result = maris_fast("plan", *arguments)
    return result.exit_code, result.output


def test_the_command_marks_what_is_assumed() -> None:
    status, output = said("--images", "1000", "--gpus", "1", "--disk-GBps", "5")
    assert status == 0
    assert output.count("assumed: ") == 4
    assert re.search(r"disk_GBps +5  given", output)


@pytest.mark.parametrize(("gpus", "step"), [(8, 512), (1000, 64_000), (16, 128)])
def test_reads_of_assumed_images_depend_on_the_expressions_of_a_gpu_alone(gpus: int, step: int) -> None:
    one, many = (
        re.search(r"each image (.*) times", said(*arguments)[1])
        for arguments in (
            ("--images", "10", "--gpus", "1", "--expressions-per-step", str(step // gpus)),
            ("--images", "10", "--gpus", str(gpus), "--expressions-per-step", str(step)),
        )
    )
    assert one is not None
    assert many is not None
    assert one[1] == many[1]


def test_a_data_set_is_counted_by_the_command(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": default_records()})
    counts = counted_expressions(dataset, "train")
    assert counts.tolist() == [len(record.expressions) for record in default_records()]
    status, output = said("--dataset", str(dataset), "--gpus", "1", "--expressions-per-step", "1")
    assert status == 0, output
    assert re.search(rf"^images +{len(counts)} of ", output, re.MULTILINE)
    assert f"each image {counts.mean():.2f} times" in output
    assert "counted: " in output


@pytest.mark.parametrize(
    "arguments",
    [(), ("--dataset", "x", "--images", "10"), ("--dataset", "x", "--expressions-per-image", "3")],
)
def test_the_images_are_given_or_counted(arguments: tuple[str, ...]) -> None:
    status, output = said("--gpus", "1", *arguments)
    assert status == 2
    assert "--images" in output
    assert "--dataset" in output


@pytest.mark.parametrize(
    ("arguments", "status", "match"),
    [
        (("--grid", "64"), 2, "--grid 64 is not rows x columns"),
        (("--grid", "65x1"), 2, "at most 64"),
        (("--dtype", "int4"), 2, "int4"),
        (("--device", "abacus"), 2, "no measurements of device"),
        (("--disk-GBps", "0"), 2, "disk-GBps"),
    ],
)
def test_a_mistake_is_said(arguments: tuple[str, ...], status: int, match: str) -> None:
    code, output = said("--images", "10", "--gpus", "1", *arguments)
    assert code == status
    assert match in " ".join(output.split())


def test_results_of_every_device_that_are_kept_can_be_planned_with() -> None:
    devices = [path for path in (ROOT / "bench" / "results").iterdir() if path.is_dir()]
    assert devices
    for folder in devices:
        status, output = said("--images", "1000", "--gpus", "1", "--device", folder.name)
        assert status == 0, output


def test_a_device_is_looked_for_where_benchmarks_save_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    row = {"shape": "mine", "plan_rates": {"sam_images_per_s": 33.0}}
    suite = results.Suite("sam_attention", "2026-11-30", None, False, {"device": "My GPU"}, [row])
    suite.save(tmp_path / "bench" / "results")
    status, output = said("--images", "1000", "--gpus", "1", "--device", "my-gpu")
    assert status == 0, output
    assert "measured: mine, My GPU, sam_attention.json" in output


def test_the_tables_of_the_guide_are_what_the_command_prints() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    blocks = re.findall(r"```\n\$ maris-fast (plan .*)\n\n([^`]*)```", text)
    assert len(blocks) == 3
    for command, shown in blocks:
        assert said(*shlex.split(command)[1:]) == (0, shown)
