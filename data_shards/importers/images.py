"""Are the images there, whole, and of the size that the annotations were made for?"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from maris_fast.data_shards.importers.annotations import ImageRow
from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.options import ImportOptions
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


def image_faults(image_root: Path, images: Sequence[ImageRow], options: ImportOptions) -> dict[int, Fault]:
    """What is wrong with images that are missing, broken or of another size than annotated, by their id.

    Args:
        options: ``check_images``: read each file to its end; else only its header, which a cut file still
            has. ``progress`` is called with images done and images in all.
    """

    def check(image: ImageRow) -> Fault | None:
        return _fault(image_root / image.file_name, image, options.check_images)

    faults = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for done, (image, fault) in enumerate(zip(images, pool.map(check, images), strict=True), start=1):
            if fault is not None:
                faults[image.id] = fault
            if options.progress is not None:
                options.progress(done, len(images))
    return faults


def _fault(path: Path, annotated: ImageRow, decode: bool) -> Fault | None:
    """None for a good image."""
    name = f"image {annotated.id}: {path}"
    try:
        with Image.open(path) as image:
            width, height = image.size  # raw pixels, as COCO annotated them: no EXIF rotation
            if decode:
                image.draft("L", (width // 8, height // 8))  # reads all bytes, computes an eighth
                image.load()
    except FileNotFoundError:
        return Fault("missing images; copy them into the image folder", name)
    except Exception as error:  # decoders raise OSError, SyntaxError and others on damaged files
        return Fault("images that cannot be read to their end; copy them again", f"{name}: {error}")
    if (width, height) != (annotated.width, annotated.height):
        return Fault(
            "images of another size than annotated (width x height); use COCO's original files",
            f"{name} is {width} x {height}, annotated {annotated.width} x {annotated.height}",
        )
    return None
