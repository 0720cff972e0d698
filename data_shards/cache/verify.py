"""Check that every byte of a cache that a reader uses is what was written."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from crc32c import crc32c

from maris_fast.config import StoreAddress
from maris_fast.data_shards.cache.annotation import Annotation
from maris_fast.data_shards.cache.features import STORED
from maris_fast.data_shards.cache.index import ShardIndex, object_of
from maris_fast.data_shards.cache.manifest import (
    ANNOTATION,
    LEVELS,
    MANIFEST,
    MASKS,
    SCALES,
    WORDS,
    WRITING,
    CacheManifest,
    ShardEntry,
    SplitEntry,
    members_of,
    read_manifest,
)
from maris_fast.data_shards.cache.place import Files, files_of, opened, size_of
from maris_fast.data_shards.cache.reading_index import read_index
from maris_fast.data_shards.cache.shard_plan import npy_header
from maris_fast.errors import InputError, first_of
from maris_fast.system.new_files import PART
from maris_fast.system.progress import counting

_GLANCES = 16
"""Shards at a time: below an address each takes several round trips."""


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: the file, and in a shard the image's key and member if known."""

    file: str
    what: str
    key: str = ""
    member: str = ""

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.key, self.member) if part)
        return f"{self.file}{f' ({where})' if where else ''}: {self.what}"


@dataclass(frozen=True)
class VerifyReport:
    manifest: CacheManifest | None
    """None if it cannot be read; then nothing else was checked."""
    splits: tuple[str, ...]
    problems: tuple[Problem, ...]


def verify_cache(
    place: str | PathLike[str] | StoreAddress,
    splits: Sequence[str] | None = None,
    *,
    jobs: int = 4,
    progress: bool = True,
) -> VerifyReport:
    """Read a whole cache and compare it with its manifest and indexes.

    Checked are size and index hash of each shard; that tar and index name the same members in the same
    places; each member's CRC-32C, type and shape; that records, geometry and words agree with the index;
    counts; and that no shard is missing or superfluous.

    Args:
        place: the cache's folder or address. From an address, ``jobs`` shards at a time are copied into the
            temporary folder (``TMPDIR``), and files that do not belong to the cache are not looked for.
        splits: those to check; None for all.
        jobs: shards that are read at once.

    Raises:
        InputError: there is no cache, it is not complete, or it has no such split.
        StoreError: the server does not deliver its files.
        ConfigError: the temporary folder cannot hold copies of ``jobs`` shards.
    """
    files = files_of(place)
    try:
        manifest = read_manifest(place)
    except InputError as error:
        if not isinstance(files, Path) or not (files / MANIFEST).is_file():
            raise
        return VerifyReport(None, (), (Problem(MANIFEST, str(error)),))
    chosen = tuple(dict.fromkeys(splits or manifest.splits))
    entries = [manifest.of_split(split, place) for split in chosen]
    problems = list(_strays(files, manifest)) if splits is None and isinstance(files, Path) else []
    shards = [shard for entry in entries for shard in entry.shards]
    with (
        counting("verify", len(shards), unit="shards", shown=progress) as advance,
        ThreadPoolExecutor(jobs, thread_name_prefix="verify") as threads,
    ):
        try:
            found = {}
            for shard, checked in zip(
                shards,
                threads.map(lambda shard: _Shard(files, manifest, shard).check(), shards),
                strict=True,
            ):
                found[shard.name] = checked
                advance()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    for shard in shards:
        problems += found[shard.name].problems
    for split in chosen:
        entry = manifest.splits[split]
        problems += _across(split, entry, [found[shard.name] for shard in entry.shards])
    return VerifyReport(manifest, chosen, tuple(problems))


def glance(
    place: str | PathLike[str] | StoreAddress, manifest: CacheManifest, splits: Sequence[str]
) -> tuple[Problem, ...]:
    """Problems that ``verify_cache`` finds before opening a shard: missing files, wrong sizes or indexes."""
    files = files_of(place)
    entries = (shard for split in splits for shard in manifest.splits[split].shards)
    with ThreadPoolExecutor(_GLANCES, thread_name_prefix="glance") as threads:
        found = list(threads.map(lambda entry: _Shard(files, manifest, entry).glance(), entries))
    return tuple(problem for one in found for problem in one)


