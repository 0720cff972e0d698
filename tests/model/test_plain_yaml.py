"""Settings files and overrides: what is a number, what appears twice, and what is too large."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maris_fast.config import CacheSettings, TrainingSettings, dump_settings, load_settings
from maris_fast.config.plain_yaml import YamlError, dump_yaml, load_yaml
from maris_fast.errors import ConfigError

NEEDED = ["encoders.sam.weights=random"]


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "true", "010", "1:30", "0o10", "2024-01-01", "'4'", "0_1"]
)
def test_what_only_looks_like_a_number_to_yaml_1_1_is_none(tmp_path: Path, text: str) -> None:
    message = r"batch_size: expected a number.*'yes', '010' and '1:30' are none \(was "
    with pytest.raises(ConfigError, match=message):
        load_settings(CacheSettings, None, [*NEEDED, f"batch_size={text}"])
    file = tmp_path / "cache.yaml"
    file.write_text(f"encoders: {{sam: {{weights: random}}}}\nbatch_size: {text}\n")
    with pytest.raises(ConfigError, match=message):
        load_settings(CacheSettings, file)


@pytest.mark.parametrize(
    ("text", "number"), [("8", 8), ("+8", 8), ("1_000", 1000), ("0x10", 16), ("1e3", 1000), ("4.0", 4)]
)
def test_numbers_are_read_as_they_look(text: str, number: int) -> None:
    assert load_settings(CacheSettings, None, [*NEEDED, f"batch_size={text}"]).batch_size == number


def test_text_that_looks_like_a_number_elsewhere_stays_text() -> None:
    both = ["data.cache=010", "run.folder=1:30", "data.train_split=no", "optimiser.betas=[0.8, 9e-1]"]
    settings = load_settings(TrainingSettings, None, [*both, "optimiser.lr=1e-3", "engine.compile=yes"])
    assert (str(settings.data.cache), str(settings.run.folder), settings.data.train_split) == (
        "010",
        "1:30",
        "no",
    )
    assert (settings.optimiser.betas, settings.optimiser.lr) == ((0.8, 0.9), 1e-3)
    assert settings.engine.compile is True


def test_a_number_in_a_list_must_be_one_too() -> None:
    with pytest.raises(ConfigError, match=r"optimiser\.betas: expected a number"):
        load_settings(TrainingSettings, None, ["data.cache=a", "run.folder=b", "optimiser.betas=[yes, 0.9]"])


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_no_setting_is_infinite(value: str) -> None:
    with pytest.raises(ConfigError, match=r"optimiser\.lr: .*finite"):
        load_settings(TrainingSettings, None, ["data.cache=a", "run.folder=b", f"optimiser.lr={value}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size: 2\nencoders: {}\nbatch_size: 4\n", r"'batch_size' appears twice, line 3"),
        ("encoders:\n  sam: {seed: 1, weights: random, seed: 2}\n", r"'seed' appears twice, line 2"),
        ("extends: a.yaml\nextends: b.yaml\n", r"'extends' appears twice, line 2"),
        ("a: &a [*a]\n", r"an alias refers to a value that contains it, line 1"),
        ("[" * 3_000, r"nested too deep"),
        ("batch_size: !!int x\n", r"is not YAML"),
        ("batch_size: !!timestamp x\n", r"is not YAML"),
        ("batch_size: " + "9" * 5000, r"is not YAML: .*4300 digits"),
        ("batch_size: !!python/object/apply:os.getcwd []\n", r"could not determine a constructor"),
        (b"batch_size: \xff\n", r"not UTF-8 \(byte 12\)"),
    ],
)
def test_a_file_that_says_nothing_certain_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        ConfigError, match=rf"bad\.yaml is not YAML: (?s:.*){message}" if "is not" not in message else message
    ):
        load_settings(CacheSettings, file)


def test_a_key_may_stand_in_a_merged_mapping_too() -> None:
    assert load_yaml("s: {x: &x {<<: &b {k: 1}, k: 2}}\ny: {<<: *x}\nz: *x") == {
        "s": {"x": {"k": 2}},
        "y": {"k": 2},
        "z": {"k": 2},
    }


def doubling(first: str, again: str) -> str:
    """Ten lines, each with nine times the values of the one before: 10^9 values from 1 KB."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} " + again.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 10)]
    return "\n".join(lines)


BOMBS = {"lists": doubling("[x, x, x]", "[{}]"), "merges": doubling("{k: 1}", "{{<<: [{}]}}")}

READ = """
import resource, sys, time
from pathlib import Path
from maris_fast.config import CacheSettings, load_settings
from maris_fast.errors import ConfigError
for path in map(Path, sys.argv[1:]):
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try: load_settings(CacheSettings, path)
    except ConfigError as error: print(error)
    print(time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.process
def test_a_file_is_bounded_before_it_is_written_out(tmp_path: Path) -> None:
    for name, text in BOMBS.items():
        assert len(text) < 1500
        (tmp_path / name).write_text(text)
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(2**33)
    paths = [str(tmp_path / name) for name in (*BOMBS, "zeros")]
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True, timeout=120
    )
    told, spent = done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]
    assert all("with its aliases written out it has" in line for line in told[:2]), done.stdout
    assert "more than 1,000,000 bytes" in told[2]
    for seconds, kilobytes in (line.split() for line in spent):
        assert float(seconds) < 5  # processor time; before the bounds, 20 and growing, and 7 GB
        assert int(kilobytes) < 50_000


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=values)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    assert load_yaml(dump_yaml(value)) == value


def test_settings_are_read_back_as_they_were(tmp_path: Path) -> None:
    settings = load_settings(
        TrainingSettings, None, ["data.cache='1e-3'", "run.folder=yes", "optimiser.lr=1e-5"]
    )
    (tmp_path / "settings.yaml").write_text(dump_settings(settings))
    assert load_settings(TrainingSettings, tmp_path / "settings.yaml") == settings


def test_a_damaged_value_on_the_command_line_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the value in 'batch_size=\[1' is not YAML"):
        load_settings(CacheSettings, None, ["batch_size=[1"])
    with pytest.raises(YamlError, match="appears twice"):
        load_yaml("{a: 1, a: 2}")
