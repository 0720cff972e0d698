"""MARIS: feature enhancement, mutual-aware attention, mask decoder (eqs. 1-8 of the paper)."""

from maris_fast.model.maris import Maris

__all__ = ["Maris"]
