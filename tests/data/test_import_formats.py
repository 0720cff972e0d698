"""Which importer reads the data set that a user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.errors import ConfigError, InputError
from tests.data.test_coco_sentences import Instances
from tests.data.test_jsonl import Photos


def test_the_format_is_known_by_what_is_there(tmp_path: Path) -> None:
    photos, coco = Photos(tmp_path / "own"), Instances(tmp_path / "coco")
    photos.write()
    assert import_dataset(photos.root, "people.jsonl", photos.out).info.name == "people"
    coco.write()
    other = coco.out.with_name("other")
    assert import_dataset(coco.root, "annotations/said.json", other).info.name == "said"
    with pytest.raises(ConfigError, match=r"`split_by` unc: people\.jsonl has only one division into splits"):
        import_dataset(photos.root, "people.jsonl", photos.out.with_name("x"), split_by="unc")
    with pytest.raises(
        InputError,
        match=r"(?s)kitchen has none of the known forms \(docs/datasets\.md\):\n  refs.*  NAME\.jsonl",
    ):
        import_dataset(photos.root, "kitchen", photos.out.with_name("x"))
    (photos.root / "rooms.json").write_text('[{"picture": "1.png", "said": "mug"}]')
    with pytest.raises(InputError, match=r"(?s)rooms\.json has none of the known forms.*  NAME\.jsonl"):
        import_dataset(photos.root, "rooms.json", photos.out.with_name("x"))
    with pytest.raises(InputError, match=r"no folder .*cellar; data sets below .*: none"):
        import_dataset(photos.root, "cellar", photos.out.with_name("x"))
    with pytest.raises(InputError, match=r"no file .*attic\.jsonl"):
        import_dataset(photos.root, "attic.jsonl", photos.out.with_name("x"))


def test_split_by_is_asked_for_where_there_is_a_choice(refmini: Path, tmp_path: Path) -> None:
    assert import_dataset(refmini, "refcoco", tmp_path / "only").info.split_by == "unc"
    (tmp_path / "data" / "refcocog").mkdir(parents=True)
    for split_by in ("umd", "google"):
        (tmp_path / "data" / "refcocog" / f"refs({split_by}).p").touch()
    with pytest.raises(
        InputError, match=r"several divisions into splits; choose one of `split_by` google, umd"
    ):
        import_dataset(tmp_path / "data", "refcocog", tmp_path / "out")
