"""Where a cache is written: a folder, or an address to which each shard is uploaded once complete.

Both have the same life cycle: ``writing.json`` says what is being written, shards get their name when they
are complete, each after its index, and the manifest is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from maris_fast.config import FeatureDtype, StoreAddress
from maris_fast.data_shards.cache.group import EncodedGroup
from maris_fast.data_shards.cache.manifest import (
    MANIFEST,
    WRITING,
    CacheHead,
    CacheManifest,
    ShardPlan,
    SplitEntry,
    Writing,
    read_manifest,
    read_writing,
)
from maris_fast.data_shards.cache.place import read_start
from maris_fast.data_shards.cache.shard_writer import is_written, split_entry, write_shard
from maris_fast.data_shards.importers.left_out import LISTING, LeftOutRow, write_listing
from maris_fast.errors import ConfigError, InputError
from maris_fast.system.files import flush, sha256_of, writing
from maris_fast.system.locks import is_lock
from maris_fast.system.new_files import PART, new_file, remove_left_parts
from maris_fast.system.new_folder import require_no_file_at
from maris_fast.system.object_store import ObjectStore

WRITABLE = ("s3", "gs")
PATIENCE = 240.0
"""Seconds; a part of an upload, 5 MB, must complete in a quarter of it."""


class Destination(Protocol):
    """Methods raise InputError if foreign files are in the way, and OSError or StoreError on failure.

    Attributes:
        folder: local folder in which shards are written.
    """

    folder: Path

    def require_ours(self) -> None:
        """Raise InputError if it holds anything other than a cache."""

    def manifest(self) -> CacheManifest | None:
        """The manifest of a complete cache; None if it is not complete."""

    def writing(self) -> Writing | None:
        """What another process has announced, if any."""

    def announce(self, choose: Callable[[Writing | None], Writing]) -> None:
        """Announce what ``choose`` returns, given what others have announced."""

    def list_left_out(self, rows: Sequence[LeftOutRow]) -> None:
        """Write the listing of what was left out."""

    def whole(self) -> Callable[[ShardPlan], bool]:
        """A predicate that says which shards are complete now."""

    def write(self, plan: ShardPlan, groups: Iterable[EncodedGroup], head: CacheHead, *, ahead: int) -> None:
        """Write a shard, as ``write_shard`` does."""

    def split_entry(self, shards: Sequence[ShardPlan]) -> SplitEntry:
        """The manifest's entry for a split whose shards are complete."""

    def finish(self, manifest: CacheManifest) -> None:
        """Write the manifest, and remove what a complete cache does not need."""

    def bytes_needed(self, missing: Sequence[ShardPlan], processes: int) -> int:
        """Bytes needed on the disk of ``folder`` by this many processes of this machine."""

    def too_small(self, feature_dtype: FeatureDtype) -> str:
        """Advice for a disk that is too small."""


