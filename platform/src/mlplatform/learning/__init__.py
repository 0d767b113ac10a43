"""How data becomes a version: features, training sets, fits, gates and the registry.

Packages from the ground up: `features` and `onnx`; `training_sets`; `skew`; `validation`;
`fairness` and `rankings`; `registry`; `search`; `training`. Imports `decisions`, `model` and
`runtime`.
"""
