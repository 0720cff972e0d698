"""Runs in the paper's tables: which row a run is, the numbers beside it, and the notes on the others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from maris_fast.ablation import paper
from maris_fast.ablation.paper import VARIANTS
from maris_fast.config import TrainingSettings, dump_settings, load_settings
from maris_fast.evaluation.scores_file import DataSplit
from maris_fast.reports.paper_tables import paper_tables, placing, variant_of
from maris_fast.reports.run_data import RunData
from tests.command_line import maris_fast

CONFIGS = paper.FRAGMENTS.parent
BASES = ("refcoco.yaml", "refcoco_fast.yaml", "ablate_quick.yaml", "quickstart.yaml")


def scores(oiou: float, pr90: float = 0.3) -> dict[str, Any]:
    return {
        "expressions": 10,
        "oIoU": oiou,
        "mIoU": oiou,
        "Pr@70": 0.6,
        "Pr@80": 0.5,
        "Pr@90": pr90,
        "kinds": {},
    }


def write_run(
    folder: Path,
    variant: str,
    data: tuple[str, str] | None = ("refcoco", "unc"),
    *,
    oiou: float = 0.7,
    overrides: tuple[str, ...] = (),
    tested: dict[DataSplit, dict[str, Any]] | None = None,
) -> RunData:
    """A run's folder as training and ``maris-fast eval --out`` leave it, with one evaluation."""
    folder.mkdir(parents=True)
    files = [CONFIGS / "refcoco.yaml", VARIANTS[variant].fragment]
    settings = load_settings(TrainingSettings, files, overrides)
    (folder / "settings.yaml").write_text(dump_settings(settings))
    told = {"data": dict(zip(("name", "split_by"), data, strict=True))} if data else {}
    (folder / "environment.json").write_text(json.dumps({"device": "cpu", "ranks": 1, **told}))
    line = {"kind": "evaluation", "step": 5, **scores(oiou)}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    for where, found in (tested or {}).items():
        content = {"data": vars(where), "as written": found}
        (folder / where.file_name).write_text(json.dumps(content))
    return RunData.read(folder)


def here(runs: list[RunData], title: str) -> list[tuple[str, ...]]:
    """Measured rows of the table whose title starts with ``title``, each after the name of the row above."""
    (table,) = [one for one in paper_tables(runs) if one.title.startswith(title)]
    assert all(len(cells) == len(table.head) for cells, _ in table.rows)
    return [
        (table.rows[place - 1][0][1 if title[6] in "2345" else 0], *cells)
        for place, (cells, measured) in enumerate(table.rows)
        if measured
    ]


@pytest.mark.parametrize("base", BASES)
def test_each_fragment_on_each_base_is_its_own_row(base: str, tmp_path: Path) -> None:
    for name, variant in VARIANTS.items():
        files = [CONFIGS / base, variant.fragment]
        settings = load_settings(TrainingSettings, files, [f"run.folder={tmp_path / name}"])
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.yaml").write_text(dump_settings(settings))
        expected = VARIANTS["pooled"] if (base, name) == ("refcoco_fast.yaml", "ours") else variant
        assert variant_of(RunData.read(tmp_path / name)) == expected, name


