"""Checkpoints of the generator."""

from __future__ import annotations

from genlock.generator.tensor_files import read_tensors, write_tensors

__all__ = ["read_tensors", "write_tensors"]
