"""Trained models and data for others: the files of a repository at the Hugging Face Hub."""

from maris_fast.sharing.repository import Repository, write_repository

__all__ = ["Repository", "write_repository"]
