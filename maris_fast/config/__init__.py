"""Typed, validated settings of the encoders, the model and a training run."""

from maris_fast.config.base import MOST_CHANNELS, MOST_PIXELS_A_SIDE, Seed
from maris_fast.config.encoders import (
    RANDOM,
    CacheSettings,
    EncoderSettings,
    FeatureDtype,
    SamSettings,
    TextSettings,
)
from maris_fast.config.loading import as_override, dump_settings, flat, is_override, load_settings
from maris_fast.config.model import READING, LossSettings, ModelSettings
from maris_fast.config.places import CachePlace, StoreAddress, cache_place
from maris_fast.config.training import (
    PRIVATE,
    DataSettings,
    EngineSettings,
    OptimiserSettings,
    ReadingSettings,
    RunSettings,
    ScheduleSettings,
    TrainingSettings,
    Verify,
)

__all__ = [
    "MOST_CHANNELS",
    "MOST_PIXELS_A_SIDE",
    "PRIVATE",
    "RANDOM",
    "READING",
    "CachePlace",
    "CacheSettings",
    "DataSettings",
    "EncoderSettings",
    "EngineSettings",
    "FeatureDtype",
    "LossSettings",
    "ModelSettings",
    "OptimiserSettings",
    "ReadingSettings",
    "RunSettings",
    "SamSettings",
    "ScheduleSettings",
    "Seed",
    "StoreAddress",
    "TextSettings",
    "TrainingSettings",
    "Verify",
    "as_override",
    "cache_place",
    "dump_settings",
    "flat",
    "is_override",
    "load_settings",
]
