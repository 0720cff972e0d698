"""The module that opens and checks every image file."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import maris_fast
from maris_fast.errors import InputError
from maris_fast.images import Upload, as_shown, check_image, load_image, load_stored, views_of
from tests.pictures import TURNS, UPRIGHT, Decodes, exif_of, png_chunk, png_of, stored_for, turned


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_photograph_is_as_it_is_shown_to_the_last_pixel(tmp_path: Path, turn: int, ending: str) -> None:
    path = turned(tmp_path / f"photo.{ending}", turn)
    image = load_image(path)
    np.testing.assert_array_equal(np.asarray(image), UPRIGHT)
    np.testing.assert_array_equal(np.asarray(as_shown(Image.open(path))), UPRIGHT)
    np.testing.assert_array_equal(np.asarray(as_shown(image)), UPRIGHT)  # not turned again
    assert views_of(path).shown == views_of(path, whole=True).shown == (20, 30)
    check_image(path, (20, 30), "shown")


@pytest.mark.parametrize("turn", TURNS)
def test_an_annotated_photograph_can_be_taken_as_it_is_stored(tmp_path: Path, turn: int) -> None:
    path = turned(tmp_path / "photo.png", turn)
    stored = stored_for(turn)
    image = load_image(path, stored.shape[:2], "stored")
    np.testing.assert_array_equal(np.asarray(image), stored)
    np.testing.assert_array_equal(np.asarray(as_shown(image)), stored)
    assert views_of(path).turned
    assert views_of(path).stored == stored.shape[:2]


def test_a_jpeg_is_turned_as_browsers_turn_it(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(UPRIGHT).save(path, exif=exif_of(6))
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert wanted.shape == (30, 20, 3)
    np.testing.assert_array_equal(np.asarray(load_image(path)), wanted)


def with_chunk(png: bytes, kind: bytes, content: bytes, *, after_pixels: bool) -> bytes:
    place = len(png) - len(png_chunk(b"IEND", b"")) if after_pixels else png.index(b"IDAT") - 4
    return png[:place] + png_chunk(kind, content) + png[place:]


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PROFILE = b"\nexif\n      26\n" + exif_of(6).tobytes().hex().encode()
CHUNKS = {
    "eXIf": (b"eXIf", exif_of(6).tobytes()[6:]),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "profile": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)),
}


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize("kind", CHUNKS)
def test_the_size_and_orientation_of_a_png_are_read_without_decoding_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, after_pixels: bool
) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored_for(6))).save(stream, "PNG")
    upload = Upload(with_chunk(stream.getvalue(), *CHUNKS[kind], after_pixels=after_pixels))
    decodes = Decodes(monkeypatch)
    views = views_of(upload)
    check_image(upload, (20, 30), "shown")
    assert (views.stored, views.shown, views.turned) == ((30, 20), (20, 30), True)
    assert decodes.number == 0
    np.testing.assert_array_equal(np.asarray(load_image(upload, (20, 30))), UPRIGHT)
    assert decodes.number == 1
    assert views_of(upload, whole=True) == views


def test_a_png_cut_off_before_its_orientation_has_the_size_of_its_header() -> None:
    whole = png_of(40, 20, png_chunk(b"IDAT", zlib.compress(bytes(20 * 121))), png_chunk(*CHUNKS["eXIf"]))
    assert views_of(Upload(whole)).shown == (40, 20)
    for length in range(whole.index(b"IDAT") + 4, whole.index(b"eXIf"), 7):
        assert views_of(Upload(whole[:length])).shown == (20, 40)


def test_frames_after_the_first_do_not_turn_it() -> None:
    stream = io.BytesIO()
    frames = [Image.fromarray(np.roll(UPRIGHT, step, 0)) for step in range(2)]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    upload = Upload(with_chunk(stream.getvalue(), *CHUNKS["eXIf"], after_pixels=True))
    assert views_of(upload).shown == load_image(upload).size[::-1] == (20, 30)


DAMAGED_EXIF = {
    "jpg": b"MM\0\x2a\xff\xff\xff\xff" + b"\xff" * 30,
    "png": b"garbage",
    "webp": b"II\x2b\0\x08\0\0\0",
}
"""EXIF data that Pillow treats as empty, or that makes it raise SyntaxError or struct.error."""


@pytest.mark.parametrize("ending", DAMAGED_EXIF)
def test_exif_that_is_damaged_turns_nothing(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"photo.{ending}"
    Image.fromarray(UPRIGHT).save(path, exif=b"Exif\0\0" + DAMAGED_EXIF[ending])
    assert load_image(path).size == (30, 20)
    assert not views_of(path).turned


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
GREY = np.rint(RAMP / 65535 * 255).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif", "jp2", "pgm", "big-endian.tif", "32 bits.tif", "float.tif"])
def test_a_ramp_of_16_bits_stays_a_ramp(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ramp.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 256 256 65535\n" + RAMP.astype(">u2").tobytes())
    elif ending == "big-endian.tif":
        Image.frombytes("I;16B", (256, 256), RAMP.astype(">u2").tobytes()).save(path)
    elif ending == "32 bits.tif":
        Image.fromarray(RAMP.astype(np.int32)).save(path)
    elif ending == "float.tif":
        Image.fromarray((RAMP / 65535).astype(np.float32)).save(path)
    else:
        Image.fromarray(RAMP).save(path)
    found = np.asarray(load_image(path))
    assert (found[..., 0] == 255).mean() < 0.01
    # A half may be rounded either way.
    assert np.abs(found.astype(int) - GREY[..., None]).max() <= (1 if ending == "float.tif" else 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70000]], np.int32), "int32 values from 0 to 70000; expected 0 to 65535"),
        (np.array([[-1, 5]], np.int32), "from -1 to 5"),
        (np.array([[0, 255]], np.float32), "float32 values from 0 to 255; expected 0 to 1"),
        (np.array([[0, np.nan]], np.float32), "from nan to nan"),
    ],
)
def test_greys_without_a_known_white_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = tmp_path / "grey.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(InputError, match=message):
        load_image(path)


def test_transparency_is_ignored(tmp_path: Path) -> None:
    pixels = np.dstack([UPRIGHT, np.zeros((20, 30), np.uint8)])
    Image.fromarray(pixels, "RGBA").save(tmp_path / "clear.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "clear.png")), UPRIGHT)


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(UPRIGHT.repeat(8, 0).repeat(8, 1)).save(stream, "JPEG")
    return stream.getvalue()


TEXT_BOMB = png_of(
    4, 4, png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(70_000_000), 9)), png_chunk(b"IDAT", b"")
)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git-lfs pointer"),
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(100), "is HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2" + bytes(100), "is a video"),
        (b"\n <!DOCTYPE html><html><body>Not found</body></html>", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "what a server answered"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "which would run a program"),
        (bytes(4096), "a copy that was never finished"),
        (b"no image", "none of the formats that Pillow reads"),
        (jpeg()[:2000], r"cannot be decoded: .*truncated.*; fetch the file again"),
        (png_of(20_000, 10_000), r"has 200 megapixels, read are at most 178; save it smaller"),
        (TEXT_BOMB, "text that unpacks to many megabytes"),
    ],
)
def test_each_kind_of_file_that_is_not_read_has_its_sentence(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"photo\.jpg .*{sentence}"):
        load_image(path)
    with pytest.raises(InputError, match=rf"photo\.jpg .*{sentence}"):
        views_of(path, whole=True)


def test_the_limit_on_pixels_does_not_depend_on_pillows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_of(20_000, 10_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(InputError, match="200 megapixels"):
        load_image(path)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo.jpg": (os.mkfifo, "is a pipe, socket or device"),
    "device.jpg": (lambda path: path.symlink_to("/dev/zero"), "is a pipe, socket or device"),
    "folder.jpg": (Path.mkdir, "is a folder"),
    "nothing.jpg": (lambda path: None, "no image"),
    "circle.jpg": (
        lambda path: path.symlink_to(path),
        "cannot be looked at: .*Too many levels of symbolic links",
    ),
    f"{'x' * 300}.jpg": (lambda path: None, "cannot be looked at: .*File name too long"),
}

READ_ALL = """
import sys
from pathlib import Path
from maris_fast.errors import InputError
from maris_fast.images import load_image, load_stored, views_of
for path in map(Path, sys.argv[1:]):
    for read in (load_image, views_of, load_stored):
        try: print(path.name, read(path))
        except InputError as error: print(error)
