"""What is kept beside the decision log, so that a pass reads only what is new in it."""
