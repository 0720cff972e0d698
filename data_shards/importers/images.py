"""Are the images there, whole, and of the size that the annotations were made for?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from maris_fast.data_shards.importers.annotations import ImageRow
from maris_fast.data_shards.importers.problems import Problems
from maris_fast.errors import InputError

IMAGE_ROOTS = ("images/mscoco/images/train2014", "images/train2014")
THREADS = 4


def find_image_root(root: Path, named: Path | None = None, places: Sequence[str] = IMAGE_ROOTS) -> Path:
    """The folder of the images: ``named``, which may be relative to ``root``, else the first of ``places``.

    Raises:
        InputError: there is no such folder.
    """
    for place in places if named is None else (named,):
        if (root / place).is_dir():
            return root / place
    if named is not None:
        raise InputError(f"no folder {root / named}; --images names the folder that image paths start from")
    raise InputError(
        f"no images below {root}: they are looked for at {' and '.join(places)}; put the folder, or a "
        "symbolic link to it, there, or name it with --images"
    )


def check_images(
    image_root: Path,
    images: Sequence[ImageRow],
    problems: Problems,
    *,
    decode: bool,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Add every image that is missing, broken or of another size than annotated to ``problems``.

    Args:
        decode: read each file to its end; else only its header, which a cut file still has.
        progress: called with images done and images in all.
    """

    def check(image: ImageRow) -> tuple[str, str] | None:
        return _problem(image_root / image.file_name, image, decode)

    with ThreadPoolExecutor(THREADS) as pool:
        for done, problem in enumerate(pool.map(check, images), start=1):
            if problem is not None:
                problems.add(*problem)
            if progress is not None:
                progress(done, len(images))


def _problem(path: Path, annotated: ImageRow, decode: bool) -> tuple[str, str] | None:
    """Kind and detail, or None for a good image."""
    name = f"image {annotated.id}: {path}"
    try:
        with Image.open(path) as image:
            width, height = image.size  # raw pixels, as COCO annotated them: no EXIF rotation
            if decode:
                image.draft("L", (width // 8, height // 8))  # reads all bytes, computes an eighth
                image.load()
    except FileNotFoundError:
        return "missing images; copy them into the image folder", name
    except Exception as error:  # decoders raise OSError, SyntaxError and others on damaged files
        return "images that cannot be read to their end; copy them again", f"{name}: {error}"
    if (width, height) != (annotated.width, annotated.height):
        return (
            "images of another size than annotated (width x height); use COCO's original files",
            f"{name} is {width} x {height}, annotated {annotated.width} x {annotated.height}",
        )
    return None
