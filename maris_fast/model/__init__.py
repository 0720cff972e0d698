"""MARIS: feature enhancement, mutual-aware attention, mask decoder (eqs. 1-8 of the paper)."""

from maris_fast.model.maris import Maris
from maris_fast.model.parameters import ParameterCounts, parameter_counts
from maris_fast.model.segmentation import Segmentation

__all__ = ["Maris", "ParameterCounts", "Segmentation", "parameter_counts"]