def _strays(folder: Path, manifest: CacheManifest) -> Iterator[Problem]:
    known = {
        name
        for entry in manifest.splits.values()
        for shard in entry.shards
        for name in (shard.name, shard.index_name)
    }
    for path in sorted(folder.iterdir()):
        shardlike = path.name.endswith((".tar", ".index.npz", PART)) or path.name == WRITING
        if shardlike and path.name not in known:
            yield Problem(path.name, "does not belong to this cache; delete it")


@dataclass(frozen=True)
class _Checked:
    problems: list[Problem]
    image_ids: list[int]
    truncated: int
    targets: int


def _across(split: str, entry: SplitEntry, shards: list[_Checked]) -> Iterator[Problem]:
    """Problems that only show across shards."""
    ids = [image_id for shard in shards for image_id in shard.image_ids]
    for image_id in sorted(
        {image_id for image_id in ids if ids.count(image_id) > 1} if _repeats(ids) else ()
    ):
        yield Problem(MANIFEST, f"image {image_id} appears more than once in {split}", f"{image_id:012d}")
    if any(shard.problems for shard in shards):
        return
    sums = {
        "images": (entry.images, len(ids)),
        "targets": (entry.targets, sum(shard.targets for shard in shards)),
        "expressions": (entry.expressions, sum(shard.expressions for shard in entry.shards)),
        "truncated_expressions": (entry.truncated_expressions, sum(shard.truncated for shard in shards)),
        "bytes": (entry.bytes, sum(shard.bytes for shard in entry.shards)),
    }
    for name, (said, counted) in sums.items():
        if said != counted:
            yield Problem(MANIFEST, f"{split} has {counted} {name}, the manifest says {said}")


def _repeats(ids: list[int]) -> bool:
    return len(set(ids)) < len(ids)


