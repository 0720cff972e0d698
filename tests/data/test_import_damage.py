"""Any value anywhere in the files of any form is imported, or one error says what is wrong."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maris_fast.data_shards.records import ImportedDataset
from maris_fast.errors import InputError
from tests.data import test_import_annotation_tools as tools
from tests.data import test_import_captions as captions
from tests.data import test_import_row_forms as rows
from tests.data.other_forms import Family, small_family

Built = tuple[str, dict[str, Any]]


def captioned(made: Family) -> Built:
    for split in made.splits:
        captions.write(made, split, captions.converted(made, split))
    return "instances_refcoco_{split}.json", {}


def of_rows(name: str) -> Callable[[Family], Built]:
    return lambda made: (rows.FORMS[name](made), {})


FORMS: dict[str, Callable[[Family], Built]] = {
    "captions": captioned,
    **{name: of_rows(name) for name in rows.FORMS},
    **tools.TOOLS,
}
TEXTS = ["", "..", "/", "../x.jpg", "val", "train", "COCO_train2014_000000000007.jpg", "\ud800", "a\0b"]
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.sampled_from(TEXTS),
        st.text(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["id", "size", "counts", "file", "image"]), inner, max_size=3),
    ),
    max_leaves=5,
)


def places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values."""
    keys = range(len(content)) if isinstance(content, list) else content if isinstance(content, dict) else ()
    return [at, *(place for key in keys for place in places(content[key], (*at, key)))]


def damaged(content: Any, at: tuple[Any, ...], value: Any, how: str) -> Any:
    if not at:
        return value
    content = deepcopy(content)
    inner = content
    for key in at[:-1]:
        inner = inner[key]
    if how == "replace":
        inner[at[-1]] = value
    elif how == "remove":
        del inner[at[-1]]
    else:
        inner[at[-1]] = [inner[at[-1]], inner[at[-1]]]
    return content


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere_is_imported_or_reported(form: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = small_family(Path(folder))
        before = {*made.root.rglob("*.json")}
        dataset, options = FORMS[form](made)
        file = data.draw(st.sampled_from(sorted({*made.root.rglob("*.json")} - before)))
        text = file.read_text()
        how = data.draw(st.sampled_from(["cut", "replace", "remove", "twice"]))
        if how == "cut":
            file.write_text(text[: data.draw(st.integers(0, len(text)))])
        else:
            content = json.loads(text)
            at = data.draw(st.sampled_from(places(content)))
            file.write_text(json.dumps(damaged(content, at, data.draw(VALUES), how)))
        shutil.rmtree(made.out / "own", ignore_errors=True)
        try:
            info = made.imported(dataset, **options, leave_out_bad=data.draw(st.booleans()))
        except InputError as error:
            str(error).encode()
            assert not list(made.out.iterdir())
            return
        for split in info.splits:
            list(ImportedDataset(made.out / "other").records(split))
