"""The study of the readings of eqs. 3-5: which one helps, at which image size, on which encoders, how soon.

``python -m maris_fast.bench.equation_readings runs/readings [PART ...]`` creates what a part needs with the
``maris-fast`` commands that a user would run, each of which resumes where it was stopped, and adds all
finished runs to bench/results/<device>/equation_readings.json, next to those from other folders.
``maris-fast bench report`` draws them into docs/ablations.md.

Scenes are square, and so are the grids: 28 x 28 has about as many tokens as 32 x 24, 56 x 56 as 64 x 48.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from maris_fast.ablation.record import ABLATION, DONE, Record
from maris_fast.bench.program import run_program
from maris_fast.bench.results import ROOT, Row, Suite, device_folder, load
from maris_fast.config import READING, as_override
from maris_fast.data_shards.synthetic import DATASET, SPLIT_BY
from maris_fast.data_shards.synthetic.pretraining import SAM, TEXT
from maris_fast.errors import ConfigError
from maris_fast.system.terminal import say
from maris_fast.train.run_files import METRICS

SUITE = "equation_readings"
CONTROLS = ("without_ma", "sdf")
PRINTED = ("gate", "no_gate")
BEST = (
    "columns_scaled_centered",
    "gate_columns_scaled_centered",
    "columns_scaled",
    "gate_columns_scaled",
    "gate_columns_rows_scaled",
)
KEPT_SETTINGS = ("fusion", "ma_blocks", *READING)
LONGER = ("schedule.epochs=12",)
"""Three times the steps of the others."""
HEALTH = ("kept_pairs", "empty_pixels", "empty_words", "score", "gathered", "cosine_before", "cosine_after")


@dataclass(frozen=True)
class Part:
    """Runs on one cache that differ only in the row and the seed.

    Attributes:
        side: side in pixels of the image that the encoder sees; gives (side / 16)² tokens.
        rows: as ``maris-fast ablate --rows`` takes them.
        pretrained: encoders trained on other scenes instead of random ones.
        overrides: settings that all of its runs share.
    """

    side: int
    rows: tuple[str, ...]
    seeds: int
    pretrained: bool = False
    overrides: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return (self.side // 16) ** 2


PARTS = {
    "10x10": Part(160, ("readings", *CONTROLS), seeds=5),
    "10x10-pretrained": Part(160, (*BEST, *PRINTED, "columns", *CONTROLS), seeds=3, pretrained=True),
    "10x10-longer": Part(160, (*BEST, *PRINTED, *CONTROLS), seeds=3, overrides=LONGER),
    "10x10-pretrained-longer": Part(
        160, (*BEST, *PRINTED, *CONTROLS), seeds=3, pretrained=True, overrides=LONGER
    ),
    "16x16": Part(256, (*BEST, *PRINTED, *CONTROLS), seeds=3),
    "28x28": Part(448, (*BEST, *PRINTED, *CONTROLS), seeds=3),
    "56x56": Part(896, (*BEST, *PRINTED, *CONTROLS), seeds=1),
    # For a CPU: with all keys in eq. 6, which is not under study here, a run takes 155 minutes on one core.
    "56x56-pooled": Part(
        896, (*BEST, *PRINTED, *CONTROLS), seeds=1, overrides=("model.decoder_self_attention=pooled",)
    ),
}
FRAGMENTS = ROOT / "train" / "configs" / "readings"
RESULTS = ROOT / "bench" / "results"
TRAIN_IMAGES, VAL_IMAGES = 1200, 120


def main(
    folder: Annotated[Path, typer.Argument(help="for scenes, caches and runs; some GB")],
    parts: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(PARTS)}; all by default")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs side by side")] = 2,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="the first so many of a part's seeds; all by default")
    ] = None,
    results: Annotated[Path, typer.Option(help="where <device>/equation_readings.json goes")] = ROOT
    / "bench"
    / "results",
) -> None:
    """Train and score the readings of eqs. 3-5; the same command resumes a stopped study."""
    unknown = [name for name in parts or () if name not in PARTS]
    if unknown:
        raise typer.BadParameter(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    for name in parts or PARTS:
        try:
            work(folder, name, jobs, seeds)
        finally:
            file = keep(folder, results)
            if file is not None:
                say(f"wrote {file}")


def work(folder: Path, name: str, jobs: int, seeds: int | None) -> None:
    """Create the scenes, encoders, cache and runs of a part that do not exist yet."""
    part = PARTS[name]
    cache = _cache(folder, part)
    count = min(part.seeds, seeds or part.seeds)
    rows = [
        str(FRAGMENTS / f"{row}.yaml") if (FRAGMENTS / f"{row}.yaml").is_file() else row for row in part.rows
    ]
    _run(
        *("ablate", str(cache), "run.attention_health=true", *part.overrides),
        *("--config", "ablate_quick", "--rows", ",".join(rows), "--out", str(folder / name)),
        *("--seeds", ",".join(map(str, range(count))), "--jobs", str(jobs)),
    )


def _cache(folder: Path, part: Part) -> Path:
    """The feature cache of a part's scenes; parts with the same size and kind of encoder share it."""
    side = max(part.side, 256)
    scenes, dataset = folder / f"scenes-{side}", folder / f"dataset-{side}"
    cache = folder / f"cache-{part.side}{'-pretrained' if part.pretrained else ''}"
    if not scenes.exists():
        numbers = ("--train-images", str(TRAIN_IMAGES), "--val-images", str(VAL_IMAGES))
        _run("scenes", "--out", str(scenes), *numbers, "--image-size", str(side))
    if not dataset.exists():
        _run("import", str(scenes), DATASET, "--split-by", SPLIT_BY, "--out", str(dataset))
    settings = [f"encoders.sam.image_size={part.side}"]
    if part.pretrained:
        encoders = folder / "encoders"
        if not encoders.exists():
            _run("pretrain", "--out", str(encoders))
        settings += [
            as_override("encoders.sam.weights", encoders / SAM),
            as_override("encoders.text.weights", encoders / TEXT),
        ]
    _run("cache", str(dataset), "--out", str(cache), "--config", "quickstart", *settings)
    return cache


