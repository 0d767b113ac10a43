"""From the offline table to a candidate: training sets, fits, calibration and the bundle."""
