"""The paper's numbers as data, compared with the paper's own text if that is available."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from maris_fast.ablation import paper
from maris_fast.config import TrainingSettings, load_settings
from tests.conftest import TEST_DATA

QUICK = paper.FRAGMENTS.parent / "ablate_quick.yaml"


@pytest.fixture(scope="module")
def text() -> str:
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    file = Path(os.environ.get(TEST_DATA, beside)).parent / "paper" / "maris.txt"
    if not file.is_file():
        pytest.skip(f"the paper's text is not at {file}")
    return file.read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of tab-separated lines, without the marks of second-best values."""
    lines = (re.sub(r"</?u>", "", line).strip().split("\t") for line in text.splitlines() if "\t" in line)
    return [[cell.strip() for cell in line] for line in lines]


def numbers(cells: list[str]) -> tuple[float | None, ...]:
    return tuple(None if cell in {"-", "_", "–", "—"} else float(cell) for cell in cells)


def test_every_number_of_table_1_is_the_papers(text: str) -> None:
    begin, end = text.index("Methods\tRefCOCO"), text.index("Table 1:")
    _, _, *found = rows(text[begin:end])
    assert {name: numbers(cells) for name, *cells in found} == dict(paper.TABLE_1)
    assert list(paper.TABLE_1) == [name for name, *_ in found]
    assert len(paper.TABLE_1_COLUMNS) == len(found[0]) - 1


@pytest.mark.parametrize("table", paper.ABLATION_TABLES)
def test_every_number_of_tables_2_to_5_is_the_papers(text: str, table: int) -> None:
    part = text[text.index(f"Table {table}:") : text.index(f"Table {table + 1}:")]
    found = [line for line in rows(part) if line[0].startswith("#")]
    told = [
        (int(number.removeprefix("#")), "Ours" if "Ours" in title else title, numbers(cells))
        for number, title, *cells in found
    ]
    variants = [paper.VARIANTS[name] for name in paper.ABLATION_TABLES[table]]
    assert told == [(each.number, each.title, each.scores) for each in variants]


def test_every_number_of_table_6_is_the_papers(text: str) -> None:
    _, head, *found = rows(text[text.index("Table 6:") : text.index("Conclusion")])
    assert tuple(head[1:]) == paper.TABLE_6_METHODS
    assert {name: numbers(cells) for name, *cells in found} == dict(paper.TABLE_6)


def test_the_tables_agree_with_each_other() -> None:
    ours = paper.VARIANTS[paper.OURS].scores
    assert paper.TABLE_1[paper.MARIS_ROW][0] == ours[3]
    assert paper.TABLE_1[paper.MARIS_PR90_ROW][0] == ours[2]
    assert paper.TABLE_1[paper.SAM_ROW][0] == paper.VARIANTS[paper.SAM].scores[3]
    numbered = [each.number for each in paper.VARIANTS.values() if each.number is not None]
    assert numbered == list(range(1, 12))
    assert {name for names in paper.ABLATION_TABLES.values() for name in names} == {
        each.name for each in paper.VARIANTS.values() if each.number is not None
    }


def test_every_fragment_is_a_row_and_changes_what_it_is_named_for() -> None:
    found = {file.stem for file in paper.FRAGMENTS.glob("*.yaml")}
    assert found == set(paper.VARIANTS)
    models = {
        name: load_settings(TrainingSettings, [QUICK, variant.fragment]).model
        for name, variant in paper.VARIANTS.items()
    }
    assert models[paper.OURS] == load_settings(TrainingSettings, QUICK).model
    assert len({model.model_dump_json() for model in models.values()}) == len(models)
    for variant in paper.VARIANTS.values():
        assert all(key.startswith("model.") for key in variant.settings)
