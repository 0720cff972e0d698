"""An output folder that is either complete or does not exist."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maris_fast.errors import InputError
from maris_fast.system.files import FULL, writing


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A scratch folder that is renamed to ``target`` when the block ends, and removed if the block fails.

    Raises:
        InputError: ``target`` is a file, or a folder that is not empty (raised before the block runs, or at
            its end if another process has filled it meanwhile); it cannot be created; or its disk is full.
    """
    target = Path(target).resolve()  # a link to an empty folder is fine
    require_no_file_at(target)
    if target.exists() and any(target.iterdir()):
        raise _not_empty(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        scratch.chmod(0o755)  # mkdtemp's folders are private, the result need not be
        yield scratch
        scratch.rename(target)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _not_empty(target) from error
        if isinstance(error, OSError) and error.errno in FULL:
            with writing(target):
                raise
        raise


def require_no_file_at(target: Path) -> None:
    """Check that ``target`` can be a folder: neither it nor a parent of it is a file.

    Raises:
        InputError: one is, or that cannot be determined.
    """
    with writing(target):
        there = next(one for one in (target, *target.absolute().parents) if one.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; name a new or an empty folder")


def _not_empty(target: Path) -> InputError:
    return InputError(f"output folder {target} is not empty; name a new or an empty folder")
