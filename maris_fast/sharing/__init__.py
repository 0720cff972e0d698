"""Sharing of trained models and data: the files of a repository on the Hugging Face Hub."""

from maris_fast.sharing.repository import Repository, write_repository

__all__ = ["Repository", "write_repository"]