class _Shard:
    """One shard with its index, while it is checked."""

    def __init__(self, files: Files, manifest: CacheManifest, entry: ShardEntry) -> None:
        self._files = files
        self._manifest = manifest
        self._entry = entry
        self._members = members_of(manifest.feature_dtype)
        self._problems: list[Problem] = []
        self._truncated = 0

    def check(self) -> _Checked:
        ids: list[int] = []
        targets = 0
        try:
            index = self._index()
            if index is not None:
                ids, targets = index.image_id.tolist(), int(index.targets.sum())
                self._check_tar(index)
        except OSError as error:
            self._say(f"cannot be read: {error}")
        return _Checked(self._problems, ids, self._truncated, targets)

    def glance(self) -> list[Problem]:
        try:
            self._index()
        except OSError as error:
            self._say(f"cannot be read: {error}")
        return self._problems

    def _say(self, what: str, key: str = "", member: str = "", *, file: str | None = None) -> None:
        self._problems.append(Problem(file or self._entry.name, what, key, member))

    def _index(self) -> ShardIndex | None:
        sizes = {}
        for name in (self._entry.name, self._entry.index_name):
            try:
                sizes[name] = size_of(self._files, name)
            except FileNotFoundError:
                self._say("is missing; copy it there, or run the `maris-fast cache` command again", file=name)
        if self._problems:
            return None
        size = sizes[self._entry.name]
        if size != self._entry.bytes:
            self._say(f"has {size} bytes, the manifest says {self._entry.bytes}")
        try:
            return read_index(self._files, self._entry, self._manifest)
        except InputError as error:
            self._say(str(error), file=self._entry.index_name)
            return None

    def _check_tar(self, index: ShardIndex) -> None:
        with opened(self._files, self._entry.name, self._entry.bytes) as file:
            members = list(_tar_members(file))
            expected = [
                f"{image_id:012d}.{name}" for image_id in index.image_id.tolist() for name in self._members
            ]
            for i, name in enumerate(expected):
                key, _, member = name.partition(".")
                if i >= len(members):
                    self._say("is not in the tar, which ends or is damaged before it", key, member)
                    return
                if members[i][0] != name:
                    self._say(f"the tar has {members[i][0]} in its place", key, member)
                    return
                image, m = divmod(i, len(self._members))
                self._check_member(file, index, image, m, members[i])
            if len(members) > len(expected):
                self._say(f"holds {members[len(expected)][0]}, which is not in its index")

    def _check_member(
        self, file: BinaryIO, index: ShardIndex, image: int, m: int, found: tuple[str, int, int]
    ) -> None:
        _, start, length = found
        key, name = f"{index.image_id[image]:012d}", self._members[m]
        offset, size = int(index.offset[image, m]), int(index.size[image, m])
        if not start <= offset or offset + size != start + length:
            self._say("is elsewhere in the tar than its index says", key, name)
            return
        file.seek(start)
        content = file.read(length)
        payload = memoryview(content)[len(content) - size :]
        if len(content) != length or crc32c(payload) != index.crc[image, m]:
            self._say("is not what was written (CRC-32C)", key, name)
            return
        wrong = (
            self._wrong_annotation(content, index, image)
            if name == ANNOTATION
            else self._wrong_array(content, size, *self._array(name, index, image))
        )
        if wrong:
            self._say(wrong, key, name)

    def _array(self, name: str, index: ShardIndex, image: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Type and shape that a member must have."""
        manifest = self._manifest
        geometry = index.geometry_of(image)
        height, width = geometry.mask_size
        if name in LEVELS:
            return np.dtype(STORED[manifest.feature_dtype].bits), (*geometry.grid, manifest.channels)
        if name == SCALES:
            return np.dtype(np.float32), (len(LEVELS), manifest.channels)
        if name == MASKS:
            return np.dtype(np.uint8), (int(index.targets[image]), height, -(-width // 8))
        assert name == WORDS
        rows = slice(*index.expression_offset[image : image + 2])
        return np.dtype(np.float16), (int(index.words[rows].sum()), manifest.text_channels)

    def _wrong_array(
        self, content: bytes, payload: int, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> str | None:
        head = npy_header(dtype, shape)
        if content.startswith(head) and len(head) + payload == len(content):
            return None
        # Only for the message: numpy evaluates a header as an expression, which two threads must not do at
        # once in Python up to 3.11.7 ("AST constructor recursion depth mismatch").
        stream = io.BytesIO(content)
        try:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                return f"has a numpy header of version {version}"
            found = np.lib.format.read_array_header_1_0(stream)
        except Exception as error:
            return f"has a damaged numpy header: {error}"
        if found != (shape, False, dtype) or stream.tell() + payload != len(content):
            return f"is {found[2]} {found[0]}, its index needs {dtype} {shape}"
        return None

    def _wrong_annotation(self, content: bytes, index: ShardIndex, image: int) -> str | None:
        try:
            annotation = Annotation.model_validate_json(content)
        except ValueError as error:
            return f"cannot be read: {first_of(error)}"
        record = annotation.record
        self._truncated += sum(annotation.truncated)
        rows = slice(*index.expression_offset[image : image + 2])
        words = index.words[rows].tolist()
        agree = {
            "image_id": record.image_id == index.image_id[image],
            "geometry": annotation.geometry == index.geometry_of(image),
            "targets": len(record.targets) == index.targets[image],
            "expressions": [each.target for each in record.expressions] == index.target[rows].tolist(),
            "objects": [object_of(record, each.target) for each in record.expressions]
            == index.object[rows].tolist(),
            "words": [len(each) for each in annotation.tokens] == words
            and annotation.word_offsets == (0, *np.cumsum(words).tolist()),
            "random_encoders": annotation.random_encoders == tuple(self._manifest.encoders.random),
        }
        wrong = [name for name, same in agree.items() if not same]
        return f"disagrees with the index in {', '.join(wrong)}" if wrong else None


def _tar_members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the members that any tar reader sees, up to the first damaged header."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                yield member.name, member.offset_data, member.size if member.isreg() else -1
    except (tarfile.TarError, ValueError, EOFError):
        return
