"""The only module that opens image files, so that any fault of a file is reported in one sentence.

How a file becomes pixels:

- The EXIF orientation is applied ("shown", as in browsers) or not ("stored"): it is applied to a user's
  photograph; for an annotated image its record decides. Pillow itself rotates TIFFs; their views are equal.
- 16-bit greys are scaled by 255 / 65535, and so are 32-bit integers up to 65535; floats from 0 to 1 are
  scaled by 255. Values outside these ranges are refused, as it is unknown which value is white.
- Transparency is ignored: a pixel has its stored colour. Of several frames, the first is used.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from maris_fast.errors import InputError, TooLargeError


class NoImageError(InputError):
    """The image file does not exist."""


Orientation = Literal["stored", "shown"]
"""View of a photograph: the pixels as stored in the file, or rotated and flipped as EXIF says."""

MOST_PIXELS = 178_000_000
"""Most pixels of an image: 0.5 GB as RGB, slightly below Pillow's own limit."""

# Pillow warns from half of that on; this module enforces the limit itself.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_RUNS_PROGRAMS = ("EPS",)  # Pillow hands it to Ghostscript
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHECKSUM = 4
_PNG_HEAD_AND_TEXTS = (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_GREY16 = 65535

_HEAD_BYTES = 512
_NOT_READ = (
    (
        rb"version https://git-lfs",
        "is a git-lfs pointer, not the image; run `git lfs pull` where it came from",
    ),
    (
        rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
        "is HEIC, which Pillow does not read; save it as JPEG or PNG",
    ),
    (rb".{4}ftypavi[fs]", "is AVIF, which this Pillow was built without; save it as JPEG or PNG"),
    (rb".{4}ftyp", "is a video; save the frame that is meant as JPEG or PNG"),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype|html)", "is a web page, not an image; fetch the image itself"),
    (
        rb"(\xef\xbb\xbf)?\s*<(\?xml|svg)",
        "is XML: a drawing (SVG), or what a server answered in place of the image; save a drawing as PNG, "
        "fetch an image again",
    ),
    (rb"%!PS|\xc5\xd0\xd3\xc6|%PDF", "is PostScript or PDF, which would run a program; save it as PNG"),
    (rb"\0{64}", "begins with zeros, as a copy that was never finished; fetch it again"),
)


_NAMED_SO = (".heic", ".heif", ".avif")
"""File suffixes that Pillow may not support; such files are reported instead of skipped."""


def is_named_as_image(path: Path) -> bool:
    """Whether the file's suffix is that of an image."""
    Image.init()
    form = Image.registered_extensions().get(path.suffix.lower())
    return path.suffix.lower() in _NAMED_SO or (form in Image.OPEN and form not in _RUNS_PROGRAMS)


@dataclass(frozen=True)
class Upload:
    """An image that a client has sent, not a local file: in a format that browsers show, or a TIFF."""

    content: bytes
    name: str = "the image"

    def __str__(self) -> str:
        return self.name


def uploaded(path: Path) -> Upload:
    """The content of a file that a client has sent.

    Raises:
        InputError: the file cannot be read.
    """
    _require_file(path)
    try:
        return Upload(path.read_bytes(), path.name)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}; send it again") from error


UPLOADED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats of uploads: untrusted data reaches no other decoder."""


@dataclass(frozen=True)
class Views:
    """(height, width) of the two views of an image file; ``turned``: whether EXIF makes them differ."""

    stored: tuple[int, int]
    shown: tuple[int, int]
    turned: bool

    def of(self, orientation: Orientation) -> tuple[int, int]:
        return self.stored if orientation == "stored" else self.shown


def views_of(path: Path | Upload, *, whole: bool = False) -> Views:
    """The sizes of both views, without decoding pixels.

    Args:
        whole: also read the file to its end, which finds truncated files; pixels are decoded at an eighth of
            the size where the format allows it.

    Raises:
        InputError: not a readable image.
    """
    with _opened(path) as image:
        stored = image.height, image.width
        if whole:
            with _decoding(path):
                image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
        turn = _turn(image)
    return Views(stored, stored[::-1] if turn in _SIDEWAYS else stored, turn in _TURNS)


def check_image(path: Path | Upload, size: tuple[int, int], orientation: Orientation) -> None:
    """Check the file's size without decoding its pixels.

    Args:
        size: (height, width) that the view must have.

    Raises:
        InputError: not a readable image, or one of another size.
    """
    with _opened(path) as image:
        _require_size(path, image, size, orientation)


def load_image(
    path: Path | Upload, size: tuple[int, int] | None = None, orientation: Orientation = "shown"
) -> Image.Image:
    """The decoded image, RGB, without any metadata.

    Args:
        size: (height, width) that the view must have; None: any.

    Raises:
        InputError: as ``check_image``, or the pixels cannot be decoded.
    """
    with _opened(path) as image:
        if size is not None:
            _require_size(path, image, size, orientation)
        with _decoding(path):
            return _rgb(image, str(path), orientation)


def load_stored(path: Path) -> Image.Image:
    """The decoded image in its own mode, for masks: neither rotated nor scaled.

    Raises:
        InputError: not an image that can be read and decoded.
    """
    with _opened(path) as image:
        with _decoding(path):
            image.load()
        return image


def png_of(content: bytes) -> Image.Image:
    """A PNG embedded in another file; its size is known, its pixels are not decoded yet.

    Raises:
        OSError: ``content`` is not a PNG.
    """
    return Image.open(io.BytesIO(content), formats=["PNG"])


def as_shown(image: Image.Image) -> Image.Image:
    """An image that the caller has opened, converted as by ``load_image``; the original is not changed.

    Raises:
        InputError: its pixels cannot be decoded, or have values without a defined colour.
    """
    name = str(getattr(image, "filename", "") or "the image")
    with _decoding(Path(name)):
        return _rgb(image, name, "shown")


@contextmanager
def _opened(path: Path | Upload) -> Iterator[Image.Image]:
    Image.init()
    file: Path | io.BytesIO
    if isinstance(path, Upload):
        if not path.content:
            raise InputError(f"{path} is empty; send it again")
        file, formats = io.BytesIO(path.content), list(UPLOADED)
    else:
        path = file = Path(path)
        _require_file(path)
        formats = [one for one in Image.ID if one not in _RUNS_PROGRAMS]
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        raise InputError(f"{path} {_what_it_is(path)}") from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_large(path, int(pixels[0]) if pixels else MOST_PIXELS) from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError and others
        raise InputError(f"{path} is not a readable image: {_why(error)}") from error
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise _too_large(path, image.width * image.height)
        yield image


def _require_file(path: Path) -> None:
    """Check before opening: opening a pipe blocks until it has a writer, and a device may never end."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoImageError(f"no image {path}; put the file there, or name the right folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be looked at: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder; name an image file in it")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is a pipe, socket or device, not a file; save the image as a file")
    if not found.st_size:
        raise InputError(f"{path} is empty; fetch the file again")


