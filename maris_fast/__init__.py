"""MARIS: referring image segmentation from frozen SAM and CLIP features, with fast and tested training.

The names in ``__all__`` are the public Python interface; the rest may change. Each name is imported on first
use, so that ``import maris_fast`` itself is fast and does not import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from maris_fast.system.nameless_user import name_the_user

if TYPE_CHECKING:
    from maris_fast.config import CacheSettings, TrainingSettings, load_settings
    from maris_fast.data_shards.cache.write import write_cache
    from maris_fast.data_shards.importers.formats import import_dataset
    from maris_fast.data_shards.importers.options import ImportOptions
    from maris_fast.data_shards.stream import CacheReader
    from maris_fast.errors import (
        ArgumentError,
        CheckpointError,
        ConfigError,
        InputError,
        MarisError,
        MemoryShortageError,
        TrainingError,
    )
    from maris_fast.evaluation.evaluate import evaluate
    from maris_fast.model import Maris
    from maris_fast.prediction import Predictor
    from maris_fast.weights import load_model

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "CacheReader",
    "CacheSettings",
    "CheckpointError",
    "ConfigError",
    "ImportOptions",
    "InputError",
    "Maris",
    "MarisError",
    "MemoryShortageError",
    "Predictor",
    "TrainingError",
    "TrainingSettings",
    "evaluate",
    "import_dataset",
    "load_model",
    "load_settings",
    "write_cache",
]

_MODULES = {
    "config": ("CacheSettings", "TrainingSettings", "load_settings"),
    "data_shards.cache.write": ("write_cache",),
    "data_shards.importers.formats": ("import_dataset",),
    "data_shards.importers.options": ("ImportOptions",),
    "data_shards.stream": ("CacheReader",),
    "errors": (
        "ArgumentError",
        "CheckpointError",
        "ConfigError",
        "InputError",
        "MarisError",
        "MemoryShortageError",
        "TrainingError",
    ),
    "evaluation.evaluate": ("evaluate",),
    "model": ("Maris",),
    "prediction": ("Predictor",),
    "weights": ("load_model",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(f"{__name__}.{module}"), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


name_the_user()
