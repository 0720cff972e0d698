"""One set of checks for all importers: each format is imported with one damaged row."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maris_fast.data_shards.importers.left_out import LISTING, LeftOutRow
from maris_fast.errors import InputError
from tests.data.import_subjects import SENTENCE, SUBJECTS, Subject, imported, noise, records

Damage = Callable[[Subject], None]

every_format = pytest.mark.parametrize("form", SUBJECTS)
with_paths = pytest.mark.parametrize("form", [one for one in SUBJECTS if one != "phrasecut"])
"""PhraseCut's file names are numbers."""
with_refs = pytest.mark.parametrize("form", ["refcoco", "grefcoco"])
with_instances = pytest.mark.parametrize("form", ["refcoco", "grefcoco", "coco"])


def of_rows(out: Path, row: str) -> list[LeftOutRow]:
    listed = [LeftOutRow.model_validate_json(line) for line in (out / LISTING).read_text().splitlines()]
    assert {one.row for one in listed} == {row}
    return listed


def others(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All records but the subject's."""
    return [one for one in rows if not any(said["text"] == SENTENCE for said in one["expressions"])]


def expect_left_out(
    tmp_path: Path,
    subject: Subject,
    damage: Damage,
    reason: str,
    detail: str = "",
    *,
    row: str | None = None,
    expressions: int = 1,
) -> None:
    """Check that the row is refused with the reason, and left out on request without changing other rows."""
    subject.made.write()
    imported(subject, tmp_path / "whole")
    whole = records(tmp_path / "whole")
    assert len(others(whole)) == len(whole) - 1
    damage(subject)
    subject.made.write()
    with pytest.raises(InputError) as caught:
        imported(subject, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert f"  {reason}" in str(caught.value)
    assert detail in str(caught.value)
    str(caught.value).encode()  # can be printed to a terminal
    info = imported(subject, tmp_path / "left", leave_out_bad=True).info
    rows = of_rows(tmp_path / "left", row or subject.row)
    assert {one.reason for one in rows} == {reason}
    assert sum(one.expressions for one in rows) == expressions
    assert {split: lost.expressions for split, lost in info.left_out.items()} == {subject.split: expressions}
    assert records(tmp_path / "left") == others(whole)


HALF = "texts with half a character, as a cut or wrongly decoded emoji leaves it"
LONG = "ab " * 76
SENTENCES: dict[str, tuple[str, str]] = {
    "spaces": (" \t ", "empty sentences"),
    "spaces without width": ("\u200b\ufeff", "empty sentences"),
    "an entity for a space": ("&nbsp;", "empty sentences"),
    "half an emoji": ("a \ud83d", HALF),
    "the other half": ("\ude00 b", HALF),
    "what a decoder could not read": ("caf\ufffd", HALF),
    "an escape sequence": ("\x1b[31mred", "texts with control characters"),
    "a zero": ("a\0b", "texts with control characters"),
    "78 tokens": (LONG, "sentences longer than CLIP's text tower reads, 77 tokens with start and end"),
    "many tokens of Thai": (
        "".join(chr(0x0E01 + 7 * i % 40) for i in range(70)),
        "sentences longer than CLIP's text tower reads, 77 tokens with start and end",
    ),
}


def sentence_row(form: str, subject: Subject) -> str:
    """The row of an empty sentence, which is a row of its own where a ref may have several."""
    number = {"refcoco": 160, "grefcoco": 160, "coco": 10}.get(form)
    return f"{subject.row}, sentence {number}" if number else subject.row


@pytest.mark.parametrize("what", SENTENCES)
@every_format
def test_a_text_that_is_not_a_sentence_is_left_out(tmp_path: Path, form: str, what: str) -> None:
    text, reason = SENTENCES[what]
    subject = SUBJECTS[form](tmp_path)
    row = sentence_row(form, subject)
    expect_left_out(tmp_path, subject, lambda one: one.say(text), reason, row=row)


@pytest.mark.parametrize("form", [one for one in SUBJECTS if one != "jsonl"])
def test_a_null_in_the_place_of_a_text_is_an_empty_sentence(tmp_path: Path, form: str) -> None:
    """In JSON lines, a line with a null is not as documented."""
    subject = SUBJECTS[form](tmp_path)
    row = sentence_row(form, subject)
    expect_left_out(tmp_path, subject, lambda one: one.say(None), "empty sentences", row=row)


@pytest.mark.parametrize("text", ["mu\ud83dg", "mu\x07g"], ids=ascii)
@every_format
def test_a_category_that_is_not_text_takes_its_row_along(tmp_path: Path, form: str, text: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    reason = "texts with half a character" if "\ud83d" in text else "texts with control characters"
    subject.label(text)
    subject.made.write()
    with pytest.raises(InputError, match=rf"{reason}.*\(1\)"):
        imported(subject, tmp_path / "refused")
    imported(subject, tmp_path / "left", leave_out_bad=True)
    assert [one.expressions for one in of_rows(tmp_path / "left", subject.row)] == [1]


KEPT: dict[str, tuple[str, str]] = {
    "tabs and line breaks": (" a\tb\r\nc ", "a b  c"),
    "a whole emoji": ("a \U0001f600", "a \U0001f600"),
    "accents and quotes": ("l'été « là »", "l'été « là »"),
    "77 tokens": ("ab " * 75, ("ab " * 75).strip()),
}


@pytest.mark.parametrize("what", KEPT)
@every_format
def test_a_text_that_is_a_sentence_is_kept(tmp_path: Path, form: str, what: str) -> None:
    said, expected = KEPT[what]
    subject = SUBJECTS[form](tmp_path)
    subject.say(said)
    subject.made.write()
    imported(subject, tmp_path / "out")
    texts = [one["text"] for record in records(tmp_path / "out") for one in record["expressions"]]
    assert texts.count(expected) == 1


# Image paths


OUTSIDE = "image paths that leave the image folder"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.png", "a/../../x.png", "..\\x.png", "C:\\photos\\x.png", "\\\\nas\\x.png"]
)
@with_paths
def test_a_path_that_leaves_the_image_folder_is_left_out(tmp_path: Path, form: str, path: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    assert subject.name is not None
    rename = subject.name
    expect_left_out(tmp_path, subject, lambda _: rename(path), OUTSIDE, path)


@pytest.mark.parametrize("path", ["x\ud83d.png", "x\n.png"], ids=ascii)
@with_paths
def test_a_path_that_is_not_text_is_left_out(tmp_path: Path, form: str, path: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    assert subject.name is not None
    subject.name(path)
    subject.made.write()
    with pytest.raises(InputError, match=r"texts with (half a|control) character"):
        imported(subject, tmp_path / "refused")
    imported(subject, tmp_path / "left", leave_out_bad=True)
    assert [one.expressions for one in of_rows(tmp_path / "left", subject.row)] == [1]


@pytest.mark.parametrize("spelt", ["./deep/{}", "deep//{}", "deep/./{}", "deep\\{}", ".\\deep\\{}"])
@with_paths
def test_every_spelling_of_a_path_is_one_in_the_record(tmp_path: Path, form: str, spelt: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    assert subject.name is not None
    (subject.root / "deep").mkdir()
    subject.photo.rename(subject.root / "deep" / subject.photo.name)
    subject.name(spelt.format(subject.photo.name))
    subject.made.write()
    imported(subject, tmp_path / "out")
    images = [record["image"] for record in records(tmp_path / "out")]
    assert images.count(f"deep/{subject.photo.name}") == 1


@with_instances
def test_an_image_of_which_something_is_left_is_not_counted_as_lost_under_another_spelling(
    tmp_path: Path, form: str
) -> None:
    subject = SUBJECTS[form](tmp_path)
    for image in subject.images:
        image["file_name"] = f"./{image['file_name']}"
    rows = subject.refs or subject.annotations
    rows.append(dict(rows[-1]))
    subject.made.write()
    lost = imported(subject, tmp_path / "left", leave_out_bad=True).info.left_out
    assert (lost["train"].rows, lost["train"].images) == (1, 0)


def test_an_annotation_of_a_negative_id_is_an_object(tmp_path: Path) -> None:
    subject = SUBJECTS["coco"](tmp_path)
    subject.annotations[-1]["id"] = -1
    subject.made.write()
    imported(subject, tmp_path / "out")
    (record,) = [one for one in records(tmp_path / "out") if one["image"] == "c.png"]
    assert [(target["ann_ids"], target["area"] > 0) for target in record["targets"]] == [([-1], True)]


@with_paths
def test_a_backslash_belongs_to_the_name_of_a_file_that_has_one(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    assert subject.name is not None
    subject.photo.rename(subject.root / "a\\b.png")
    subject.name("a\\b.png")
    subject.made.write()
    imported(subject, tmp_path / "out")
    assert [record["image"] for record in records(tmp_path / "out")].count("a\\b.png") == 1


def second_name(subject: Subject, link: Callable[[Path, Path], None] | None) -> str:
    """A second name of the subject's image file."""
    if link is None:
        return f"./{subject.photo.name}"
    link(subject.photo, subject.root / "linked.png")
    return "linked.png"


LINKS = {"spelt": None, "symbolic link": lambda a, b: b.symlink_to(a), "hard link": os.link}


@pytest.mark.parametrize("link", LINKS)
@with_instances
def test_one_file_under_two_ids_is_named(tmp_path: Path, form: str, link: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    name = second_name(subject, LINKS[link])

    def again(one: Subject) -> None:
        one.images.append({**one.images[-1], "id": 70, "file_name": name})
        one.annotations.append({**one.annotations[-1], "id": 700, "image_id": 70})
        if one.refs:
            sentences = [{**said, "sent_id": 7000, "sent": "again"} for said in one.sentences]
            ref = {**one.refs[-1], "ref_id": 700, "ann_id": 700, "image_id": 70, "sentences": sentences}
            one.refs.append(ref)
        else:
            one.annotations[-1]["sentences"] = ["again"]

    again(subject)
    subject.made.write()
    with pytest.raises(InputError, match=r"(?s)one file under several ids.*\(1\).*image 70 .* is image \d "):
        imported(subject, tmp_path / "refused")
    imported(subject, tmp_path / "left", leave_out_bad=True)
    assert of_rows(tmp_path / "left", "ref 700")[0].expressions == 1


@pytest.mark.parametrize("link", LINKS)
def test_lines_on_one_file_under_two_names_are_one_record(tmp_path: Path, link: str) -> None:
    subject = SUBJECTS["jsonl"](tmp_path)
    name = second_name(subject, LINKS[link])
    subject.refs.append({**subject.refs[-1], "image": name, "sentence": "again"})
    subject.made.write()
    imported(subject, tmp_path / "out")
    (record,) = [one for one in records(tmp_path / "out") if one["image"] == "3.png"]
    assert [one["text"] for one in record["expressions"]] == [SENTENCE, "again"]
    assert len(record["targets"]) == 1


@pytest.mark.parametrize("form", ["jsonl", "refcoco"])
def test_files_of_one_inode_number_are_not_one_file(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems give all files the same inode number."""
    subject = SUBJECTS[form](tmp_path)
    subject.made.write()
    imported(subject, tmp_path / "plain")
    stat = Path.stat

    def numbered(path: Path, **options: Any) -> os.stat_result:
        found = list(stat(path, **options))
        found[1] = 0  # st_ino
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", numbered)
    imported(subject, tmp_path / "out")
    assert records(tmp_path / "out") == records(tmp_path / "plain")


@every_format
def test_a_missing_image_is_reported_with_the_file_of_the_same_letters(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    other = subject.photo.with_name(subject.photo.name.swapcase())

    def rename(one: Subject) -> None:
        one.photo.rename(other)

    expect_left_out(tmp_path, subject, rename, "missing images", f"; there is {other.name}")


@with_paths
def test_an_image_in_a_folder_that_is_not_there_is_missing(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    assert subject.name is not None
    rename = subject.name
    expect_left_out(tmp_path, subject, lambda _: rename("nowhere/x.png"), "missing images", "nowhere/x.png")


# Sizes


def resize(subject: Subject, width: int, height: int) -> None:
    if subject.images:
        subject.images[-1].update(width=width, height=height)
    noise(subject.photo, (width, height))


@pytest.mark.parametrize("size", [(3000, 1), (1, 2500)])
@every_format
def test_a_photograph_with_no_room_on_sams_grid_is_left_out(
    tmp_path: Path, form: str, size: tuple[int, int]
) -> None:
    subject = SUBJECTS[form](tmp_path)
    if size[0] == 1:
        upright = [0, 0, 1, 0, 1, 9, 0, 9]
        for row in subject.annotations[-1:]:
            row["segmentation"] = [upright]
        if form == "jsonl":
            subject.refs[-1]["mask"] = [upright]
    reason = "images so narrow that nothing is left of their short side where SAM reads them"
    expect_left_out(tmp_path, subject, lambda one: resize(one, *size), reason)


@pytest.mark.parametrize("size", [(1_000_000, 1_000_000), (0, 40), (60, -1), (10**30, 1)])
@with_instances
def test_a_size_that_no_image_has_is_never_drawn(tmp_path: Path, form: str, size: tuple[int, int]) -> None:
    subject = SUBJECTS[form](tmp_path)
    width, height = size

    def annotate(one: Subject) -> None:
        one.images[-1].update(width=width, height=height)

    expect_left_out(tmp_path, subject, annotate, "images annotated with a size that no image has")


# Encodings

ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@every_format
def test_every_unicode_encoding_is_read(tmp_path: Path, form: str, encoding: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    subject.say("l'été")
    subject.made.write()
    imported(subject, tmp_path / "plain")
    for file in subject.files:
        text = file.read_text()
        plain = "\n".join(json.dumps(json.loads(line), ensure_ascii=False) for line in text.splitlines())
        file.write_bytes(plain.encode(encoding))
    imported(subject, tmp_path / "out")
    assert records(tmp_path / "out") == records(tmp_path / "plain")


@pytest.mark.parametrize("form", ["grefcoco", "coco", "phrasecut"])
def test_another_encoding_is_reported_in_one_sentence(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    subject.say("l'été")
    subject.made.write()
    for file in subject.files:
        file.write_bytes(json.dumps(json.loads(file.read_text()), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(InputError, match=r"is in none of UTF-8, UTF-16 and UTF-32 \(byte [\d,]+ is 0xe9\)"):
        imported(subject, tmp_path / "out")


def test_a_line_in_another_encoding_is_left_out(tmp_path: Path) -> None:
    subject = SUBJECTS["jsonl"](tmp_path)
    subject.made.write()
    with subject.files[0].open("ab") as file:
        file.write('{"image": "3.png", "sentence": "été", "mask": null}\n'.encode("latin-1"))
    imported(subject, tmp_path / "left", leave_out_bad=True)
    (row,) = of_rows(tmp_path / "left", "line 8")
    assert (row.reason, row.expressions) == ("lines that are not as docs/datasets.md says", 1)


# Ids


def with_an_image_again(one: Subject) -> None:
    one.images.append({**one.images[-1], "height": 41})


def with_an_annotation_again(one: Subject) -> None:
    one.annotations.append({**one.annotations[-1], "segmentation": [[0, 0, 5, 0, 5, 1, 0, 1]]})


def with_a_category_again(one: Subject) -> None:
    one.categories.append({**one.categories[-1], "name": "less"})


@pytest.mark.parametrize(
    ("forms", "damage", "what", "detail"),
    [
        (("refcoco", "grefcoco", "coco", "phrasecut"), with_an_image_again, "images", "(2 times)"),
        (("refcoco", "grefcoco"), with_an_annotation_again, "annotations", "annotation 108, image 8"),
        (("refcoco", "grefcoco", "coco"), with_a_category_again, "categories", "'less' and 'more'"),
    ],
)
def test_an_id_that_means_two_rows_takes_along_what_needs_it(
    tmp_path: Path, forms: tuple[str, ...], damage: Damage, what: str, detail: str
) -> None:
    for form in forms:
        folder = tmp_path / form
        folder.mkdir()
        subject = SUBJECTS[form](folder)
        expect_left_out(folder, subject, damage, f"ids that several {what} have", detail)


@with_instances
def test_the_same_row_again_means_nothing_new(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    subject.made.write()
    imported(subject, tmp_path / "plain")
    subject.images.append(dict(subject.images[-1]))
    subject.categories.append(dict(subject.categories[-1]))
    if form != "coco":
        subject.annotations.append(dict(subject.annotations[-1]))
    subject.made.write()
    imported(subject, tmp_path / "out")
    assert records(tmp_path / "out") == records(tmp_path / "plain")


@with_refs
def test_refs_of_one_id_are_left_out_all(tmp_path: Path, form: str) -> None:
    def again(one: Subject) -> None:
        said = [{**one.sentences[0], "sent_id": 161, "sent": "another"}]
        one.refs.append({**one.refs[-1], "sentences": said})

    reason, detail = "ids that several refs have", "ref 16 (2 times)"
    expect_left_out(tmp_path, SUBJECTS[form](tmp_path), again, reason, detail, expressions=2)


@pytest.mark.parametrize("form", ["refcoco", "grefcoco", "coco", "phrasecut"])
def test_of_refs_that_are_the_same_the_first_is_kept(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    subject.made.write()
    imported(subject, tmp_path / "plain")
    rows = subject.refs or subject.annotations
    rows.append(dict(rows[-1]))
    subject.made.write()
    with pytest.raises(InputError, match=r"ids that several (refs|phrases) have.*\(1\)"):
        imported(subject, tmp_path / "refused")
    imported(subject, tmp_path / "left", leave_out_bad=True)
    row = f"phrase {len(rows) - 1}" if form == "phrasecut" else subject.row
    assert [one.expressions for one in of_rows(tmp_path / "left", row)] == [1]
    assert records(tmp_path / "left") == records(tmp_path / "plain")


def test_annotations_and_phrases_of_one_id_are_left_out_all(tmp_path: Path) -> None:
    for form, what in (("coco", "refs"), ("phrasecut", "phrases")):
        (tmp_path / form).mkdir()
        subject = SUBJECTS[form](tmp_path / form)
        rows = subject.refs or subject.annotations
        rows.append({**rows[-1], "sentences": ["another"], "phrase": "another"})
        subject.made.write()
        with pytest.raises(InputError, match=rf"ids that several {what} have.*\(\d\)"):
            imported(subject, tmp_path / form / "refused")
        lost = imported(subject, tmp_path / form / "left", leave_out_bad=True).info.left_out
        assert lost[subject.split].expressions == 2


@with_refs
def test_sentences_of_one_id_are_left_out_all(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    other = subject.refs[0]["sentences"][0]
    subject.sentences[0]["sent_id"] = other["sent_id"]
    subject.made.write()
    with pytest.raises(InputError, match=r"ids that several sentences have.*\(2\)"):
        imported(subject, tmp_path / "refused")
    lost = imported(subject, tmp_path / "left", leave_out_bad=True).info.left_out
    assert lost["train"].expressions == 2
    texts = {one["text"] for record in records(tmp_path / "left") for one in record["expressions"]}
    assert not texts & {SENTENCE, other["sent"]}


def test_all_duplicates_are_reported_at_once(tmp_path: Path) -> None:
    subject = SUBJECTS["refcoco"](tmp_path)
    with_an_image_again(subject)
    with_a_category_again(subject)
    subject.refs += [{**subject.refs[0], "split": "val"}, {**subject.refs[1], "split": "val"}]
    subject.made.write()
    with pytest.raises(InputError) as caught:
        imported(subject, tmp_path / "out")
    message = str(caught.value)
    assert "ids that several refs have; give each its own (2):" in message
    assert "ids that several images have; give each its own (1):" in message


def test_categories_are_named_as_their_own_split_file_names_them(tmp_path: Path) -> None:
    coco = SUBJECTS["coco"](tmp_path)
    whole = coco.made.said
    for split, image_id, name in (("train", 6, "mug"), ("val", 4, "cup")):
        coco.made.said = {
            "images": [{**row, "split": split} for row in whole["images"] if row["id"] == image_id],
            "annotations": [
                {**row, "category_id": 1} for row in whole["annotations"] if row["image_id"] == image_id
            ],
            "categories": [{"id": 1, "name": name}],
        }
        coco.made.write(f"two_{split}.json")
    coco.dataset = "annotations/two_{split}.json"
    imported(coco, tmp_path / "out")
    named = {one["split"]: {t["category"] for t in one["targets"]} for one in records(tmp_path / "out")}
    assert named == {"train": {"mug"}, "val": {"cup"}}


# Rows that are not as their format says


def rows_of(one: Subject) -> list[Any]:
    return one.refs or one.annotations


@pytest.mark.parametrize("instead", ["no row", None, 7, [1], {}], ids=repr)
@every_format
def test_only_the_invalid_row_is_left_out(tmp_path: Path, form: str, instead: Any) -> None:
    subject = SUBJECTS[form](tmp_path)
    rows_of(subject).append(instead)
    if form == "coco" and instead == {}:
        return  # an annotation without sentences
    subject.made.write()
    with pytest.raises(InputError, match=r"(rows|lines) that are not as .* \(1\)"):
        imported(subject, tmp_path / "refused")
    imported(subject, tmp_path / "left", leave_out_bad=True)
    place = len(rows_of(subject)) - 1
    name = {"jsonl": f"line {place + 1}", "coco": f"annotations row {place}"}.get(form, f"row {place}")
    assert len(of_rows(tmp_path / "left", name)) == 1
    rows_of(subject).pop()
    subject.made.write()
    imported(subject, tmp_path / "plain")
    assert records(tmp_path / "left") == records(tmp_path / "plain")


@pytest.mark.parametrize("form", [one for one in SUBJECTS if one != "jsonl"])
def test_a_row_without_a_key_is_left_out_with_its_sentences(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    place = len(rows_of(subject)) - 1

    def without_image(one: Subject) -> None:
        del rows_of(one)[-1]["image_id"]

    row = f"row {place}"
    if form == "coco":
        subject.split = "?"  # the split is a field of the image
        row = f"annotations {row}"
    reason = "rows that are not as their format says"
    expect_left_out(tmp_path, subject, without_image, reason, f"{row}: image_id: Field required", row=row)


LISTED = [
    *((form, one) for form in ("refcoco", "grefcoco") for one in ("images", "annotations", "categories")),
    *((form, one) for form in ("coco",) for one in ("images", "categories")),
    ("phrasecut", "images"),
]
"""Lists with rows that other rows need."""
BROKEN: dict[str, dict[str, Any]] = {
    "images": {"width": "wide"},
    "annotations": {"image_id": None},
    "categories": {"name": None},
}
LACKING = r"(refs|phrases) (to|on) (images|annotations or categories) that .*\.json lacks"


@pytest.mark.parametrize(("form", "of"), LISTED)
@pytest.mark.parametrize("known", [True, False], ids=["with its id", "without"])
def test_a_broken_row_that_others_need_is_left_out_with_them(
    tmp_path: Path, form: str, of: str, known: bool
) -> None:
    subject = SUBJECTS[form](tmp_path)
    subject.made.write()
    imported(subject, tmp_path / "whole")
    rows = getattr(subject, of)
    key = "image_id" if form == "phrasecut" else "id"
    rows[-1] = {**rows[-1], **(BROKEN[of] if known else {key: "mine"})}
    rows.append("no row at all")
    subject.made.write()
    with pytest.raises(InputError) as caught:
        imported(subject, tmp_path / "refused")
    assert "  rows that are not as their format says (2):" in str(caught.value)
    assert f"    {of} row {len(rows) - 2}: " in str(caught.value)
    info = imported(subject, tmp_path / "left", leave_out_bad=True).info
    assert records(tmp_path / "left") == others(records(tmp_path / "whole"))
    listed = [
        LeftOutRow.model_validate_json(line)
        for line in (tmp_path / "left" / LISTING).read_text().splitlines()
    ]
    broken = [one for one in listed if one.reason == "rows that are not as their format says"]
    assert [one.row for one in broken] == [f"{of} row {place}" for place in (len(rows) - 2, len(rows) - 1)]
    assert {one.file for one in broken} == {subject.files[-1 if form == "phrasecut" else 0].name}
    (needing,) = (one for one in listed if one not in broken)
    assert (needing.row, needing.expressions) == (subject.row, 1)
    if known:
        assert needing.reason == "rows that need one which is not as its format says"
        assert f"{of} row {len(rows) - 2}: " in needing.detail
    else:
        assert re.fullmatch(LACKING, needing.reason)
    split = "?" if form == "coco" and of == "images" and not known else subject.split  # set by the image
    assert info.left_out[split].expressions == 1
    assert sum(lost.expressions for lost in info.left_out.values()) == 1


def test_a_broken_image_is_not_another_split_files_of_the_same_id(tmp_path: Path) -> None:
    coco = SUBJECTS["coco"](tmp_path)
    whole = coco.made.said
    for split in ("train", "val"):
        coco.made.said = json.loads(json.dumps(whole))
        coco.made.said["images"] = [{**row, "split": split} for row in coco.made.said["images"]]
        if split == "train":
            coco.made.said["images"][-1]["height"] = "tall"
        coco.made.said["annotations"] = [
            {**row, "id": row["id"] + 1000 * (split == "val")} for row in coco.made.said["annotations"]
        ]
        coco.made.write(f"two_{split}.json")
    coco.dataset = "annotations/two_{split}.json"
    imported(coco, tmp_path / "out", leave_out_bad=True)
    lines = (tmp_path / "out" / LISTING).read_text().splitlines()
    listed = [LeftOutRow.model_validate_json(line) for line in lines]
    assert sorted((one.file, one.split, one.row, one.expressions) for one in listed) == [
        ("two_train.json", "train", f"images row {len(whole['images']) - 1}", 0),
        ("two_train.json", "train", "ref 90", 1),
        ("two_val.json", "val", "ref 1090", 1),
    ]


@every_format
def test_a_file_of_rows_of_another_format_is_refused_all_the_same(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    for at in range(len(rows_of(subject))):
        rows_of(subject)[at] = {"picture": 1, "sentences": ["x"], "split": "train"}
    subject.made.write()
    with pytest.raises(InputError, match=r"of (train|val|all splits|\?) would be left out, more than 50%"):
        imported(subject, tmp_path / "out", leave_out_bad=True)


# Null and unknown fields


def nulls_of_refs(one: Subject) -> None:
    one.annotations[-1].update(iscrowd=None)
    one.refs[-1].update(category_id=None, file_name=None, sent_ids=None)
    one.sentences[0].update(kind=None, raw=None, tokens=None)


def nulls_of_coco(one: Subject) -> None:
    one.images[-1].update(split=None, license=None)
    one.annotations[-1].update(iscrowd=None, caption=None, bbox=None)
    one.annotations.append({"id": 95, "image_id": 6, "category_id": 1, "sentences": None})


def nulls_of_phrases(one: Subject) -> None:
    one.images[-1].update(coco_id=None, flickr_id=None)
    one.refs[-1].update(instance_boxes=None)
    one.refs[-1]["phrase_structure"].update(attributes=None, relation_ids=None)


def nulls_of_lines(one: Subject) -> None:
    one.refs[-1].update(split=None, sentences=None, kind=None, width=None, height=None)


NULLS = {
    "refcoco": nulls_of_refs,
    "grefcoco": nulls_of_refs,
    "coco": nulls_of_coco,
    "phrasecut": nulls_of_phrases,
    "jsonl": nulls_of_lines,
}


@every_format
def test_null_means_what_a_missing_field_means(tmp_path: Path, form: str) -> None:
    subject = SUBJECTS[form](tmp_path)
    subject.made.write()
    imported(subject, tmp_path / "plain")
    NULLS[form](subject)
    subject.made.write()
    imported(subject, tmp_path / "out")
    assert records(tmp_path / "out") == records(tmp_path / "plain")


def no_category_of_an_annotation(one: Subject) -> None:
    one.annotations[-1].update(category_id=None)


def no_name_of_a_phrase(one: Subject) -> None:
    one.refs[-1]["phrase_structure"].update(name=None)


def no_category_of_a_line(one: Subject) -> None:
    one.refs[-1].update(category=None)


@pytest.mark.parametrize(
    ("form", "damage"),
    [
        ("refcoco", no_category_of_an_annotation),
        ("grefcoco", no_category_of_an_annotation),
        ("coco", no_category_of_an_annotation),
        ("phrasecut", no_name_of_a_phrase),
        ("jsonl", no_category_of_a_line),
    ],
)
def test_a_null_category_is_none(tmp_path: Path, form: str, damage: Damage) -> None:
    subject = SUBJECTS[form](tmp_path)
    damage(subject)
    subject.made.write()
    imported(subject, tmp_path / "out")
    (record,) = [
        one for one in records(tmp_path / "out") if any(e["text"] == SENTENCE for e in one["expressions"])
    ]
    assert [target["category"] for target in record["targets"]] == [""]


FOREIGN: dict[str, Any] = {"metadata": {"a": [1, {"b": None}]}, "kind": 7, "type": ["x"], "note": "ignored"}


@pytest.mark.parametrize("info", ["2024, by us", ["a"], None, {"synthetic": "partly", "year": 2024}])
@pytest.mark.parametrize("form", ["refcoco", "grefcoco", "coco", "phrasecut"])
def test_fields_that_are_not_ours_are_ignored(tmp_path: Path, form: str, info: Any) -> None:
    subject = SUBJECTS[form](tmp_path)
    subject.made.write()
    imported(subject, tmp_path / "plain")
    for rows in (subject.images, subject.annotations, subject.refs, subject.sentences, subject.categories):
        for at, row in enumerate(rows):
            rows[at] = {**FOREIGN, **row}
    if form == "coco":
        subject.made.said["info"] = info
        subject.annotations.append({"nobody": "refers to this", "id": "x", "segmentation": 7})
    elif form != "phrasecut":
        subject.made.instances["info"] = info
    subject.made.write()
    imported(subject, tmp_path / "out")
    assert records(tmp_path / "out") == records(tmp_path / "plain")
