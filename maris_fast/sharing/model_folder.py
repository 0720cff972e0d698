"""A run as the files of a repository: weights, settings, scores, a picture and a card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maris_fast.config import PRIVATE
from maris_fast.config.plain_yaml import dump_yaml, read_yaml
from maris_fast.errors import CheckpointError
from maris_fast.evaluation.scores_file import ScoreFile, read_score_files
from maris_fast.reports.run_data import RunData
from maris_fast.sharing.card import CARD
from maris_fast.sharing.model_card import SharedRun, model_card
from maris_fast.sharing.places import last_part
from maris_fast.system.files import replace_text, sha256_of
from maris_fast.train.run_files import PICTURES, SCORES, SETTINGS
from maris_fast.weight_files import BEST
from maris_fast.weights import read_meta

REPLACED = (SCORES, f"{PICTURES}/*")
"""Patterns of files of an earlier push that do not belong to new weights."""
_PLACES = (("data", "cache"), ("data", "staging"), ("run", "folder"))


def write_model_folder(
    run: Path, out: Path, *, repository: str, license: str | None, pictures: bool = True
) -> list[str]:
    """Write the files of a repository of the run's best weights; places are cut to their last part.

    ``data.shards`` is left out of the settings.

    Args:
        run: folder of the run.
        out: an empty folder.
        repository: ``org/name`` that the card names.
        license: the Hub's identifier, such as apache-2.0; None: the card says that it is unknown.
        pictures: include the last sheet that validation drew, which shows photographs of the data set.

    Returns:
        What to know before sharing it, one line each.

    Raises:
        InputError: the folder is not that of a run.
        CheckpointError: the run has no best weights, or they cannot be read.
        OSError: ``out`` cannot be written.
    """
    data = RunData.read(run)
    if not (run / BEST).is_file():
        raise CheckpointError(
            f"{run} holds no {BEST}; the run's first evaluation writes it, train until then"
        )
    shutil.copyfile(run / BEST, out / BEST)
    meta = read_meta(out / BEST)  # from the copy: a run in progress may replace the original
    found = list(read_score_files(run))
    digest = sha256_of(out / BEST)
    scores = [one for one in found if one.weights == BEST and one.is_of(digest)]
    _write_settings(run / SETTINGS, out / SETTINGS)
    _write_scores(scores, out)
    picture = _copy_picture(data.pictures, out) if pictures else None
    shared = SharedRun(repository, license, data, meta, scores, picture)
    replace_text(out / CARD, [model_card(shared)])
    return [*_left_out(found, scores), *_cautions(shared)]


def _write_settings(path: Path, out: Path) -> None:
    settings = read_yaml(path)
    for section, key in _PLACES:
        if place := settings.get(section, {}).get(key):
            settings[section][key] = last_part(str(place))
    section, key = PRIVATE
    settings.get(section, {}).pop(key, None)
    replace_text(out, [dump_yaml(settings)])


def _write_scores(scores: Sequence[ScoreFile], out: Path) -> None:
    for one in scores:
        content: dict[str, Any] = {**one.content, "weights": one.weights}
        replace_text(out / one.path.name, [json.dumps(content, indent=1) + "\n"])


def _copy_picture(pictures: Sequence[Path], out: Path) -> str | None:
    if not pictures:
        return None
    (out / PICTURES).mkdir()
    shutil.copyfile(pictures[-1], out / PICTURES / pictures[-1].name)
    return f"{PICTURES}/{pictures[-1].name}"


def _left_out(found: Sequence[ScoreFile], kept: Sequence[ScoreFile]) -> list[str]:
    again = "`maris-fast eval` with `--out` scores these"
    lines = []
    for one in found:
        if one.weights != BEST:
            lines.append(f"{one.path.name} is left out: it scores {one.weights or 'masks'}, not {BEST}")
        elif one not in kept:
            lines.append(f"{one.path.name} is left out: it scores other weights than this {BEST}; {again}")
        elif one.weights_sha256 is None:
            lines.append(
                f"{one.path.name} has no SHA-256 of its weights, which may be an earlier {BEST}; {again}"
            )
    return lines


def _cautions(shared: SharedRun) -> list[str]:
    lines = []
    if shared.license is None:
        lines.append("the card names no license; say which with `license`, such as apache-2.0")
    if shared.picture is not None:
        lines.append(f"{shared.picture} shows photographs of the data set: mind their license")
    if shared.meta.encoders.caution:
        lines.append(shared.meta.encoders.caution)
    return lines