class FolderDestination:
    """A folder as the destination."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()  # a link to an empty folder is fine

    def __str__(self) -> str:
        return str(self.folder)

    def require_ours(self) -> None:
        require_no_file_at(self.folder)
        if self.folder.exists():
            _require_ours(self, {path.name for path in self.folder.iterdir() if not is_lock(path)})

    def manifest(self) -> CacheManifest | None:
        return read_manifest(self.folder) if (self.folder / MANIFEST).is_file() else None

    def writing(self) -> Writing | None:
        try:
            return read_writing(self.folder)
        except FileNotFoundError:
            return None

    def announce(self, choose: Callable[[Writing | None], Writing]) -> None:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / MANIFEST).is_file():
            return
        with new_file(self.folder / WRITING, wait=True) as file:
            file.write(_json(choose(self.writing())))

    def list_left_out(self, rows: Sequence[LeftOutRow]) -> None:
        write_listing(self.folder, rows)

    def whole(self) -> Callable[[ShardPlan], bool]:
        return lambda shard: is_written(self.folder, shard)

    def write(self, plan: ShardPlan, groups: Iterable[EncodedGroup], head: CacheHead, *, ahead: int) -> None:
        write_shard(self.folder, plan, groups, head, ahead=ahead)

    def split_entry(self, shards: Sequence[ShardPlan]) -> SplitEntry:
        return split_entry(shards, lambda shard: sha256_of(self.folder / shard.index_name))

    def finish(self, manifest: CacheManifest) -> None:
        with new_file(self.folder / MANIFEST, wait=True) as file:
            file.write(_json_of_manifest(manifest))
        remove_left_parts(self.folder)
        (self.folder / WRITING).unlink(missing_ok=True)
        flush(self.folder)

    def bytes_needed(self, missing: Sequence[ShardPlan], processes: int) -> int:
        return sum(map(_bytes, missing))

    def too_small(self, feature_dtype: FeatureDtype) -> str:
        return (
            "name a folder on another disk, choose fewer splits, or a smaller feature_dtype "
            f"(it is {feature_dtype}; int8 is the smallest)"
        )


class StoreDestination:
    """An address; shards are written to a local folder, uploaded, and removed from it.

    Shards that a failed upload left in the folder are uploaded on the next start.

    Args:
        address: of a writable bucket.
        scratch: where the folder is created; by default in the system's temporary folder.

    Raises:
        ConfigError: addresses of this kind cannot be written to, or obstore is not installed.
    """

    def __init__(self, address: StoreAddress, scratch: Path | None) -> None:
        if address.scheme not in WRITABLE:
            raise ConfigError(
                f"{address}: caches are written to folders and to s3:// and gs:// addresses; write it to a "
                "folder and copy that (to the Hub: `hf upload`)"
            )
        self._store = ObjectStore(address, PATIENCE)
        own = hashlib.sha256(str(address).encode()).hexdigest()[:16]
        self.folder = (scratch or Path(tempfile.gettempdir()) / "maris-fast-caches").resolve() / own

    def __str__(self) -> str:
        return str(self._store)

    def require_ours(self) -> None:
        _require_ours(self, set(self._store.sizes()))

    def manifest(self) -> CacheManifest | None:
        return read_manifest(self._store) if MANIFEST in self._store.sizes() else None

    def writing(self) -> Writing | None:
        return read_writing(self._store) if WRITING in self._store.sizes() else None

    def announce(self, choose: Callable[[Writing | None], Writing]) -> None:
        there = self.writing()
        chosen = _json(choose(there))
        # If two processes are first at once, the later write wins: same settings give the same plan.
        if there is None and MANIFEST not in self._store.sizes():
            self._store.put(WRITING, chosen)
        # One folder per plan: shards of other settings or data sets may have the same sizes.
        self.folder = self.folder / hashlib.sha256(chosen).hexdigest()[:16]
        with writing(self.folder, "`scratch`"):
            self.folder.mkdir(parents=True, exist_ok=True)

    def list_left_out(self, rows: Sequence[LeftOutRow]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_listing(Path(folder), rows)
            self._store.put(LISTING, Path(folder) / LISTING)

    def whole(self) -> Callable[[ShardPlan], bool]:
        sizes = self._store.sizes()
        return lambda shard: (
            (sizes.get(shard.name), sizes.get(shard.index_name)) == (shard.bytes, shard.index_bytes)
        )

    def write(self, plan: ShardPlan, groups: Iterable[EncodedGroup], head: CacheHead, *, ahead: int) -> None:
        if not is_written(self.folder, plan):
            write_shard(self.folder, plan, groups, head, ahead=ahead)
        for name in (plan.index_name, plan.name):
            self._store.put(name, self.folder / name)
        for name in (plan.name, plan.index_name):
            (self.folder / name).unlink()

    def split_entry(self, shards: Sequence[ShardPlan]) -> SplitEntry:
        def of_index(shard: ShardPlan) -> str:
            content = read_start(self._store, shard.index_name, shard.index_bytes + 1)
            return hashlib.sha256(content).hexdigest()

        return split_entry(shards, of_index)

    def finish(self, manifest: CacheManifest) -> None:
        self._store.put(MANIFEST, _json_of_manifest(manifest))
        self._store.remove(WRITING)
        with contextlib.suppress(OSError):  # other processes' shards, still to be uploaded
            self.folder.rmdir()

    def bytes_needed(self, missing: Sequence[ShardPlan], processes: int) -> int:
        return processes * max(map(_bytes, missing), default=0)

    def too_small(self, feature_dtype: FeatureDtype) -> str:
        return "shards are written there before they are uploaded; name another folder with `scratch`"


def destination_of(out: Path | StoreAddress, scratch: Path | None) -> Destination:
    """The destination for a folder or an address."""
    return FolderDestination(out) if isinstance(out, Path) else StoreDestination(out, scratch)


def free_bytes(folder: Path) -> int:
    """Bytes available for a cache in ``folder``: free on the disk, or taken by half-written shards."""
    half_written = 0
    for part in folder.glob(f"*{PART}"):
        with contextlib.suppress(FileNotFoundError):  # it may be complete by now
            half_written += part.stat().st_size
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free + half_written


def _require_ours(place: Destination, names: set[str]) -> None:
    if names - {WRITING + PART, LISTING} and not names & {MANIFEST, WRITING}:
        raise InputError(f"output folder {place} is not empty; name a new or an empty folder")


def _bytes(shard: ShardPlan) -> int:
    return shard.bytes + shard.index_bytes


def _json(writing: Writing) -> bytes:
    return writing.model_dump_json(indent=1).encode()


def _json_of_manifest(manifest: CacheManifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()
