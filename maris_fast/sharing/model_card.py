"""The model card: a README.md with front matter for the Hub and text for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maris_fast.ablation.comparison import NONE
from maris_fast.config import READING, ModelSettings
from maris_fast.evaluation.scores_file import AS_WRITTEN, DataSplit, ScoreFile
from maris_fast.reports.run_data import RunData
from maris_fast.scoring.protocols import MARIS
from maris_fast.scoring.tables import SCORES
from maris_fast.sharing.card import LIBRARY, TAGS, TASK, UNKNOWN, card_template, encoder_rows
from maris_fast.weights import WeightsMeta

READINGS = (READING[0], "tau", *READING[1:])
"""Settings that choose how eqs. 3-5 are interpreted, the threshold of the gate beside the gate."""


@dataclass(frozen=True)
class SharedRun:
    """The content of the card; ``scores`` are of these weights, ``picture`` is a path in the repository."""

    repository: str
    license: str | None
    run: RunData
    meta: WeightsMeta
    scores: Sequence[ScoreFile]
    picture: str | None

    @property
    def trained_on(self) -> str | None:
        """The data set's name; None if the run did not record it."""
        name = self.run.environment.get("data.name")
        return None if name is None else str(name)


@dataclass(frozen=True)
class CardRow:
    """Scores on a split by one protocol, 0 to 1."""

    data: DataSplit
    protocol: str
    scores: Mapping[str, Any]

    @property
    def cells(self) -> list[str]:
        expressions, interval = self.scores.get("expressions"), self.scores.get("intervals", {}).get("oIoU")
        number = NONE if expressions is None else f"{expressions:,}"
        numbers = [f"{self.scores[name]:.3f}" if name in self.scores else NONE for name in SCORES]
        between = NONE if interval is None else "{:.3f} to {:.3f}".format(*interval)
        return [str(self.data), self.protocol, number, *numbers, between]


def model_card(shared: SharedRun) -> str:
    """The card's Markdown, front matter included."""
    rows = list(_rows(shared))
    return card_template("model").render(
        front_matter=_front_matter(shared, rows),
        name=shared.repository.rpartition("/")[2],
        repository=shared.repository,
        license=shared.license,
        trained_on=shared.trained_on,
        split_by=shared.run.environment.get("data.split_by"),
        step=shared.meta.step,
        state=shared.run.state,
        caution=shared.meta.encoders.caution,
        head=("data", "protocol", "expressions", *SCORES, "oIoU, 95%"),
        rows=[row.cells for row in rows],
        picture=shared.picture,
        needs_weights=not all((shared.meta.encoders.sam.random, shared.meta.encoders.text.random)),
        encoders=encoder_rows(shared.meta.encoders),
        arguments=_arguments(shared),
        readings=_readings(shared.meta),
        commit=shared.run.environment.get("commit"),
        versions=_versions(shared.run.environment),
    )


def _rows(shared: SharedRun) -> Iterator[CardRow]:
    """Rows of the run's own evaluation, unless a file covers its split in more detail, and of the files."""
    environment, settings = shared.run.environment, shared.run.settings
    own = DataSplit(
        shared.trained_on or "the run's data",
        str(environment.get("data.split_by", "split")),
        str(settings.get("data.val_split", "val")),
    )
    if shared.meta.scores and own not in {one.data for one in shared.scores}:
        yield CardRow(own, MARIS.name, shared.meta.scores)
    for one in shared.scores:
        written = one.content[AS_WRITTEN]
        yield CardRow(one.data, MARIS.name, written)
        for name, scores in written.get("protocols", {}).items():
            if name != MARIS.name:
                yield CardRow(one.data, name, scores)


def _front_matter(shared: SharedRun, rows: Sequence[CardRow]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=row.data.name,
            dataset_name=str(row.data),
            dataset_split=row.data.split,
            metric_type=metric,
            metric_value=row.scores[metric],
        )
        for row in rows
        for metric in SCORES
        if row.protocol == MARIS.name and metric in row.scores
    ]
    return ModelCardData(
        license=shared.license or UNKNOWN,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=[*TAGS],
        datasets=None if shared.trained_on is None else [shared.trained_on],
        model_name=shared.repository.rpartition("/")[2],
        eval_results=results or None,
    ).to_yaml()


def _arguments(shared: SharedRun) -> str:
    """Arguments of ``from_pretrained``: the encoders' weights are not in the repository."""
    encoders = shared.meta.encoders
    named = {"sam_weights": encoders.sam, "text_weights": encoders.text}
    weights = [f"{name}={json.dumps(part.weights)}" for name, part in named.items() if not part.random]
    return ", ".join([json.dumps(shared.repository), *weights])


def _readings(meta: WeightsMeta) -> list[tuple[str, str, str]]:
    if meta.model.fusion != "mutual":
        return []
    values = {**meta.model.model_dump(), "tau": meta.tau}  # the schedule's value at the step of these weights
    fields = ModelSettings.model_fields
    return [(name, str(values[name]), fields[name].description or "") for name in READINGS]


def _versions(environment: Mapping[str, Any]) -> str:
    packages = {
        name.removeprefix("packages."): version
        for name, version in environment.items()
        if name.startswith("packages.") and version is not None
    }
    python = {"Python": environment["python"]} if "python" in environment else {}
    return ", ".join(f"{name} {version}" for name, version in {**packages, **python}.items())
