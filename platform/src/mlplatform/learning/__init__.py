"""How data becomes a version: features, training sets, fits, gates and the registry.

Packages from the ground up: `features`, `onnx`, `skew`, `registry`, `validation`, `search`,
`training`.
Imports `decisions`, `model` and `runtime`.
"""
