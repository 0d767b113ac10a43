"""The way from a training set to a candidate: fit, calibration, small model and bundle."""
