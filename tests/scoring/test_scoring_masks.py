"""The commands ``score``, on masks of any model by all protocols, and ``compare``, on two models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from maris_fast.cli import app
from maris_fast.data_shards.records import ImageRecord, ImportedDataset, Target
from maris_fast.geometry import ImageGeometry
from maris_fast.rle import Rle
from maris_fast.sample import Sample
from maris_fast.scoring import PROTOCOLS, Rows, whole
from maris_fast.scoring.intervals import Difference, studentised
from maris_fast.scoring.protocols import Protocol
from maris_fast.scoring.summary import ratios_of
from tests.data.cache_dataset import box, default_records, write_dataset
from tests.scoring.cases import count_of

AS_THEY_ARE = ("maris", "lisa", "phrasecut")
RESAMPLED = ("lavt", "rela")
CUT_ELSEWHERE = ("cris", "cris-val", "vlt")


def maris_fast(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def said(result: Result) -> str:
    return " ".join((result.output + result.stderr).split())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images; a stripe of the first target is inside two polygons."""
    records = default_records()
    target = records[0].targets[0]
    twice = Rle.encode(box(*target.mask.size, 8, 8, 12, 20))
    changed = Target(**{**target.model_dump(), "overlap": twice})
    records[0] = records[0].model_copy(update={"targets": (changed, *records[0].targets[1:])})
    return write_dataset(tmp_path_factory.mktemp("masks") / "dataset", {"val": records})


def shifted(record: ImageRecord, target: Target, by: int) -> np.ndarray:
    return np.roll(target.mask.decode(), by, axis=1)


def predicted(dataset: Path, by: Callable[[int], int]) -> list[dict[str, Any]]:
    """One line per expression: its ground truth, shifted ``by(sent_id)`` pixels to the right."""
    lines = []
    for record in ImportedDataset(dataset).records("val"):
        for one in record.expressions:
            mask = shifted(record, record.targets[one.target], by(one.sent_id))
            lines.append({"sent_id": one.sent_id, "prediction": Rle.encode(mask).model_dump()})
    return lines


