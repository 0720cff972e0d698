"""Typed, validated settings of the encoders, the model and a training run."""

from maris_fast.config.encoders import RANDOM, CacheSettings, EncoderSettings, SamSettings, TextSettings
from maris_fast.config.loading import dump_settings, load_settings
from maris_fast.config.model import LossSettings, ModelSettings
from maris_fast.config.training import (
    DataSettings,
    EngineSettings,
    OptimiserSettings,
    RunSettings,
    ScheduleSettings,
    TrainingSettings,
)

__all__ = [
    "RANDOM",
    "CacheSettings",
    "DataSettings",
    "EncoderSettings",
    "EngineSettings",
    "LossSettings",
    "ModelSettings",
    "OptimiserSettings",
    "RunSettings",
    "SamSettings",
    "ScheduleSettings",
    "TextSettings",
    "TrainingSettings",
    "dump_settings",
    "load_settings",
]
