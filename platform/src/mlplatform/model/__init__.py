"""What a model is: model.yaml, feature views, inputs, the bundle, the profile and the routes, as
data.

Packages: `tensors`, a graph's inputs and outputs; `windows`, real-time windows; `policies`,
sections of model.yaml; `training`, the days of folds. Imports `runtime`.
The models themselves are folders in `models/`.
"""