def written(file: Path, lines: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def by_hand(dataset: Path, protocol: Protocol, by: Callable[[int], int]) -> dict[str, Any]:
    """The protocol's scores, with the masks compared on the pixels on which its script compares."""
    rows = Rows([protocol])
    for record in ImportedDataset(dataset).records("val"):
        for place, one in enumerate(record.expressions):
            target = record.targets[one.target]
            mask, truth = shifted(record, target, by(one.sent_id)), target.mask.decode()
            wanted = truth.copy()
            if protocol.twice_covered == "dropped" and target.overlap is not None:
                wanted &= ~target.overlap.decode()
            if protocol.name in RESAMPLED:
                mask, wanted = protocol.canvas.truth(mask), protocol.canvas.truth(wanted)
            first = all(other.target != one.target for other in record.expressions[:place])
            known = Sample(
                record.image_id,
                target.ref_id,
                one.sent_id,
                one.text,
                target.mask,
                ImageGeometry.unresized(*target.mask.size),
                first=first,
            )
            counts = [count_of(each, mask, wanted) for each in rows.protocols]
            rows.add_counts(counts, known)
    scores: dict[str, Any] = whole(rows.table(), bootstrap=0)
    return scores["protocols"][protocol.name]["prints"] if protocol.name != "maris" else scores


def move(sent_id: int) -> int:
    return sent_id % 5


@pytest.mark.parametrize(("threshold", "names"), [(0.5, RESAMPLED + AS_THEY_ARE), (0.35, CUT_ELSEWHERE)])
def test_masks_are_scored_by_every_protocol_that_masks_allow(
    dataset: Path, tmp_path: Path, threshold: float, names: tuple[str, ...]
) -> None:
    lines = predicted(dataset, move)
    file = written(tmp_path / "p.jsonl", lines[::-1])
    typed = ("score", file, dataset, "--protocol", "all", "--threshold", threshold, "--bootstrap", 0)
    done = maris_fast(*typed, "--out", tmp_path / "s.json", "--per-expression", tmp_path / "e.jsonl")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["predictions"] == str(file)
    scores = found["as written"]
    assert set(scores["protocols"]) == {"maris", "phrasecut", *names}
    for name in scores["protocols"]:
        prints = by_hand(dataset, PROTOCOLS[name], move)
        if name == "maris":
            prints = {key: prints[key] for key in ("oIoU", "mIoU", "Pr@50", "Pr@90")}
        for theirs, value in prints.items():
            assert scores["protocols"][name]["prints"][theirs] == value, (name, theirs)
    for name in {*CUT_ELSEWHERE, "lavt", "rela", "lisa"} - set(names):
        cut = 0.35 if name in CUT_ELSEWHERE else 0.5
        assert f"{name}: not scored: its script predicts where p > {cut}, these masks were cut" in said(done)
    # A file of scored expressions can be read as predictions, and gives the same scores.
    again = maris_fast("score", tmp_path / "e.jsonl", dataset, "--bootstrap", 0, "--out", tmp_path / "2.json")
    assert again.exit_code == 0, again.output
    second = json.loads((tmp_path / "2.json").read_text())["as written"]
    assert {name: second[name] for name in ("oIoU", "mIoU", "Pr@50")} == {
        name: scores[name] for name in ("oIoU", "mIoU", "Pr@50")
    }


def test_a_protocol_that_masks_do_not_allow_is_refused_by_name(dataset: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "p.jsonl", predicted(dataset, move))
    done = maris_fast("score", file, dataset, "--protocol", "maris,vlt")
    assert done.exit_code == 2
    assert "protocol vlt: its script predicts where p > 0.35, these masks were cut at p > 0.5" in said(done)


def test_missing_double_strange_damaged_and_wrongly_sized_predictions_are_all_named(
    dataset: Path, tmp_path: Path
) -> None:
    lines = predicted(dataset, move)
    ids = [line["sent_id"] for line in lines]
    missing, double, sized, damaged = ids[:12:11][0], ids[3], ids[4], ids[5]
    assert len(ids) == 15
    lines = [line for line in lines if line["sent_id"] not in ids[:1] + ids[6:]]  # 10 of 15 are missing
    lines.append({"sent_id": double, "prediction": lines[2]["prediction"]})
    lines.append({"sent_id": 777, "image_id": 3, "prediction": lines[2]["prediction"]})
    for line in lines:
        if line["sent_id"] == sized:
            line["prediction"] = Rle.encode(np.zeros((7, 9))).model_dump()
        if line["sent_id"] == damaged:
            line["prediction"] = {**line["prediction"], "counts": "0"}
    file = written(tmp_path / "p.jsonl", lines)
    with file.open("a") as more:
        more.write('{"sent_id": "x"}\n')
    out = tmp_path / "s.json"
    done = maris_fast("score", file, dataset, "--out", out)
    assert done.exit_code == 2
    text = said(done)
    for one in (missing, *ids[6:]):  # all of a kind are named, however many
        assert str(one) in text
    assert "without a prediction" in text
    assert f"sent_id {double}: lines 3, 6" in text
    assert "line 7: sent_id 777, image_id 3" in text or "line 7: image_id 3, sent_id 777" in text
    assert f"sent_id {sized}: 7 x 9, " in text
    assert f"sent_id {damaged}:" in text
    assert "line 8: sent_id" in text
    assert not out.exists()


def test_ids_beside_the_sentences_must_be_those_of_the_data_set(dataset: Path, tmp_path: Path) -> None:
    lines = predicted(dataset, move)
    lines[0]["image_id"] = 99
    done = maris_fast("score", written(tmp_path / "p.jsonl", lines), dataset)
    assert done.exit_code == 2
    assert "of no expression of val (1)" in said(done)
    assert "without a prediction (1)" in said(done)


def expressions(file: Path, dataset: Path, by: Callable[[int], int]) -> Path:
    source = written(file.with_suffix(".p"), predicted(dataset, by))
    done = maris_fast("score", source, dataset, "--bootstrap", 0, "--per-expression", file)
    assert done.exit_code == 0, done.output
    return file


def test_two_models_are_compared_image_by_image(dataset: Path, tmp_path: Path) -> None:
    files = [expressions(tmp_path / f"{n}.jsonl", dataset, by) for n, by in ((1, move), (2, lambda i: i % 3))]
    out = tmp_path / "c.json"
    done = maris_fast("compare", *files, "--bootstrap", 300, "--most", 3, "--out", out)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    a, b = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    ious = np.array([[one["iou"] for one in lines] for lines in (a, b)])
    i, u = (np.array([[one[key] for one in lines] for lines in (a, b)]) for key in ("intersection", "union"))
    ooiu = i.sum(axis=1) / u.sum(axis=1)
    assert found["scores"]["oIoU"]["first"] == ooiu[0]
    assert found["scores"]["oIoU"]["difference"] == pytest.approx(ooiu[1] - ooiu[0], rel=1e-12)
    assert found["scores"]["mIoU"]["difference"] == pytest.approx((ious[1] - ious[0]).mean(), rel=1e-9)
    assert found["scores"]["Pr@90"]["second"] == (ious[1] > 0.9).mean()
    assert (found["better"], found["worse"]) == ((ious[1] > ious[0]).sum(), (ious[1] < ious[0]).sum())
    low, high = found["scores"]["mIoU"]["interval"]
    assert low < (ious[1] - ious[0]).mean() < high
    most = found["differing most"]
    wanted = np.sort(np.abs(ious[1] - ious[0]))[::-1][:3]
    assert [abs(one["iou"][1] - one["iou"][0]) for one in most] == pytest.approx(wanted)
    assert most[0]["sentence"] in said(done)
    assert "warning: the intervals are of 5 images" in said(done)
    # A model compared with itself has no difference, and an interval of zero width.
    same = maris_fast("compare", files[0], files[0], "--out", out)
    assert "equal on 15" in said(same)
    assert json.loads(out.read_text())["scores"]["oIoU"]["interval"] == [0, 0]


def test_a_paired_interval_is_narrower_than_the_models_own() -> None:
    """What makes an image hard for both models cancels out."""
    random = np.random.default_rng(0)
    hard = random.random(60)
    sums = [np.zeros((60, 14)) for _ in range(2)]
    for of_model, better in zip(sums, (0.0, 0.02), strict=True):
        of_model[:, 0] = 1
        of_model[:, 3] = np.clip(hard + better + random.normal(0, 0.01, 60), 0, 1)
        of_model[:, 1], of_model[:, 2] = of_model[:, 3], 1
    a, b = (ratios_of(PROTOCOLS["maris"], one)["mIoU"] for one in sums)
    (own, paired) = studentised([a, Difference(a, b)], 500)
    assert paired[1] - paired[0] < (own[1] - own[0]) / 10
    differences = sums[1][:, 3] - sums[0][:, 3]
    half = 2.0010 * differences.std(ddof=1) / np.sqrt(60)  # Student's quantile of 60 images
    middle = differences.mean()
    assert paired == pytest.approx((middle - half, middle + half), abs=half / 10)


def test_files_about_other_expressions_are_refused_with_the_first_and_counts(
    dataset: Path, tmp_path: Path
) -> None:
    one = expressions(tmp_path / "1.jsonl", dataset, move)
    lines = [json.loads(line) for line in one.read_text().splitlines()]
    two = written(tmp_path / "2.jsonl", lines[2:])
    done = maris_fast("compare", one, two)
    assert done.exit_code == 2
    first = f"image_id {lines[0]['image_id']}, ref_id {lines[0]['ref_id']}, sent_id {lines[0]['sent_id']}"
    assert f"2 of 15 in {one} are not in {two}, the first: {first} ('{lines[0]['sentence']}')" in said(done)
    other = written(tmp_path / "3.jsonl", [*lines[:-1], {**lines[-1], "sentence": "another"}])
    done = maris_fast("compare", one, other)
    assert done.exit_code == 2
    assert "1 have other sentences under the same ids" in said(done)
    assert "'another'" in said(done)


def test_files_without_scored_expressions_give_a_one_line_error(dataset: Path, tmp_path: Path) -> None:
    one = expressions(tmp_path / "1.jsonl", dataset, move)
    line = json.loads(one.read_text().splitlines()[0])
    for content, reason in (
        (json.dumps({"sent_id": 1}), "line 1: image_id: Field required"),
        (json.dumps({**line, "iou": float("nan")}), "line 1: iou"),
        (json.dumps({**line, "iou": 1.5}), "line 1: iou"),
        (f"{json.dumps(line)}\n{json.dumps(line)}", "appears twice"),
        ("", "holds no scored expression"),
    ):
        bad = tmp_path / "bad.jsonl"
        bad.write_text(content)
        done = maris_fast("compare", one, bad)
        assert done.exit_code == 2, content
        assert reason in said(done)
        assert isinstance(done.exception, SystemExit)


def test_a_sentence_with_another_scripts_end_of_line_is_one_line(dataset: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in expressions(tmp_path / "1", dataset, move).read_text().splitlines()]
    odd = [{**line, "sentence": "left\u2028or\x85right"} for line in lines]
    file = tmp_path / "odd.jsonl"
    file.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in odd))
    done = maris_fast("compare", file, file)
    assert done.exit_code == 0, done.output
    assert "equal on 15" in said(done)


