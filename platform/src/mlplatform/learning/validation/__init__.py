"""Whether a candidate may serve: gates, and the replays and statistics that they read."""
