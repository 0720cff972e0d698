"""Other ways to store and read feature caches, as contestants of ``bench/reading.py``.

Each writes the same arrays in its own format and yields them one image at a time. Those that map files copy
them into reused memory, as is done to build a batch; the others return memory of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""Arrays of an image, by name; each has the same shape in all images."""

AHEAD = 16
"""Images that two threads read ahead: two steps."""


@dataclass(frozen=True)
class Peer:
    """A way of reading.

    Attributes:
        name: as shown in the table.
        form: the format of its files; peers with the same format share them.
        images: reads the images ``order`` from a folder, yielding one item per image. Peers without random
            access read front to back.
    """

    name: str
    form: str
    images: Callable[[Path, Sequence[int]], Iterator[object]]


def arrays_of(cache: Path) -> Iterator[Arrays]:
    """The arrays of each image of a cache, read with stock webdataset."""
    for sample in _stock(cache, []):
        yield {
            name.removesuffix(".npy"): value
            for name, value in sample.items()
            if isinstance(value, np.ndarray)
        }


# Stock webdataset, on the shards that the reader reads


def _stock(folder: Path, _: Sequence[int]) -> Iterator[Any]:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = webdataset.WebDataset(
        urls, shardshuffle=False, workersplitter=webdataset.split_by_worker, empty_check=False
    )
    return iter(data.decode())


class _Stock(torch.utils.data.IterableDataset[Any]):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __iter__(self) -> Iterator[Any]:
        return _stock(self._folder, [])


def _in_workers(
    workers: int, data: Callable[[Path], Any], folder: Path, _: Sequence[int]
) -> Iterator[object]:
    return iter(torch.utils.data.DataLoader(data(folder), batch_size=None, num_workers=workers))


# One safetensors file per image, and one mapped .npy file per array of all images


def _write_safetensors(images: Iterable[Arrays], folder: Path) -> None:
    from safetensors.numpy import save_file

    for number, arrays in enumerate(images):
        save_file(
            {name: np.ascontiguousarray(value) for name, value in arrays.items()}, _file(folder, number)
        )


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


def _safetensors_image(folder: Path, number: int, buffer: torch.Tensor) -> int:
    from safetensors import safe_open

    done = 0
    with safe_open(_file(folder, number), "pt") as file:
        for name in file.keys():  # noqa: SIM118
            done = _copied(file.get_tensor(name), buffer, done)
    return done


def _write_npy(images: Iterable[Arrays], folder: Path) -> None:
    whole: dict[str, list[NDArray[Any]]] = {}
    for arrays in images:
        for name, value in arrays.items():
            whole.setdefault(name, []).append(value)
    for name, values in whole.items():
        np.save(folder / f"{name}.npy", np.stack(values))


def _npy_image(folder: Path, number: int, buffer: torch.Tensor) -> int:
    done = 0
    for path in folder.glob("*.npy"):
        done = _copied(torch.from_numpy(np.load(path, mmap_mode="c")[number]), buffer, done)
    return done


def _copied(tensor: torch.Tensor, buffer: torch.Tensor, at: int) -> int:
    content = tensor.reshape(-1).view(torch.uint8)
    buffer[at : at + len(content)].copy_(content)
    return at + len(content)


Image = Callable[[Path, int, torch.Tensor], int]
BUFFER_BYTES = 1 << 24
"""More than an image of ViT-H's size."""


@cache
def _buffers() -> torch.Tensor:
    return torch.empty(AHEAD + 1, BUFFER_BYTES, dtype=torch.uint8)


def _in_process(image: Image, folder: Path, order: Sequence[int]) -> Iterator[object]:
    buffers = _buffers()
    return (image(folder, number, buffers[at % len(buffers)]) for at, number in enumerate(order))


def _two_threads(image: Image, folder: Path, order: Sequence[int]) -> Iterator[object]:
    buffers = _buffers()
    with ThreadPoolExecutor(2) as threads:
        jobs = (
            threads.submit(image, folder, number, buffers[at % len(buffers)])
            for at, number in enumerate(order)
        )
        waiting = list(islice(jobs, AHEAD))
        while waiting:
            yield waiting.pop(0).result()
            waiting += islice(jobs, 1)


