"""Caches and imported data sets crafted by an attacker, with all checksums valid."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maris_fast.config import ReadingSettings
from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.data_shards.cache.annotation import Annotation
from maris_fast.data_shards.cache.index import ShardIndex, most_bytes
from maris_fast.data_shards.cache.manifest import read_writing
from maris_fast.data_shards.cache.verify import verify_cache
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.data_shards.stream import CacheReader
from maris_fast.encoders import TokenisedText
from maris_fast.errors import CheckpointError, InputError
from maris_fast.geometry import ImageGeometry
from maris_fast.model.segmentation import Segmentation
from maris_fast.train.ranks import Ranks
from maris_fast.train.split_scores import score_split
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.encoders.provenances import provenance


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrusted")
    dataset = write_dataset(folder / "dataset", {"train": default_records()})
    write_cache(dataset, folder / "cache", tiny_settings(), progress=False)
    return folder


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine / "cache", tmp_path / "cache"))


def reseal(cache: Path, **changes: Any) -> None:
    """Change the first shard's entry in the manifest and update the manifest's checksum."""
    values = json.loads((cache / "manifest.json").read_text())
    values["splits"]["train"]["shards"][0].update(changes)
    head = read_manifest(cache).model_dump_json(exclude={"sha256", "splits"})
    splits = json.dumps(values["splits"], separators=(",", ":"))
    values["sha256"] = hashlib.sha256(f'{head[:-1]},"splits":{splits}}}'.encode()).hexdigest()
    (cache / "manifest.json").write_text(json.dumps(values))


def index_of(cache: Path) -> dict[str, np.ndarray]:
    with np.load(cache / "train-000000.index.npz") as columns:
        return dict(columns)


def put_index(cache: Path, content: bytes) -> None:
    (cache / "train-000000.index.npz").write_bytes(content)
    reseal(cache, index_sha256=hashlib.sha256(content).hexdigest())


def as_npz(columns: dict[str, np.ndarray], *, packed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **columns)
    return stream.getvalue()


def refusal(cache: Path) -> str:
    with pytest.raises(InputError) as refused:
        list(CacheReader(cache, "train").evaluation_batches())
    return str(refused.value)


def test_the_hand_made_manifest_is_as_good_as_the_programs(cache: Path) -> None:
    put_index(cache, as_npz(index_of(cache)))
    assert read_manifest(cache).sha256
    with CacheReader(cache, "train") as reader:
        assert list(reader.evaluation_batches())


LARGE = 2**31 - 1
WRONG_NUMBERS = [
    ("target", 0, -1, "an expression means a target that the image lacks"),
    ("target", 0, 99, "an expression means a target that the image lacks"),
    ("words", 0, 0, "an expression has no word"),
    ("words", 0, -5, "an expression has no word"),
    ("words", 0, LARGE, "sizes are not those"),
    ("targets", 0, 0, "a target that the image lacks"),
    ("targets", 0, LARGE, "sizes are not those"),
    ("image_id", 0, -1, "sizes are not those"),
    ("geometry", 0, -64, "no image has such a size"),
    ("geometry", 1, 0, "no image has such a size"),
    ("geometry", 0, LARGE, "no image has such a size"),
    ("geometry", 2, -1, "no grid is like its"),
    ("geometry", 3, LARGE, "no grid is like its"),
    ("geometry", 4, 1, "no grid is like its"),
    ("geometry", 5, LARGE, "no grid is like its"),
    ("offset", 0, -1, "do not lie in the shard"),
    ("offset", -1, 2**63 - 1, "do not lie in the shard"),
    ("size", 0, -1, "do not lie in the shard"),
    ("size", 2, 2**63 - 1, "do not lie in the shard"),
    ("expression_offset", 0, 1, "do not follow its images in order"),
    ("expression_offset", 1, -1, "do not follow its images in order"),
    ("expression_offset", 1, 0, "do not follow its images in order"),
    ("expression_offset", -1, LARGE, "do not follow its images in order"),
]


@pytest.mark.parametrize(("column", "place", "value", "message"), WRONG_NUMBERS)
def test_a_number_of_an_index_that_cannot_be_is_found_when_it_is_read(
    cache: Path, column: str, place: int, value: int, message: str
) -> None:
    columns = index_of(cache)
    columns[column] = columns[column].copy()
    columns[column].flat[place] = value
    put_index(cache, as_npz(columns))
    told = refusal(cache)
    assert message in told
    assert "train-000000.index.npz" in told
    assert verify_cache(cache, progress=False).problems


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("words", lambda one: one.astype(np.float32), "words is not a plain array of integers"),
        ("words", lambda one: one.astype(np.int64), "words is int64"),
        ("target", lambda one: one[:-1], r"target is int32 \(\d+,\), expected int32"),
        ("geometry", lambda one: one[:, :5], r"geometry is int32 \(5, 5\), expected int32 \(5, 6\)"),
        ("size", lambda one: one[:, :3], r"size is int64 \(5, 3\)"),
        ("crc", lambda one: one.astype(object), "crc is not a plain array"),
        ("expression_offset", lambda one: one[:1], "expression_offset is int64"),
        ("image_id", lambda one: one[:, None], "image_id is int64"),
    ],
)
def test_a_column_of_another_type_or_shape_is_refused(
    cache: Path, column: str, change: Any, message: str
) -> None:
    columns = index_of(cache)
    put_index(cache, as_npz({**columns, column: change(columns[column])}))
    with pytest.raises(InputError, match=message):
        CacheReader(cache, "train")


def test_an_index_takes_at_most_what_is_allowed() -> None:
    for rows in ((1, 7, 1), (5, 7, 9), (10_000, 7, 70_000)):
        size = len(ShardIndex.zeros(*rows).to_bytes())
        assert size <= most_bytes(*rows) <= size + 10 * 1024


READ = """
import resource, sys
from pathlib import Path
from maris_fast.data_shards.cache.verify import verify_cache
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.data_shards.stream import CacheReader
from maris_fast.errors import InputError
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
CacheReader(Path(sys.argv[1]), "train")
for path in map(Path, sys.argv[2:]):
    before = peak()
    try: ImportedDataset(path) if path.name == "dataset" else CacheReader(path, "train")
    except InputError as error: print(error)
    if path.name != "dataset": verify_cache(path, progress=False)
    print(peak() - before)
