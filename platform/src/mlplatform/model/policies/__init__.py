"""Sections of model.yaml as types: what a model's team decides by numbers."""
