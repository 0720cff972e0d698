"""An image file as its record describes it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from maris_fast.data_shards.records import ImageRecord
from maris_fast.errors import InputError


def check_image(path: Path, record: ImageRecord) -> None:
    """Look at the file's head without decoding its pixels.

    Raises:
        InputError: no such file, not an image, or of another size than annotated.
    """
    with _open(path, record):
        pass


def load_image(path: Path, record: ImageRecord) -> Image.Image:
    """The decoded image, RGB.

    Raises:
        InputError: as ``check_image``, or the pixels cannot be decoded.
    """
    with _open(path, record) as image:
        try:
            return image.convert("RGB")
        except OSError as error:
            raise InputError(
                f"{path} (image {record.image_id}) cannot be decoded: {error}; fetch the file again"
            ) from error


def _open(path: Path, record: ImageRecord) -> Image.Image:
    try:
        image = Image.open(path)
    except FileNotFoundError as error:
        raise InputError(
            f"no image {path} (image {record.image_id}); put the file there, or import again with the "
            "right image folder"
        ) from error
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} (image {record.image_id}) is no readable image: {error}") from error
    if (image.height, image.width) != (record.height, record.width):
        size = f"{image.height} x {image.width}"
        image.close()
        raise InputError(
            f"{path} is {size} (height x width), image {record.image_id} is annotated as "
            f"{record.height} x {record.width}; the image folder does not belong to the annotations"
        )
    return image
