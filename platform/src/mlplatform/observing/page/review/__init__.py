"""The queue of decisions that wait for an analyst, and the form by which one answers."""
