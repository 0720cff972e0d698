"""Pickles as data: dict, list, tuple, set, text, bytes, numbers, bool and None, and nothing else."""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import NoReturn

from maris_fast.data_shards.importers.pickle_sizes import require_sizes_within
from maris_fast.errors import InputError

# Python 2 wrote text as bytes of no stated encoding: UTF-8, save for a stray byte that is not.
_LATIN1_FOR_STRAY_BYTES = "maris_fast.latin1_for_stray_bytes"


def _as_latin1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin1"), error.end


codecs.register_error(_LATIN1_FOR_STRAY_BYTES, _as_latin1)


def load_plain_pickle(path: Path) -> object:
    """What the pickle holds, of any protocol; Python 2's ``str`` becomes text.

    A pickle can only run code through a global that it names, so every global is refused, before it is
    looked up. Sizes that it states are compared with the file before memory is reserved for them.

    Raises:
        InputError: no such file, not a whole pickle, or one that names a global.
    """
    try:
        content = Path(path).read_bytes()
        require_sizes_within(content)
        return _PlainUnpickler(io.BytesIO(content), path).load()
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except Exception as error:  # a damaged pickle can make the unpickler raise nearly anything
        raise InputError(f"{path} is not a whole pickle: {type(error).__name__}: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: object, path: Path) -> None:
        super().__init__(file, encoding="utf-8", errors=_LATIN1_FOR_STRAY_BYTES)  # type: ignore[arg-type]
        self._path = path

    def find_class(self, module: str, name: str) -> NoReturn:
        raise InputError(
            f"{self._path} names {module}.{name}: it tries to run code or to build objects, but only plain "
            "containers, text and numbers are read from a pickle. Nothing was executed; "
            "get the file from its authors again"
        )
