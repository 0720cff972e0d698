from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maris_fast.data_shards.importers.safe_pickle import load_plain_pickle
from maris_fast.errors import InputError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles") / "refs(unc).p"


def load(file: Path, content: bytes) -> object:
    file.write_bytes(content)
    return load_plain_pickle(file)


@given(
    value=st.recursive(scalars, containers, max_leaves=20), protocol=st.integers(0, pickle.HIGHEST_PROTOCOL)
)
def test_plain_values_come_back_from_every_protocol(file: Path, value: object, protocol: int) -> None:
    assert load(file, pickle.dumps(value, protocol)) == value


@given(
    value=st.sets(keys) | st.frozensets(keys) | st.binary(), protocol=st.integers(4, pickle.HIGHEST_PROTOCOL)
)
def test_sets_and_bytes_come_back_where_the_protocol_has_them(
    file: Path, value: object, protocol: int
) -> None:
    assert load(file, pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"caf\xc3\xa9", "café"),  # UTF-8, as Python 2 programs mostly wrote
        (b"caf\xe9 man", "café man"),  # a stray Latin-1 byte
        (b"\xe2\x80\x99s \xe9", "\u2019s é"),  # both
    ],
)
def test_python_2_strings_become_text(file: Path, written: bytes, text: str) -> None:
    as_protocol_2 = b"\x80\x02]q\x00}q\x01U\x04sentq\x02U" + bytes([len(written)]) + written + b"q\x03sa."
    escaped = "".join(f"\\x{byte:02x}" for byte in written).encode()
    as_protocol_0 = b"(lp0\n(dp1\nS'sent'\np2\nS'" + escaped + b"'\np3\nsa."
    assert load(file, as_protocol_2) == [{"sent": text}]
    assert load(file, as_protocol_0) == [{"sent": text}]


class Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused_unexecuted(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "executed"
    content = pickle.dumps([{"ref_id": 1}, Attack(f"touch {witness}")], protocol)
    with pytest.raises(InputError, match=r"refs\.p names posix\.system: .*Nothing was executed"):
        load(tmp_path / "refs.p", content)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"(S'exit 1'\nios\nsystem\n.", "os.system"),  # INST
        (b"(cos\nsystem\nS'exit 1'\no.", "os.system"),  # OBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),  # STACK_GLOBAL
        (pickle.dumps({1}, 2), "builtin"),  # even a harmless one
        (b"cno_such_module\nx\n.", "no_such_module.x"),  # refused before any import
    ],
)
def test_every_way_to_name_a_global_is_refused(file: Path, content: bytes, name: str) -> None:
    with pytest.raises(InputError, match=name):
        load(file, content)


@pytest.mark.parametrize("content", [b"", b"\x82\x01.", b"Pid\n.", b"not a pickle", b"}S'a'\nb."])
def test_a_pickle_of_other_than_plain_data_is_an_input_error(file: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="not a whole pickle"):
        load(file, content)


@given(cut=st.integers(min_value=0))
def test_a_truncated_pickle_is_an_input_error(file: Path, cut: int) -> None:
    whole = pickle.dumps([{"ref_id": 5, "sentences": ["the red one"]}], 2)
    with pytest.raises(InputError, match="not a whole pickle"):
        load(file, whole[: cut % len(whole)])


def test_a_file_that_cannot_be_opened_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a whole pickle: .*directory"):
        load_plain_pickle(tmp_path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*refs\.p"):
        load_plain_pickle(tmp_path / "refs.p")


BILLION = (10**9).to_bytes(4, "little")

READ = """
import resource, sys
from pathlib import Path
import maris_fast.data_shards.importers.safe_pickle as reader
from maris_fast.errors import InputError
for path in map(Path, sys.argv[1:]):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try: print("read", reader.load_plain_pickle(path))
    except InputError as error: print(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.process
def test_sizes_that_a_pickle_states_are_not_believed(tmp_path: Path) -> None:
    """``pickle.load`` allocates gigabytes for each of these few bytes; peak memory is measured."""
    pickles = {
        "memo": b"\x80\x02Nr\xff\xff\xff\x0f.",
        "memo as text": b"Np300000000\n.",
        "bytes": b"\x80\x04\x8e" + (2**33).to_bytes(8, "little") + b".",
        "text": b"\x80\x04\x8d" + (2**33).to_bytes(8, "little") + b".",
        "bytearray": b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b".",
        "short text": b"\x80\x02X" + BILLION + b"a.",
        "number": b"\x80\x02\x8b" + BILLION + b"1.",
        "frame": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.",
        "after a list": pickle.dumps([{"sent": "a"}] * 3)[:-1] + b"r\xff\xff\xff\x7f.",
    }
    for name, content in pickles.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in pickles]
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True, timeout=300
    )
    lines = done.stdout.splitlines()
    for name, told, kilobytes in zip(pickles, lines[::2], lines[1::2], strict=True):
        assert f"{name} is not a whole pickle: ValueError: it states a size of" in told
        assert int(kilobytes) < 50_000, (name, kilobytes)