def test_a_run_from_before_a_setting_was_there_has_its_default(tmp_path: Path) -> None:
    run = write_run(tmp_path / "old", "ours")
    settings = yaml.safe_load((run.folder / "settings.yaml").read_text())
    for newer in ("fusion", "decoder", "enhancement", "token_to_image"):
        del settings["model"][newer]
    (run.folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert variant_of(RunData.read(run.folder)) == VARIANTS["ours"]
    for newer in ("language_norm", "empty_rows", "score_scale", "visual_center"):
        del settings["model"][newer]
    (run.folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert variant_of(RunData.read(run.folder)) == VARIANTS["sums"]


def test_table_1_has_a_row_for_each_reading_of_maris(tmp_path: Path) -> None:
    """The shipped configuration has no gate; it is still MARIS, in a row that says so."""
    runs = [
        write_run(tmp_path / name, name, oiou=oiou)
        for name, oiou in (
            ("without_mask", 0.75),
            ("ours", 0.74),
            ("sums", 0.6),
            ("as_printed", 0.5),
            ("pooled", 0.1),
        )
    ]
    default = load_settings(TrainingSettings, [CONFIGS / "refcoco.yaml"])
    assert runs[0].settings["model.keep"] == default.model.keep == "all"
    assert [row[1:3] for row in here(runs, "Table 1") if "Pr@90" not in row[1]] == [
        ("here", "74.00"),
        ("here, no gate", "75.00"),
        ("here, eqs. 3, 5 as printed", "60.00"),
        ("here, eqs. 3-5 as printed", "50.00"),
    ]


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ((), "another run of Ours has seed 0 too"),
        (("run.seed=1", "model.decoder_norm=pre"), "its model settings are not those of first"),
    ],
)
def test_only_runs_that_differ_in_their_seed_are_averaged(
    tmp_path: Path, overrides: tuple[str, ...], why: str
) -> None:
    elsewhere = DataSplit("phrasecut", "official", "test")
    runs = [
        write_run(tmp_path / "first", "ours", tested={elsewhere: scores(0.2)}),
        write_run(tmp_path / "odd", "ours", oiou=0.1, overrides=overrides, tested={elsewhere: scores(0.1)}),
        write_run(tmp_path / "seed", "ours", oiou=0.72, overrides=("run.seed=2",)),
    ]
    assert here(runs, "Table 1.")[0][2] == "71.00 ± 1.41"
    assert here(runs, "Table 2.")[0][6] == "71.00 ± 1.41"
    assert here(runs, "Table 6.")[0][-1] == "20.00"
    told = [line for line in placing(runs) if line.startswith("Not counted in the tables: odd on ")]
    assert len(told) == 2
    assert all(why in line for line in told)


def test_tables_2_to_5_pair_runs_by_seed(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"{name}-{seed}", name, oiou=oiou, overrides=(f"run.seed={seed}",))
        for name, seed, oiou in (
            ("ours", 0, 0.70),
            ("ours", 1, 0.72),
            ("without_fe", 0, 0.66),
            ("without_fe", 1, 0.70),
            ("without_fe", 2, 0.10),
        )
    ]
    rows = here(runs, "Table 2.")
    assert [row[0] for row in rows] == ["w/o FE", "Ours"]
    assert rows[0][3:] == (
        *("60.00 ± 0.00", "50.00 ± 0.00", "30.00 ± 0.00", "48.67 ± 33.55"),
        "-3.00 ± 1.41 (-4.00, -2.00)",
    )
    assert rows[1][3:] == ("60.00 ± 0.00", "50.00 ± 0.00", "30.00 ± 0.00", "71.00 ± 1.41", "–")
    assert here(runs, "Table 5.") == rows
    assert [row[0] for row in here(runs, "Table 3.")] == ["Ours"]


def test_table_1_takes_each_split_of_the_data_that_a_run_was_trained_on(tmp_path: Path) -> None:
    splits = {name: DataSplit("refcoco", "unc", name) for name in ("testA", "testB")}
    plus = DataSplit("refcoco+", "unc", "testA")
    tested = {splits["testA"]: scores(0.75, 0.4), splits["testB"]: scores(0.65), plus: scores(0.5)}
    runs = [
        write_run(tmp_path / "unc", "ours", tested=tested),
        write_run(tmp_path / "google", "ours", ("refcocog", "google"), oiou=0.6),
        write_run(tmp_path / "sam", "sam", ("refcocog", "umd"), oiou=0.4),
    ]
    none = ("–",) * 3
    assert here(runs, "Table 1.") == [
        ("SAM (ICCV'23)", "here", *none, *none, "40.00", "–", "–"),
        ("MARIS (Ours)", "here", "70.00", "75.00", "65.00", *none, "–", "–", "60.00"),
        ("MARIS (Pr@90)", "here (Pr@90)", "30.00", "40.00", "30.00", *none, "–", "–", "30.00"),
    ]