"""


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.process
def test_files_larger_than_expected_are_refused(pristine: Path, tmp_path: Path) -> None:
    caches = [Path(shutil.copytree(pristine / "cache", tmp_path / name)) for name in "abc"]
    zeros, rows, head = caches
    sparse(zeros / "train-000000.index.npz", 6 * 10**9)
    reseal(rows, images=10**9, expressions=10**10)
    sparse(head / "manifest.json", 6 * 10**9)
    (tmp_path / "dataset").mkdir()
    sparse(tmp_path / "dataset" / "dataset.json", 6 * 10**9)
    paths = [*caches, tmp_path / "dataset"]
    done = subprocess.run(
        [sys.executable, "-c", READ, str(pristine / "cache"), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    told, kilobytes = done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]
    wanted = ["is not the one that the manifest", "cannot hold 1,000,000,000 images"]
    wanted += ["manifest.json has more than", "dataset.json has more than"]
    for line, message in zip(told, wanted, strict=True):
        assert message in line
    assert all(int(one) < 100_000 for one in kilobytes), kilobytes


class Overflown(torch.nn.Module):
    """A model whose output is not finite."""

    def forward(
        self, features: tuple[torch.Tensor, ...], words: torch.Tensor, *_: torch.Tensor
    ) -> Segmentation:
        _, h, w, _ = features[0].shape
        return Segmentation(torch.full((len(words), 4 * h, 4 * w), torch.nan), None)


def test_an_output_that_is_not_finite_gives_no_score(cache: Path) -> None:
    with (
        CacheReader(cache, "train") as reader,
        pytest.raises(CheckpointError, match="the model's output is not finite"),
    ):
        score_split(Overflown(), reader.evaluation_batches(), Ranks(torch.device("cpu")))


def test_a_packed_index_is_not_unpacked(cache: Path) -> None:
    """4 MB of words in 4 KB; 6 GB would fit in 6 MB."""
    words = np.zeros(10**6, np.int32)
    content = as_npz({**index_of(cache), "words": words}, packed=True)
    put_index(cache, content)
    assert len(content) < most_bytes(5, 7, 12)
    assert "is packed" in refusal(cache)


OUTSIDE = ["../outside/train-000000.tar", "..", "", "a/b.tar", "/etc/passwd", "\0", "..\\x.tar"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_shard_is_read_in_the_caches_folder_alone(cache: Path, tmp_path: Path, name: str) -> None:
    """A complete copy of the cache exists where the first name points."""
    shutil.copytree(cache, tmp_path / "outside")
    reseal(cache, name=name)
    staged = ReadingSettings(shards=f"pipe:cat {cache}/{{name}}", staging=tmp_path / "staging")
    for settings in (ReadingSettings(), staged):
        with pytest.raises(InputError, match=r"manifest\.json .*not a plain file name; nothing outside"):
            CacheReader(cache, "train", settings)
    assert "not a plain file name" in str(verify_cache(cache, progress=False).problems[0])


def test_an_absolute_name_of_a_whole_cache_is_not_followed(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "outside")
    reseal(cache, name=str(tmp_path / "outside" / "train-000000.tar"))
    assert "not a plain file name" in refusal(cache)


@pytest.mark.parametrize("split", ["../outside", "/etc/passwd", ".."])
def test_a_split_is_a_file_in_the_data_sets_folder(pristine: Path, tmp_path: Path, split: str) -> None:
    dataset = Path(shutil.copytree(pristine / "dataset", tmp_path / "dataset"))
    shutil.copy(dataset / "train.jsonl", tmp_path / "outside.jsonl")
    head = json.loads((dataset / "dataset.json").read_text())
    head["splits"] = {split: head["splits"]["train"]}
    (dataset / "dataset.json").write_text(json.dumps(head))
    with pytest.raises(InputError, match=r"dataset\.json .*not a plain file name"):
        ImportedDataset(dataset)


def test_a_plan_of_shards_writes_in_the_caches_folder_alone(cache: Path) -> None:
    manifest = json.loads((cache / "manifest.json").read_text())
    head = {name: value for name, value in manifest.items() if name not in ("splits", "sha256")}
    shard = {"split": "../outside", "number": 0, "first_byte": 0, "images": 5, "expressions": 9, "targets": 9}
    plan = [{**shard, "truncated_expressions": 0, "bytes": 10_240, "index_bytes": 100}]
    (cache / "writing.json").write_text(json.dumps({"head": head, "plan": plan}))
    with pytest.raises(InputError, match=r"writing\.json .*not a plain file name"):
        read_writing(cache)


def test_a_damaged_record_is_named_by_its_place(pristine: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(pristine / "dataset", tmp_path / "dataset"))
    lines = (dataset / "train.jsonl").read_bytes().splitlines(keepends=True)
    (dataset / "train.jsonl").write_bytes(lines[0] + lines[1].replace(b'"width":', b'"widht":') + lines[2])
    with pytest.raises(InputError, match=rf"train\.jsonl, byte {len(lines[0])}: no record as .*width"):
        list(ImportedDataset(dataset).records("train"))


def test_a_mask_has_the_size_of_its_image(pristine: Path) -> None:
    """Otherwise decoding it would allocate as much memory as it states."""
    record = default_records()[0]
    geometry = ImageGeometry(record.height, record.width, 64, 96, 4, 6)
    tokenised = [TokenisedText((), ("a",), False)] * len(record.expressions)
    content = json.loads(Annotation.of(record, geometry, tokenised, provenance()).to_bytes())

    index = ShardIndex.zeros(1, 7, len(tokenised))
    index.geometry[0] = astuple(geometry)
    index.expression_offset[:] = 0, len(tokenised)

    def read() -> Annotation:
        return Annotation.read(json.dumps(content).encode(), index, 0, "shard")

    assert read().record == record
    index.expression_offset[1] += 1
    with pytest.raises(InputError, match=r"shard: its JSON .*1 expressions, the index says 2"):
        read()
    index.expression_offset[1] -= 1
    huge = 10**9
    content["record"]["targets"][0]["mask"]["size"] = [huge, huge]
    with pytest.raises(InputError, match=r"shard: its JSON .*mask of ref \d+ is \(1000000000, 1000000000\)"):
        read()
    content["record"]["height"] = content["record"]["width"] = huge
    for target in content["record"]["targets"]:
        target["mask"]["size"] = [huge, huge]
    with pytest.raises(InputError, match=r"shard: its JSON .*of an image \(1000000000, 1000000000\)"):
        read()
    content["geometry"] |= {"height": huge, "width": huge}
    with pytest.raises(InputError, match=r"shard: its JSON .*height=1000000000.* the index says .*height=64"):
        read()


def test_a_zip_that_is_not_an_index_is_refused(cache: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("image_id.npy", b"\x93NUMPY\x01\x00\x10\x00not a header")
    put_index(cache, stream.getvalue())
    assert "is not a shard index" in refusal(cache)


def test_a_type_that_numpy_does_not_know_is_refused(cache: Path) -> None:
    content = as_npz(index_of(cache))
    assert content.count(b"'<u4'") == 1
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    for digit in b"035679":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            for name, member in members.items():
                file.writestr(name, member.replace(b"'<u4'", b"'<u%c'" % digit))
        put_index(cache, stream.getvalue())
        assert "crc is not a plain array of integers" in refusal(cache)


def test_an_encrypted_column_is_refused(cache: Path) -> None:
    content = bytearray(as_npz(index_of(cache)))
    directory = content.index(b"PK\1\2")
    for flags in (content.index(b"PK\3\4") + 6, directory + 8):  # of its header and of its directory entry
        content[flags] |= 1
    put_index(cache, bytes(content))
    told = refusal(cache)
    assert "is not a shard index" in told
    assert "encrypted" in told
    assert verify_cache(cache, progress=False).problems
