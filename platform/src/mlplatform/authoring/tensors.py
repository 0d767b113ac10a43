"""Inputs of a row that go into the tensors of a signature: places of words, and exact numbers."""

from mlplatform.model.tensors.categories import FIRST
from mlplatform.model.tensors.remainders import numbers, whole_numbers
from mlplatform.model.tensors.tokens import Tokens

__all__ = ["FIRST", "Tokens", "numbers", "whole_numbers"]