def _run(*words: str) -> None:
    command = [sys.executable, "-m", "maris_fast.cli", *words]
    say("$ maris-fast " + " ".join(words))
    status = subprocess.run(command, check=False).returncode
    if status:
        raise ConfigError(f"the command above ended with status {status}; its own message is above")


def keep(folder: Path, results: Path) -> Path | None:
    """Write all finished runs of a study to the file of its suite; None if there are none.

    Runs from other folders are kept; one with the same part, row and seed is replaced.
    """
    records = {name: Record.read(folder / name) for name in PARTS if (folder / name / ABLATION).is_file()}
    made = [row for name, record in records.items() for row in _rows(folder / name, name, record)]
    if not made:
        return None
    environment = [environment for record in records.values() for environment in record.environments][-1]
    file = results / device_folder(environment) / f"{SUITE}.json"
    runs = {_identity(row): row for row in [*(load(file).rows if file.is_file() else ()), *made]}
    order = {name: place for place, name in enumerate(PARTS)}
    rows = sorted(runs.values(), key=lambda row: (order[row["part"]], row["row"], row["seed"]))
    return Suite.now(SUITE, environment, rows).save(results)


def _identity(row: Row) -> tuple[str, str, int]:
    return row["part"], row["row"], row["seed"]


def _rows(folder: Path, name: str, record: Record) -> Iterator[Row]:
    part = PARTS[name]
    shared = record.conditions["settings"]
    settings = {row: {**shared, **variant["changes"]} for row, variant in record.variants.items()}
    for run_name, run in record.runs.items():
        if run["state"] != DONE:
            continue
        logged = _logged(folder / run_name / METRICS)
        yield {
            "part": name,
            "tokens": part.tokens,
            "encoders": "pretrained" if part.pretrained else "random",
            "row": run["row"],
            "reading": {
                name: settings[run["row"]][key]
                for name in KEPT_SETTINGS
                if (key := f"model.{name}") in settings[run["row"]]  # else from before the setting existed
            },
            "seed": run["seed"],
            "commit": record.environments[run["environment"]]["commit"],
            "steps": run["steps"],
            "train_seconds": run["train_seconds"],
            "scores": run["scores"],
            "loss": [[line["step"], round(line["loss"], 4)] for line in logged if line["kind"] == "train"],
            "attention": _health(logged),
        }


def _logged(file: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _health(logged: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Health of each block of mutual-aware attention at the last logged step."""
    last: dict[str, Any] = next((line for line in reversed(logged) if line["kind"] == "attention"), {})
    blocks = sorted({key.partition("/")[0] for key in last if "/" in key})
    return [{key: round(last[f"{block}/{key}"], 4) for key in HEALTH} for block in blocks]


if __name__ == "__main__":
    run_program(main)
