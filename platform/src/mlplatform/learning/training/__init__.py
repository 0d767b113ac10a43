"""From a training set to a candidate: the fit, calibration, the small model and the bundle."""
