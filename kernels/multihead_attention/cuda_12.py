"""The CUDA 12 runtime, for xformers beside a PyTorch that brings CUDA 13's."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


@lru_cache
def load_cuda_12_runtime() -> None:
    """Loads libcudart.so.12 from its wheel, where there is one; before xformers is imported.

    xformers 0.0.35 is linked against it, torch 2.11 has CUDA 13's, and xformers refuses every GPU unless its
    extension loads. Of the extension nothing else is used: its attention calls PyTorch's own kernels.
    """
    try:
        package = find_spec("nvidia.cuda_runtime")
    except ModuleNotFoundError:
        return
    for folder in (package and package.submodule_search_locations) or ():
        library = Path(folder, "lib", "libcudart.so.12")
        if library.is_file():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
