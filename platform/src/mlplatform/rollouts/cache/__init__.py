"""Files beside the decision log that hold what was counted of it, so that a pass reads only new
records."""
