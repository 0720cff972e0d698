"""Reference curves of the tiny configuration, and how to renew them on purpose.

::

    python -m tests.training.golden              rerun and compare
    python -m tests.training.golden --write      renew tests/training/golden/*.json; the commit says why

The losses of a run depend on everything from the frozen encoders to the optimiser: a change that alters them
unintentionally is detected here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maris_fast.data_shards.cache import read_manifest
from maris_fast.train.cache_info import CacheInfo
from tests.training.processes import MAIN, TINY, records, run, torchrun
from tests.training.tiny_cache import write_tiny_cache

FOLDER = Path(__file__).with_name("golden")
RENEW = "python -m tests.training.golden --write"
COMPARED = ("loss", "focal", "dice", "gradient_norm", "oIoU")
LENGTH = ("schedule.epochs=6", "run.log_every=1", "run.evaluate_every=3", "run.pictures=0")


@dataclass(frozen=True)
class Configuration:
    """The tiny configuration on ``ranks`` ranks, with changed settings."""

    ranks: int
    changes: tuple[str, ...]


CONFIGURATIONS = {
    "one_rank_fp32": Configuration(1, ()),
    "two_ranks_zero1": Configuration(2, ("engine.zero_stage=1",)),
}

# Relative to the golden value; the largest differences measured, over 24 steps and their evaluations:
#   same features: 0 if repeated or with AVX2 instead of AVX-512, 1.3e-6 with two threads, 7e-7 without either
#   features computed by other CPU kernels: 5.6e-4 (oIoU: one pixel), 1.3e-4 (gradient norm)
# Detected on the same features: weight decay 0.01 -> 0.02 moves them by 5e-4, lr by a thousandth by 3e-3.
SAME_DATA = 1e-5
OTHER_DATA = 3e-3


def curve(name: str, cache: Path, folder: Path, *changes: str) -> dict[str, Any]:
    """Train configuration ``name`` with ``changes`` into ``folder``, from the command line as a user would.

    Raises:
        RuntimeError: the training failed; contains its output.
    """
    configuration = CONFIGURATIONS[name]
    launcher: tuple[str, ...] = (sys.executable,)
    if configuration.ranks > 1:
        launcher = torchrun(configuration.ranks)
    done = run(
        *(*launcher, MAIN, "--config", TINY),
        *(f"data.cache={cache}", f"run.folder={folder}", "run.report=false"),
        *(*LENGTH, *configuration.changes, *changes),
        # oIoU counts whole pixels: another number of threads may flip one of them.
        changed={"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-4000:] + done.stderr[-4000:])
    environment = json.loads((folder / "environment.json").read_text())
    return {
        "settings": [*LENGTH, *configuration.changes],
        "data": CacheInfo.of(read_manifest(cache), "train").fingerprint,
        "made_with": {key: environment[key] for key in ("packages", "commit", "platform", "device", "ranks")},
        "steps": [{key: one[key] for key in ("step", *COMPARED)} for one in records(folder, "train")],
        "evaluations": [
            {key: one[key] for key in ("step", "oIoU", "mIoU")} for one in records(folder, "evaluation")
        ],
    }


def golden(name: str) -> dict[str, Any]:
    """The committed curve."""
    values: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return values


def tolerance(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The tolerance, by whether both were trained on bitwise identical features."""
    return SAME_DATA if found["data"] == wanted["data"] else OTHER_DATA


def moved(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """A line for each value outside the tolerance, earliest first; empty if there is none."""
    allowed = tolerance(found, wanted)
    lines = []
    for part in ("steps", "evaluations"):
        if [one["step"] for one in found[part]] != [one["step"] for one in wanted[part]]:
            return [f"{len(found[part])} {part}, golden are {len(wanted[part])}"]
        for ours, theirs in zip(found[part], wanted[part], strict=True):
            lines += [
                f"{part[:-1]} {theirs['step']}, {name}: {ours[name]:.6g}, was {theirs[name]:.6g}, {share:.0e}"
                for name, share in _shares(ours, theirs)
                if share > allowed
            ]
    return lines


def explain(name: str, found: dict[str, Any], wanted: dict[str, Any], lines: list[str]) -> str:
    """Failure message: what moved first, what else differs, and what to do."""
    made, now = wanted["made_with"], found["made_with"]
    versions = [
        f"{package} {made['packages'].get(package)} then, {version} now"
        for package, version in now["packages"].items()
        if made["packages"].get(package) != version
    ]
    features = "the same" if found["data"] == wanted["data"] else "others (encoders, cache, or another CPU)"
    return "\n".join(
        [
            f"{name}: {len(lines)} values moved by more than {tolerance(found, wanted):.0e} of the golden",
            *(f"  {line}" for line in lines[:5]),
            *([f"  ... and {len(lines) - 5} more"] if len(lines) > 5 else []),
            f"features: {features}",
            f"versions: {'; '.join(versions) or 'the same'}",
            f"golden made at {made['commit']}",
            f"if the change was meant to move them: {RENEW}, and say in the commit why",
        ]
    )


def _shares(ours: dict[str, float], theirs: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Each value's difference from the golden one, relative to it."""
    for name, value in theirs.items():
        if name != "step":
            yield name, abs(ours[name] - value) / (abs(value) or 1)


def _main() -> int:
    parser = argparse.ArgumentParser(prog="tests.training.golden", description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the golden curves")
    write = parser.parse_args().write
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        cache = write_tiny_cache(Path(folder))
        for name in CONFIGURATIONS:
            found = curve(name, cache, Path(folder) / name)
            if write:
                FOLDER.mkdir(exist_ok=True)
                (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
                print(f"{name}: written, {len(found['steps'])} steps")
                continue
            wanted = golden(name)
            lines = moved(found, wanted)
            status |= bool(lines)
            print(explain(name, found, wanted, lines) if lines else f"{name}: where it was")
    return status


if __name__ == "__main__":
    sys.exit(_main())