def test_scores_of_weights_that_training_has_replaced_are_left_out_and_named(tmp_path: Path) -> None:
    splits = {name: DataSplit("refcoco", "unc", name) for name in ("testA", "testB")}
    run = write_run(tmp_path / "unc", "ours", tested={where: scores(0.75) for where in splits.values()})
    (run.folder / "best.safetensors").write_bytes(b"replaced")
    for name, weights in (("testA", b"earlier"), ("testB", b"replaced")):
        file = run.folder / splits[name].file_name
        made_of = {"weights": "best.safetensors", "weights_sha256": hashlib.sha256(weights).hexdigest()}
        file.write_text(json.dumps({**json.loads(file.read_text()), **made_of}))
    (row, _) = here([run], "Table 1.")
    assert row[2:5] == ("70.00", "–", "75.00")
    (told,) = [line for line in placing([run]) if line.startswith("Left out")]
    assert told.endswith("testA.json of unc, which scores other weights than its best.safetensors.")


def test_table_6_is_trained_on_one_data_set_and_tested_on_another(tmp_path: Path) -> None:
    test = DataSplit("phrasecut", "official", "test")
    runs = [
        write_run(tmp_path / "unc", "ours", tested={test: scores(0.2)}),
        write_run(tmp_path / "umd", "ours", ("refcocog", "umd"), tested={test: scores(0.21)}),
        write_run(tmp_path / "google", "ours", ("refcocog", "google"), tested={test: scores(0.22)}),
    ]
    (table,) = [one for one in paper_tables(runs) if one.title.startswith("Table 6.")]
    assert [cells for cells, _ in table.rows] == [
        ("RefCOCO", "15.53", "16.68", "22.82", "20.00"),
        ("RefCOCO+", "16.30", "16.64", "21.68", "–"),
        ("G-Ref", "16.24", "16.05", "22.47", "22.00 (google); 21.00 (umd)"),
    ]


def test_without_runs_the_papers_numbers_stand_alone() -> None:
    tables = paper_tables([])
    assert [table.title[:8] for table in tables] == [f"Table {number}." for number in range(1, 7)]
    assert not any(table.filled for table in tables)
    assert tables[0].rows[2][0][:3] == ("CRIS (CVPR'22)", "70.47", "73.18")
    assert "CRIS: mIoU. LAVT: oIoU." in tables[0].notes[0]


def test_another_data_set_has_tables_of_its_own(tmp_path: Path) -> None:
    data = ("scenes", "synthetic")
    runs = [write_run(tmp_path / name, name, data) for name in ("ours", "te", "tau_03")]
    tables = paper_tables(runs)
    assert not any(table.filled for table in tables[:6])
    assert [table.title.partition(".")[0] for table in tables[6:]] == ["Table 3", "Not in Tables 2-5"]
    assert all("On scenes (synthetic) val, not the paper's data." in table.title for table in tables[6:])
    assert all("compare differences" in table.notes[0] for table in tables[6:])


def test_the_page_says_which_run_is_which_row_and_which_is_none(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", "ours", overrides=("model.decoder_norm=pre",)),
        write_run(tmp_path / "b", "ours", overrides=("model.decoder_norm=pre",)),
        write_run(tmp_path / "fast", "te", overrides=("model.decoder_self_attention=pooled",)),
        write_run(tmp_path / "odd", "ours", overrides=("model.tau=0.4",)),
        write_run(tmp_path / "old", "te", None),
    ]
    told = placing(runs)
    assert told[0] == "Ours, on refcoco unc (model.decoder_norm = pre): a, b."
    assert told[1] == "TE (ReSTR), on refcoco unc (model.decoder_self_attention = pooled): fast."
    assert told[2] == "In no table: odd, whose model settings match no row."
    assert told[3] == "In no table: old, whose environment.json does not name its data set."
    assert "b on refcoco (unc) val: another run of Ours has seed 0 too" in told[4]
    page = tmp_path / "page.html"
    folders = [str(run.folder) for run in runs]
    done = maris_fast("report", *folders, "--out", str(page))
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert all(line.replace("'", "&#39;") in text for line in told)
    assert text.index('id="curves"') < text.index('id="paper"') < text.index("Table 1.")
    assert "Table 6." not in text  # no run has a row in it
