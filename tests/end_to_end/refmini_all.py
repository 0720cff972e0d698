"""All of refmini as one training split: two data sets' refs, sentences and annotations in one layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

SOURCES = (("refcoco", "unc"), ("refcocog", "google"))
SENTENCES = 76


def write_refmini_all(refmini: Path, root: Path) -> None:
    """Write ``root/refmini/refs(all).p`` and ``instances.json``; link the images. Ids differ by source."""
    refs, images, annotations, categories = [], {}, {}, {}
    for number, (dataset, split_by) in enumerate(SOURCES):
        instances = json.loads((refmini / dataset / "instances.json").read_text())
        images |= {image["id"]: image for image in instances["images"]}
        annotations |= {annotation["id"]: annotation for annotation in instances["annotations"]}
        categories |= {category["id"]: category for category in instances["categories"]}
        for ref in json.loads((refmini / dataset / f"refs({split_by}).p.json").read_text()):
            ref["split"] = "train"
            ref["ref_id"] = 2 * ref["ref_id"] + number
            for sentence in ref["sentences"]:
                sentence["sent_id"] = 2 * sentence["sent_id"] + number
            ref["sent_ids"] = [sentence["sent_id"] for sentence in ref["sentences"]]
            refs.append(ref)
    folder = root / "refmini"
    folder.mkdir(parents=True)
    (folder / "refs(all).p").write_bytes(pickle.dumps(refs, protocol=2))
    merged = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(
        json.dumps({name: list(rows.values()) for name, rows in merged.items()})
    )
    (root / "images").symlink_to(refmini / "images")
