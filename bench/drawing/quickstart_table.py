"""The quickstart's scores as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maris_fast.bench.drawing.markdown import table

KINDS = ("colour", "shape", "colour+shape", "size", "position", "relation")


def quickstart_block(result: dict[str, Any], picture: str) -> str:
    """The scores by kind, as written and exchanged, with their conditions and the pictures."""
    written, exchanged = result["scores"]["as written"], result["scores"]["exchanged"]
    minutes = sum(result["seconds"].values()) / 60
    columns = {"all": written, **{kind: written["kinds"][kind] for kind in KINDS}}
    other = {"all": exchanged, **exchanged["kinds"]}
    rows = [
        _row("as written", [row["oIoU"] for row in columns.values()]),
        _row("expressions exchanged", [other[kind]["oIoU"] for kind in columns]),
        _row("Pr@50, as written", [row["Pr@50"] for row in columns.values()]),
    ]
    lines = [
        *table(["oIoU on held-out scenes", *columns], rows),
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


def conditions(environment: dict[str, Any]) -> str:
    """Device, versions and commit of a training run."""
    packages, commit = environment["packages"], str(environment["commit"])[:12]
    return (
        f"{environment['device']}, {environment['processor_cores']} cores, "
        f"{environment['ranks']} rank{'s' if environment['ranks'] > 1 else ''}, "
        f"torch {packages['torch']}, deepspeed {packages['deepspeed']}, commit {commit}"
    )


def _row(name: str, values: Sequence[float]) -> list[str]:
    return [name, *(f"{value:.3f}" for value in values)]
