"""Training: from a training set to a candidate, by fit, calibration, small model and bundle."""