def _what_it_is(path: Path | Upload) -> str:
    if isinstance(path, Upload):
        head, read = path.content[:_HEAD_BYTES], f"{', '.join(UPLOADED[:-1])} or {UPLOADED[-1]}"
    else:
        with path.open("rb") as file:
            head, read = file.read(_HEAD_BYTES), "the formats that Pillow reads"
    for pattern, what in _NOT_READ:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return what
    return f"is not a readable image: none of {read}; save it as JPEG or PNG"


def _too_large(path: Path | Upload, pixels: int) -> TooLargeError:
    return TooLargeError(
        f"{path} has {pixels / 1e6:.0f} megapixels, read are at most {MOST_PIXELS / 1e6:.0f}; save it smaller"
    )


def _why(error: Exception) -> str:
    if "MAX_TEXT" in str(error):
        return "it holds text that unpacks to many megabytes; save it again without text chunks"
    return str(error) or type(error).__name__


@contextmanager
def _decoding(path: Path | Upload) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and others
        raise InputError(f"{path} cannot be decoded: {_why(error)}; fetch the file again") from error


def _require_size(
    path: Path | Upload, image: Image.Image, size: tuple[int, int], orientation: Orientation
) -> None:
    sideways = orientation == "shown" and _turn(image) in _SIDEWAYS
    found = (image.width, image.height) if sideways else (image.height, image.width)
    if found != size:
        raise InputError(
            f"{path} is {found[0]} x {found[1]} (height x width), annotated as {size[0]} x {size[1]}; "
            "the image folder does not belong to the annotations"
        )


def _turn(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8."""
    if image.format == "TIFF":  # already rotated by Pillow
        return 1
    try:
        # A decoded image has no tiles left.
        exif = _exif_of_png(image) if isinstance(image, PngImageFile) and image.tile else image.getexif()
        turn = exif.get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data is ignored
        return 1
    return turn if turn in _TURNS else 1


def _exif_of_png(image: PngImageFile) -> Image.Exif:
    """The EXIF data of a PNG, whose ``getexif`` decodes the pixels to reach chunks after them."""
    assert image.fp is not None
    before = image.fp.tell()
    try:
        parts = [*_chunks_with_exif(image.fp, image.is_animated), (b"IDAT", b""), (b"IEND", b"")]
    finally:
        image.fp.seek(before)
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    ]
    with png_of(_PNG_SIGNATURE + b"".join(chunks)) as without_pixels:
        return Image.Image.getexif(without_pixels)


def _chunks_with_exif(file: IO[bytes], animated: bool) -> Iterator[tuple[bytes, bytes]]:
    """The header of a PNG and the chunks that may hold EXIF data, as far as Pillow reads an image."""
    file.seek(len(_PNG_SIGNATURE))
    in_pixels = False
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND" or not kind.isalnum() or (kind == b"fcTL" and animated and in_pixels):
            return
        in_pixels = in_pixels or kind in (b"IDAT", b"fdAT")
        if kind in _PNG_HEAD_AND_TEXTS:
            yield kind, file.read(length)
            file.seek(_PNG_CHECKSUM, os.SEEK_CUR)
        else:
            file.seek(length + _PNG_CHECKSUM, os.SEEK_CUR)


def _rgb(image: Image.Image, name: str, orientation: Orientation) -> Image.Image:
    image.load()
    turn = _turn(image) if orientation == "shown" else 1
    plain = _plain(image, name)
    if turn in _TURNS:
        plain = plain.transpose(_TURNS[turn])
    plain.info.clear()  # so that the orientation is not applied twice
    return plain


def _plain(image: Image.Image, name: str) -> Image.Image:
    """The image as RGB, in its stored orientation."""
    if image.mode.startswith("I"):
        greys = np.asarray(image)
        _require_range(greys, _GREY16, name)
        scaled = (greys.astype(np.uint32) * 255 + _GREY16 // 2) // _GREY16
    elif image.mode == "F":
        greys = np.asarray(image)
        _require_range(greys, 1, name)
        scaled = np.rint(greys * 255)
    else:
        return image.convert("RGB")
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _require_range(greys: NDArray[Any], white: int, name: str) -> None:
    if not (greys.min() >= 0 and greys.max() <= white):  # also false for NaN
        raise InputError(
            f"{name} has {greys.dtype} values from {greys.min():g} to {greys.max():g}; expected 0 to "
            f"{white}, so that it is known what is white; save it with 8 or 16 bits"
        )
