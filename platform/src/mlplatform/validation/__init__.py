"""Whether a candidate may serve: evidence from data and replays, and the gates that read it."""
