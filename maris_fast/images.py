"""Image files, so that whatever is wrong with one is said in one sentence.

EXIF orientation is not applied: COCO's masks are for the raw pixels.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from maris_fast.errors import InputError


def check_image(path: Path, size: tuple[int, int]) -> None:
    """Look at the file's head without decoding its pixels.

    Args:
        size: (height, width) that the image must have.

    Raises:
        InputError: no such file, not an image, or of another size.
    """
    with _opened(path, size):
        pass


def load_image(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """The decoded image, RGB.

    Args:
        size: (height, width) that the image must have; None: any.

    Raises:
        InputError: as ``check_image``, or the pixels cannot be decoded.
    """
    with _opened(path, size) as image:
        try:
            return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise
            raise InputError(f"{path} cannot be decoded: {error}; fetch the file again") from error


def _opened(path: Path, size: tuple[int, int] | None) -> Image.Image:
    try:
        image = Image.open(path)
    except FileNotFoundError as error:
        raise InputError(f"no image {path}; put the file there, or name the right folder") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise InputError(f"{path} is no readable image: {error}") from error
    if size is not None and (image.height, image.width) != size:
        found = f"{image.height} x {image.width}"
        image.close()
        raise InputError(
            f"{path} is {found} (height x width), annotated as {size[0]} x {size[1]}; "
            "the image folder does not belong to the annotations"
        )
    return image
