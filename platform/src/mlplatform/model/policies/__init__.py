"""Sections of model.yaml as types: the numbers by which a model's team decides."""
