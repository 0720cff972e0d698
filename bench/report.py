"""Figures of the README and docs, drawn from bench/results/.

    python bench/report.py keep runs/quickstart   # a finished quickstart -> bench/results/<device>/
    python bench/report.py draw                   # bench/results/ -> README.md, docs/quickstart.md

``draw`` replaces what stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PICTURE = ROOT / "docs" / "quickstart.png"
KINDS = ("colour", "shape", "colour+shape", "size", "position", "relation")


def keep(folder: Path) -> Path:
    """Copies a quickstart's scores and pictures, with where and when they were made."""
    environment = json.loads((folder / "training" / "environment.json").read_text())
    rows = [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment,
        "seconds": json.loads((folder / "seconds.json").read_text()),
        "scores": json.loads((folder / "scores.json").read_text()),
        "training": [
            {key: row[key] for key in ("step", "loss", "expressions_per_s")}
            for row in rows
            if row["kind"] == "train"
        ],
    }
    out = RESULTS / device_folder(environment) / "quickstart.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    shutil.copyfile(folder / "predictions.png", PICTURE)
    return out


def device_folder(environment: dict[str, Any]) -> str:
    return str(environment["device"]).lower().replace(" ", "-")


def draw() -> None:
    """Rewrites the blocks of README.md and docs/quickstart.md."""
    quickstart = json.loads((RESULTS / "cpu" / "quickstart.json").read_text())
    replace_block(ROOT / "README.md", "quickstart", quickstart_block(quickstart, "docs/quickstart.png"))
    guide = ROOT / "docs" / "quickstart.md"
    replace_block(guide, "quickstart", quickstart_block(quickstart, "quickstart.png"))
    words = RESULTS / "cpu" / "position_words.json"
    if words.is_file():
        replace_block(guide, "position-words", position_words_block(json.loads(words.read_text())))


def quickstart_block(result: dict[str, Any], picture: str) -> str:
    """The scores by kind, as written and exchanged, with their conditions and the pictures."""
    written, exchanged = result["scores"]["as written"], result["scores"]["exchanged"]
    minutes = sum(result["seconds"].values()) / 60
    columns = {"all": written, **{kind: written["kinds"][kind] for kind in KINDS}}
    other = {"all": exchanged, **exchanged["kinds"]}
    lines = [
        f"| oIoU on held-out scenes | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        _row("as written", [row["oIoU"] for row in columns.values()]),
        _row("expressions exchanged", [other[kind]["oIoU"] for kind in columns]),
        _row("Pr@50, as written", [row["Pr@50"] for row in columns.values()]),
        "",
        "The second row gives the model, for each object, a sentence about another object of the same scene: "
        "a model that reads must fail there.",
        "",
        f"![Held-out scenes, two of each kind: prediction pink, truth green]({picture})",
        "",
        f"({conditions(result['environment'])}, {result['date']}; {minutes:.1f} minutes, "
        f"of which {result['seconds']['train'] / 60:.1f} train, without installation.)",
    ]
    return "\n".join(lines)


def position_words_block(result: dict[str, Any]) -> str:
    """A row a variant: oIoU by kind."""
    lines = [f"| variant | all | {' | '.join(KINDS)} |", f"|---|---|{'---|' * len(KINDS)}"]
    for row in result["rows"]:
        scores = row["scores"]
        values = [scores["oIoU"], *(scores["kinds"][kind]["oIoU"] for kind in KINDS)]
        lines.append(_row(row["name"], values))
    first = result["rows"][0]
    told = f"{conditions(first['environment'])}, {first['date']}"
    told += f"; {result['epochs']} epochs, one run each, seed {first['seed']}"
    lines += ["", f"({told}.)"]
    return "\n".join(lines)


def _row(name: str, values: Sequence[float]) -> str:
    return " | ".join(["", name, *(f"{value:.3f}" for value in values), ""]).strip()


def conditions(environment: dict[str, Any]) -> str:
    packages, commit = environment["packages"], str(environment["commit"])[:12]
    return (
        f"{environment['device']}, {environment['processor_cores']} cores, "
        f"{environment['ranks']} rank{'s' if environment['ranks'] > 1 else ''}, "
        f"torch {packages['torch']}, deepspeed {packages['deepspeed']}, commit {commit}"
    )


def replace_block(file: Path, name: str, content: str) -> None:
    """Puts ``content`` between the markers of ``name``.

    Raises:
        ValueError: the file has no such markers.
    """
    text = file.read_text()
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"{file} has no block {name}: needed are the lines {begin.strip()} and {end}")
    head, _, rest = text.partition(begin)
    file.write_text(f"{head}{begin}{content}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("keep").add_argument("folder", type=Path)
    commands.add_parser("draw")
    options = parser.parse_args()
    if options.command == "keep":
        print(keep(options.folder))
    else:
        draw()


if __name__ == "__main__":
    main()
