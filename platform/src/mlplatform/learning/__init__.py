"""How data becomes a version: features, training sets, fits, gates and the registry.

Packages from the ground up: `features`, `onnx`, `validation`, `training`; `registry` stands by
itself. Imports `decisions`, `model` and `runtime`.
"""
