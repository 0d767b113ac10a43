"""What a model is: model.yaml, feature views, inputs, the bundle, the profile and the routes, as
data.

Imports `runtime`. The models themselves are folders in `models/`.
"""
