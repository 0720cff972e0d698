"""Keeps what a run measured in bench/results/: ablations, and the quickstart's scores and pictures."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from maris_fast.ablation.paper import VARIANTS
from maris_fast.ablation.record import ABLATION, Record
from maris_fast.bench.results import ROOT, device_folder, read_json
from maris_fast.config.plain_yaml import read_yaml
from maris_fast.errors import InputError
from maris_fast.train.run_files import ENVIRONMENT, METRICS, SETTINGS

ABLATIONS = "ablations.json"
"""An ablation with rows of the paper."""
OWN_ROWS = "ablation-{}.json"
"""An ablation with other rows only, by the name of its folder."""
QUICKSTART, OF_SEED = "quickstart.json", "quickstart-seed-{}.json"
"""The quickstart with seed 0, and with another seed."""


def keep(folder: Path, root: Path = ROOT) -> Path:
    """Copy an ablation, or a finished quickstart's scores and pictures with their environment and date.

    An ablation with rows of the paper replaces the last one; one without is kept next to it, named after its
    folder. A quickstart with a ``run.seed`` other than 0 is kept next to that of seed 0, without pictures.

    Raises:
        InputError: ``folder`` holds neither of them, or an ablation with runs that are not finished.
    """
    if (folder / ABLATION).is_file():
        return _keep_ablation(folder, root)
    environment = read_json(folder / "training" / ENVIRONMENT)
    seconds, scores = read_json(folder / "seconds.json"), read_json(folder / "scores.json")
    rows = [json.loads(line) for line in (folder / "training" / METRICS).read_text().splitlines()]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment,
        "seconds": seconds,
        "scores": scores,
        "training": [
            {key: row[key] for key in ("step", "loss", "expressions_per_s")}
            for row in rows
            if row["kind"] == "train"
        ],
    }
    seed = read_yaml(folder / "training" / SETTINGS)["run"]["seed"]
    out = root / "bench" / "results" / device_folder(environment)
    out /= OF_SEED.format(seed) if seed else QUICKSTART
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    if not seed:
        shutil.copyfile(folder / "predictions.png", root / "docs" / "quickstart.png")
    return out


def _keep_ablation(folder: Path, root: Path) -> Path:
    record = Record.read(folder)
    failed = record.failed()
    if failed or not record.environments:
        raise InputError(
            f"{folder} has {len(failed)} failed and {len(record.runs) - len(failed)} finished runs; all must "
            "be finished: run its command again"
        )
    name = ABLATIONS if record.variants.keys() & VARIANTS.keys() else OWN_ROWS.format(folder.resolve().name)
    out = root / "bench" / "results" / device_folder(record.environments[0]) / name
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / ABLATION, out)
    return out