"""


@pytest.mark.process
def test_only_regular_files_are_opened_and_100_megapixels_are_accepted(tmp_path: Path) -> None:
    """In a separate process, since it would hang on failure, and since warnings are shown there."""
    for name, (make, _) in NO_FILES.items():
        make(tmp_path / name)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    paths = [str(tmp_path / name) for name in (*NO_FILES, "large.png")]
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, *paths], capture_output=True, text=True, timeout=120, check=True
    )
    for name, (_, sentence) in NO_FILES.items():
        told = [line for line in done.stdout.splitlines() if name in line and re.search(sentence, line)]
        assert len(told) == 3, done.stdout
    assert done.stdout.count("large.png") == 3
    assert not done.stderr


def test_a_mask_keeps_its_values(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "mask.png", exif=exif_of(6))
    picture = load_stored(tmp_path / "mask.png")
    assert picture.format == "PNG"
    np.testing.assert_array_equal(np.asarray(picture), RAMP)


def test_no_other_file_of_the_program_opens_an_image() -> None:
    package = Path(maris_fast.__file__).parent
    folders = [package, *(package / name for name in ("data_shards", "train", "kernels"))]
    opening = [
        str(file.relative_to(package))
        for one in folders
        for file in one.rglob("*.py")
        if "Image.open(" in file.read_text()
    ]
    assert opening == ["images.py"]
