"""Reading images so that whatever is wrong with one is said in one sentence."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from maris_fast.errors import InputError


def open_image(path: Path) -> Image.Image:
    """The whole image, decoded, as RGB. EXIF orientation is not applied: COCO's masks are for the raw pixels.

    Raises:
        InputError: no such file, no image, or one that ends too early.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"no image {path}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image that can be read") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}; copy it again") from error
