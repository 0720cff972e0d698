"""Duplicate keys are refused: JSON parsers keep only the last value of a key, so the others are lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maris_fast.data_shards.plain_json import checked_json, parse_json
from maris_fast.errors import InputError
from maris_fast.evaluation.expression_file import read_scored
from tests.data.builders import Grefs, good_coco, good_photos, good_phrases, good_refcoco


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' appears twice"),
        ('[{"a": {"b": [{"c": 1, "c": 2}]}}]', "the key 'c' appears twice"),
        ('{"é": 1, "\\u00e9": 2}', "the key 'é' appears twice"),
        ("[" * 100_000, "nested too deep"),
        ("{", "it is not JSON: Expecting property name"),
        (b"\xff\xfe{", "it is not JSON: "),
    ],
)
def test_what_is_not_certain_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.timeout(60)  # quadratic time would be minutes
def test_a_duplicate_key_after_many_others_is_found_in_one_pass() -> None:
    text = json.dumps({f"k{number}": 0 for number in range(200_000)})
    with pytest.raises(ValueError, match="the key 'k199999' appears twice"):
        parse_json(f'{text[:-1]}, "k199999": 1}}')


def test_what_is_said_once_is_read() -> None:
    assert parse_json('[{"a": 1, "b": {"a": 2}}, {"a": 3}]') == [{"a": 1, "b": {"a": 2}}, {"a": 3}]
    assert checked_json(list[tuple[int, int]], b"[[1, 2]]") == [(1, 2)]


@pytest.mark.parametrize("ending", ["*.json", "*.jsonl"])
@pytest.mark.parametrize("good", [good_refcoco, Grefs, good_phrases, good_coco, good_photos])
def test_every_importer_refuses_a_duplicate_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: Callable[[Path], Any], ending: str
) -> None:
    made = good(tmp_path)
    made.write()
    write = made.write
    monkeypatch.setattr(made, "write", lambda: None)
    files = [file for file in tmp_path.rglob(ending) if file.read_text() != "[]"]
    assert files or ending != ("*.jsonl" if good is good_photos else "*.json")
    for file in files:
        write()
        text = file.read_text()
        key = re.search(r'\{"(\w+)":', text)
        assert key
        file.write_text(text.replace(key[0], f'{{"{key[1]}": null, "{key[1]}":', 1))
        with pytest.raises(
            InputError, match=rf"{re.escape(file.name)}(?s:.*)the key '{key[1]}' appears twice"
        ):
            made.imported()


def test_scored_expressions_say_each_thing_once(tmp_path: Path) -> None:
    line = '{"image_id": 1, "ref_id": 1, "sent_id": 1, "image_id": 2}'
    (tmp_path / "scored.jsonl").write_text(line)
    with pytest.raises(InputError, match=r"scored\.jsonl, line 1: the key 'image_id' appears twice"):
        read_scored(tmp_path / "scored.jsonl")
