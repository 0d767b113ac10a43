"""A model as data: model.yaml, feature views, inputs, the bundle, the profile and the routes.

Packages from the ground up: `features`, views and transforms that inputs come from, `tensors`, a
graph's inputs and outputs, and `weights`, files beside a graph; `windows`, real-time windows, and
`policies`, sections of model.yaml. The modules of this folder are above them. Imports `runtime`.
The models themselves are folders in `models/`.
"""
