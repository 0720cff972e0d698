"""A plan that is made once for all processes and runs: a file in the data set's folder.

Its name is a hash of everything that the plan depends on: records, settings and version. It also stores the
state of the images' folders, and of the images that it leaves out, so that a stale plan is replaced. At an
address, images that it leaves out are checked again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from pydantic import ValidationError

import maris_fast
from maris_fast.data_shards.cache.manifest import MOST_BYTES, CacheHead, Writing
from maris_fast.data_shards.cache.photographs import ImageFile, Photographs
from maris_fast.data_shards.importers.left_out import LeftOutRow
from maris_fast.data_shards.records import Frozen
from maris_fast.errors import InputError
from maris_fast.system.files import read_at_most, replace_text
from maris_fast.system.locks import LOOK, owned_file

log = logging.getLogger(__name__)

State = tuple[int, int] | None
"""Modification time in ns and size in bytes; None: it does not exist."""


class SharedPlan(Frozen):
    """A plan, the rows it newly leaves out, and the state of files and folders that it depends on."""

    writing: Writing
    newly_left_out: tuple[LeftOutRow, ...]
    seen: dict[str, State]
    unusable_afar: tuple[ImageFile, ...]
    """Images at an address that it leaves out because of their files."""

    def is_stale(self) -> bool:
        """
        Raises:
            StoreError: the server that has the images fails.
        """
        if any(state_of(Path(path)) != state for path, state in self.seen.items()):
            return True
        if not self.unusable_afar:
            return False
        return Photographs(self.writing.head.dataset.image_root).any_usable(self.unusable_afar)


def planned_once(
    folder: Path, head: CacheHead, leave_out_bad: bool, make: Callable[[], SharedPlan]
) -> SharedPlan:
    """The plan in the folder, or a new one that is saved there; only one of several processes makes it.

    If the folder is not writable, every process makes its own.

    Raises:
        InputError: as ``make``.
        StoreError: the server that has the images fails.
    """
    follows_from = [maris_fast.__version__, head.model_dump(mode="json"), leave_out_bad]
    key = hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()
    file = folder / f"plan-{key[:16]}.json"
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(owned_file(file, wait=True, pause=_Waiting(file)))
        known = _read(file)
        if known is not None and not known.is_stale():
            return known
        plan = make()
        with suppress(OSError):
            replace_text(file, [plan.model_dump_json()])
        return plan


def state_of(path: Path) -> State:
    """The state of a file, or of a folder, which changes when a name in it does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _read(file: Path) -> SharedPlan | None:
    try:
        return SharedPlan.model_validate_json(read_at_most(file, MOST_BYTES))
    except (OSError, InputError, ValidationError):
        return None  # none, or damaged


class _Waiting:
    """Warns once that another process is planning."""

    def __init__(self, file: Path) -> None:
        self._file, self._told = file, False

    def __call__(self) -> None:
        if not self._told:
            log.warning("another process makes the plan %s; waiting for it", self._file)
            self._told = True
        time.sleep(LOOK)
