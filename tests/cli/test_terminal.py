"""Text from users and files is printed as plain text, never as control sequences or markup."""

from __future__ import annotations

import json
import logging
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from maris_fast.reports import figures
from maris_fast.reports.run_data import RunData
from maris_fast.scoring import tables
from maris_fast.system.terminal import Table, printable
from maris_fast.weights import HEADER
from tests.command_line import maris_fast

CLEAR = "\x1b[2J\x1b]0;owned\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the dog\non the left\tside", "the dog\non the left\tside"),
        ("собака, 犬, کتاب‌ها, 👩‍🚀, ü", "собака, 犬, کتاب‌ها, 👩‍🚀, ü"),
        (CLEAR, "\\x1b[2J\\x1b]0;owned\\x07"),
        ("a\rb\x7f\x9b31m", "a\\rb\\x7f\\x9b31m"),
        ("left \u202eright", "left \\u202eright"),
        ("half \ud83d", "half \\ud83d"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_a_terminal_obeys_is_escaped_and_other_text_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_kinds_of_expressions_are_not_markup() -> None:
    scores = {"expressions": 3, "oIoU": 0.5, "mIoU": 0.5}
    kinds = {"[/]": scores, "[hard] cases": scores, ":dog:": scores, CLEAR: scores}
    console = Console(width=100, file=StringIO())
    console.print(tables.of_conditions({"[red]": {**scores, "kinds": kinds}}, "[/split]"))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("[/]", "[hard] cases", ":dog:", "[red]", "[/split]", "\\x1b[2J"):
        assert text in said
    assert "\x1b" not in said


def test_every_part_of_a_table_is_text() -> None:
    table = Table("[/head]", title="[/title]")
    table.add_column("[/column]")
    table.add_row("[/cell]", CLEAR)
    console = Console(width=100, file=StringIO())
    console.print(table)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("[/head]", "[/title]", "[/column]", "[/cell]", "\\x1b[2J"):
        assert text in said


def test_a_header_of_weights_does_not_command_the_terminal(weights: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(weights, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = json.loads(file.metadata()[HEADER])
    meta["scores"] = {"kinds": {f"[/]{CLEAR}": 1}}
    crafted = tmp_path / f"[b]{CLEAR[:4]}.safetensors"
    save_file(tensors, crafted, metadata={HEADER: json.dumps(meta)})
    done = maris_fast("info", str(crafted))
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "[/]" in done.output
    assert "\\x1b" in done.output

    meta["unknown"] = CLEAR
    save_file(tensors, crafted, metadata={HEADER: json.dumps(meta)})
    done = maris_fast("info", str(crafted))
    assert done.exit_code == 2
    assert "\x1b" not in done.output
    assert "\\x1b" in done.output


def test_a_warning_in_the_log_does_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert maris_fast("info", "/nothing").exit_code == 2
    assert logging.lastResort is not None
    logging.lastResort.handle(logging.makeLogRecord({"msg": "took %s", "args": (CLEAR,)}))
    assert capsys.readouterr().err == "took \\x1b[2J\\x1b]0;owned\\x07\n"


def test_the_name_of_a_run_is_not_a_formula_in_its_curves() -> None:
    names = ("a_$x_{$", "b <i>")
    steps = [{"kind": "train", "step": step, "loss": 1.0} for step in (1, 2)]
    runs = [RunData(name, Path(name), {}, {}, steps, evaluations=[], pictures=[]) for name in names]
    drawn = figures.draw(figures.LEARNING[0], runs)
    assert drawn is not None
    assert "a_$x_{$" in drawn
    assert "b &lt;i&gt;" in drawn
