"""Any data set imports the same from every form as from RefCOCO's own layout."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.builders import HEIGHT, WIDTH, TinyDataset
from tests.data.import_subjects import records
from tests.data.other_forms import Family, small_family
from tests.data.test_import_annotation_tools import BY_CATEGORY, by_split_and_sentence, sentence
from tests.data.test_import_damage import FORMS

SPLITS = {7: "train", 3: "val"}
IDS = st.integers(1, 2**31)


@st.composite
def polygons(draw: st.DrawFn) -> list[list[float]]:
    """Rectangles with one corner cut off, which may overlap."""
    drawn = []
    for _ in range(draw(st.integers(1, 3))):
        left, top = draw(st.integers(0, WIDTH - 12)), draw(st.integers(0, HEIGHT - 12))
        right, bottom = draw(st.integers(left + 4, WIDTH)), draw(st.integers(top + 4, HEIGHT))
        drawn.append([left, top, right, top, right, bottom - 2.5, right - 3.25, bottom, left, bottom])
    return drawn


@st.composite
def refs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """At least one ref per image; all sentences are different."""
    images = [*SPLITS, *draw(st.lists(st.sampled_from([*SPLITS]), max_size=3))]
    ann_ids = draw(st.lists(IDS, min_size=len(images), max_size=len(images), unique=True))
    ref_ids = draw(st.lists(st.integers(1, 10**6), min_size=len(images), max_size=len(images), unique=True))
    return [
        TinyDataset.ref(ref_id, ann_id, image, SPLITS[image], *(f"thing {at} {n}" for n in range(1 + at % 3)))
        for at, (ref_id, ann_id, image) in enumerate(zip(ref_ids, ann_ids, images, strict=True))
    ]


def family(folder: Path, rows: list[dict[str, Any]], masks: list[list[list[float]]]) -> Family:
    made = small_family(folder)
    made.refs[:] = rows
    made.instances["annotations"] = [
        {
            "id": ref["ann_id"],
            "image_id": ref["image_id"],
            "category_id": 1,
            "segmentation": mask,
            "bbox": [1, 1, 2, 2],
            "area": 4,
            "iscrowd": 0,
        }
        for ref, mask in zip(rows, masks, strict=True)
    ]
    made.annotations = {row["id"]: row for row in made.instances["annotations"]}
    made.write()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_data_set_has_the_same_masks(form: str, data: st.DataObject) -> None:
    rows = data.draw(refs())
    masks = data.draw(st.lists(polygons(), min_size=len(rows), max_size=len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        made = family(Path(folder), rows, masks)
        dataset, options = FORMS[form](made)
        made.imported(dataset, **options)
        own = records(made.out / "own") if (made.out / "own").exists() else made.own()
        expected = by_split_and_sentence(own)
        if form in BY_CATEGORY:
            expected = {(ref["split"], sentence(ref)): expected[ref["split"], sentence(ref)] for ref in rows}
        assert by_split_and_sentence(records(made.out / "other")) == expected
