"""Scores the messages of a topic through the gateway, and publishes results to another topic."""