def test_a_file_of_other_bytes_is_one_sentence(dataset: Path, tmp_path: Path) -> None:
    one = expressions(tmp_path / "1.jsonl", dataset, move)
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(one.read_text().encode("utf-16"))
    for typed in (("compare", one, bad), ("score", bad, dataset)):
        done = maris_fast(*typed)
        assert done.exit_code == 2
        assert isinstance(done.exception, SystemExit)
        assert "line 1" in said(done)


def test_sentences_of_a_file_cannot_command_the_terminal(dataset: Path, tmp_path: Path) -> None:
    files = []
    for name, by in (("1", move), ("2", lambda i: 0)):
        file = expressions(tmp_path / f"{name}.jsonl", dataset, by)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        files.append(written(file, [{**line, "sentence": "\x1b[2J[/] hard"} for line in lines]))
    done = maris_fast("compare", *files)
    assert done.exit_code == 0
    assert "\x1b[2J" not in done.output
    assert "\\x1b[2J[/] hard" in said(done)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_files_that_were_there(dataset: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "p.jsonl", predicted(dataset, move))
    scored = expressions(tmp_path / "scored.jsonl", dataset, move)
    out = tmp_path / "e.json"
    for typed in (
        ("score", source, dataset, "--bootstrap", 0, "--per-expression", out),
        ("score", source, dataset, "--bootstrap", 0, "--out", out),
        ("compare", scored, scored, "--out", out),
    ):
        out.write_text("before")
        partial = tmp_path / f".{out.name}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to("/dev/full")
        done = maris_fast(*typed)
        assert done.exit_code == 2
        assert f"{out} cannot be written: No space left on device" in said(done)
        assert f"name another place with {typed[-2]}" in said(done)
        assert out.read_text() == "before"
        assert "oIoU" in said(done)  # the scores were printed before
