"""Trained models for others: the files of a repository at the Hugging Face Hub."""

from maris_fast.sharing.model_folder import REPLACED, write_model_folder

__all__ = ["REPLACED", "write_model_folder"]
