"""Real-time windows: their SQL for training, their state for requests."""