# Libraries for streaming data sets


def _write_litdata(images: Iterable[Arrays], folder: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=2**26)
    for number, arrays in enumerate(images):
        writer[number] = dict(arrays)
    writer.done()
    writer.merge()


def _litdata(folder: Path) -> Any:
    from litdata import StreamingDataset

    return StreamingDataset(str(folder), shuffle=False)


def litdata_at(url: str, copies: Path) -> Iterator[object]:
    """Images at an S3-compatible address; litdata reads chunks from copies in ``copies``, an empty folder."""
    from litdata import StreamingDataset
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # the default is https only
    login = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    yield from StreamingDataset(
        "s3://caches/features",
        cache_dir=str(copies),
        storage_options={"endpoint_url": url, **login},
        shuffle=False,
    )


def _litdata_workers(workers: int, folder: Path, _: Sequence[int]) -> Iterator[object]:
    from litdata import StreamingDataLoader

    yield from StreamingDataLoader(_litdata(folder), batch_size=1, num_workers=workers, collate_fn=_the_only)


def _the_only(batch: list[object]) -> object:
    return batch[0]


def _write_mosaic(images: Iterable[Arrays], folder: Path) -> None:
    from streaming import MDSWriter

    images = iter(images)
    first = next(images)
    with MDSWriter(out=str(folder), columns=dict.fromkeys(first, "ndarray"), size_limit=2**28) as writer:
        writer.write(dict(first))
        for arrays in images:
            writer.write(dict(arrays))


def _mosaic(folder: Path) -> Any:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    return StreamingDataset(local=str(folder), shuffle=False, batch_size=1)


def _alone(data: Callable[[Path], Any], folder: Path, _: Sequence[int]) -> Iterator[object]:
    yield from data(folder)  # only once: each `iter` of a litdata data set starts over


TAR = "webdataset"
WRITERS: dict[str, Callable[[Iterable[Arrays], Path], None]] = {
    "safetensors": _write_safetensors,
    "mapped .npy": _write_npy,
    "litdata": _write_litdata,
    "mosaicml-streaming": _write_mosaic,
}
STOCK = "stock webdataset, in process"
PEERS = (
    Peer(STOCK, TAR, _stock),
    Peer("stock webdataset, 1 DataLoader worker", TAR, partial(_in_workers, 1, _Stock)),
    Peer("stock webdataset, 2 DataLoader workers", TAR, partial(_in_workers, 2, _Stock)),
    Peer("safetensors, a file an image, in process", "safetensors", partial(_in_process, _safetensors_image)),
    Peer("safetensors, a file an image, 2 threads", "safetensors", partial(_two_threads, _safetensors_image)),
    Peer("mapped .npy, in process", "mapped .npy", partial(_in_process, _npy_image)),
    Peer("mapped .npy, 2 threads", "mapped .npy", partial(_two_threads, _npy_image)),
    Peer("litdata, in process", "litdata", partial(_alone, _litdata)),
    Peer("litdata, 2 DataLoader workers", "litdata", partial(_litdata_workers, 2)),
    Peer("mosaicml-streaming, in process", "mosaicml-streaming", partial(_alone, _mosaic)),
    Peer("mosaicml-streaming, 2 DataLoader workers", "mosaicml-streaming", partial(_in_workers, 2, _mosaic)),
)


def written(cache: Path, beside: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the cache in every available format: folders by format, and why others could not be written."""
    folders, reasons = {TAR: cache}, {}
    for form, write in WRITERS.items():
        folder = beside / form.replace(" ", "-")
        folder.mkdir(parents=True)
        try:
            write(arrays_of(cache), folder)
        except ImportError as error:
            reasons[form] = f"not installed: {error}"
        else:
            folders[form] = folder
    return folders, reasons
